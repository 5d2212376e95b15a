"""``python -m builders layers`` and ``search``: what an engine computes, and which nodes INT8 must leave in FP32.

In      their part of the command line.
Out     a table or JSON, an exit code.
"""

from __future__ import annotations

import argparse
from typing import Any

from builders.diagnostics import jobs
from planwright import console
from planwright.errors import EXIT_OK
from planwright.files import read_json


def add_to(commands: Any, *others: Any) -> None:
    """Add the commands to the parser of ``python -m builders``, and to these and `others` the flags they share."""
    layers = commands.add_parser("layers", help="what an engine really computes: layers, precision, time")
    layers.add_argument("model", metavar="MODEL")
    text = "which nodes INT8 must leave in FP32 to meet its accuracy gate, and what that costs"
    search = commands.add_parser("search", help=text)
    search.add_argument("model", metavar="MODEL")
    text = "also build engines here: do they meet the gate with that list, and what does it cost in speed"
    search.add_argument("--engine", action="store_true", help=text)
    layers.set_defaults(main=_layers)
    search.set_defaults(main=_search)
    for command in (*others, layers, search):
        jobs.add_flags(command)


def _layers(args: argparse.Namespace) -> int:
    from builders.targets.tensorrt.layers import realised

    job = jobs.job_of(args, args.model, "tensorrt")
    fix = "run it on the GPU machine that built the engine, which is where the layers were timed"
    jobs.target_of("layers", "tensorrt", fix=fix)
    table = read_json(jobs.require(job.compile_folder / "layers.json", job))
    found = realised(table, job.model.precision, job.model.keep_fp32)
    rows = sorted(table, key=lambda row: -row["ms"])
    console.table(
        f"{args.model}: {found.time_ms:.3f} ms at the profile's opt; share of time by precision {found.by_precision}",
        ["layer", "kind", "precision", "ms", "tactic"],
        [(r["name"][:60], r["kind"], r["precision"], f"{r['ms']:.4f}", r["tactic"][:60]) for r in rows],
    )
    if args.json:
        console.emit_json({"realised": vars(found), "layers": rows})
    return EXIT_OK


def _search(args: argparse.Namespace) -> int:
    """Find the nodes to keep in FP32 and print them as they go into config.yaml."""
    from builders.diagnostics.sensitivity import search as find

    target = jobs.target_of("search", "auto", fix="install the tensorrt of the server's image")
    job = jobs.job_of(args, args.model, target)
    jobs.require(job.export_folder / "model.onnx", job)
    jobs.require_calibration(job)
    found = find(job, console.say)
    keep_fp32 = found.keep_fp32
    kept = f"{found.after:.6f} with {len(keep_fp32)} kept in FP32"
    console.say(f"cosine {found.before:.6f} with all nodes in INT8, {kept}")
    console.say(f"cost: {found.cost:.1%} of the weights stay in FP32")
    report = vars(found) | {"keep_high": keep_fp32}  # the former name, for one more release
    if args.engine:
        from builders.diagnostics.sensitivity import confirm

        held = confirm(job, found, console.say)
        keep_fp32, report = held.keep_fp32, {**report, "engine": vars(held)}
        change = held.after_per_s / held.before_per_s - 1
        speeds = f"{held.before_per_s:.0f} samples/s all INT8, {held.after_per_s:.0f} with {len(keep_fp32)} in FP32"
        console.say(f"{job.target.key()}, batch {held.batch}: {speeds} ({change:+.1%})")
    console.say("in config.yaml:\n    keep_fp32: [" + ", ".join(f'"{name}"' for name in keep_fp32) + "]")
    if args.json:
        console.emit_json(report)
    return EXIT_OK
