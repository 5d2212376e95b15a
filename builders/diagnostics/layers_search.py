"""The commands that look into engines and graphs: layers, search; and what bench shares with them.

In      their part of the command line.
Out     a table or JSON, an exit code.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from builders.stage import Job
from builders.targets import get_target
from builders.targets.choose import choose
from planwright import console
from planwright.config.load import load_spec
from planwright.config.spec import Target
from planwright.errors import EXIT_OK, Fault, SpecError, StageError, did_you_mean
from planwright.files import HashCache, read_json
from planwright.repository_folder import repository_folder


def add_to(commands: Any, *others: Any) -> None:
    """Add the commands to the parser of ``python -m builders``, and to these and `others` the flags they share."""
    layers = commands.add_parser("layers", help="what an engine really computes: layers, precision, time")
    layers.add_argument("model", metavar="MODEL")
    search = commands.add_parser(
        "search", help="which nodes must stay high for INT8 to meet its gate, and at what cost"
    )
    search.add_argument("model", metavar="MODEL")
    search.add_argument(
        "--engine",
        action="store_true",
        help="also build engines here: does the list hold on them, and what does it cost in speed",
    )
    for command in (*others, layers, search):
        command.add_argument("--config", type=Path, default=Path("config.yaml"))
        command.add_argument(
            "--build", type=Path, help="where intermediate files are (default: build beside the config)"
        )
        console.add_json_flag(command)


def layers(args: argparse.Namespace) -> int:
    """Print the layer table of a model's engine."""
    from builders.targets.tensorrt.layers import realised

    job = job_of(args, args.model, "tensorrt")
    table = read_json(require(job.compile_folder / "layers.json", job))
    found = realised(table, job.model.precision, job.model.keep_high)
    rows = sorted(table, key=lambda row: -row["ms"])
    console.table(
        f"{args.model}: {found.time_ms:.3f} ms at the profile's opt; share of time by precision {found.by_precision}",
        ["layer", "kind", "precision", "ms", "tactic"],
        [(r["name"][:60], r["kind"], r["precision"], f"{r['ms']:.4f}", r["tactic"][:60]) for r in rows],
    )
    if args.json:
        console.emit_json({"realised": vars(found), "layers": rows})
    return EXIT_OK


def search(args: argparse.Namespace) -> int:
    """Find the nodes to keep high and print them as they go into config.yaml."""
    from builders.diagnostics.sensitivity import search as find

    job = job_of(args, args.model, choose("auto", needs_engine=args.engine)[0])
    require(job.export_folder / "model.onnx", job)
    found = find(job, console.say)
    console.say(
        f"cosine {found.before:.6f} with all nodes in INT8, {found.after:.6f} with {len(found.keep_high)} kept high"
    )
    console.say(f"cost: {found.cost:.1%} of the weights stay high")
    keep_high, report = found.keep_high, vars(found)
    if args.engine:
        from builders.diagnostics.sensitivity_engine import confirm

        held = confirm(job, found, console.say)
        keep_high, report = held.keep_high, {**report, "engine": vars(held)}
        change = held.after_per_s / held.before_per_s - 1
        speeds = f"{held.before_per_s:.0f} samples/s all INT8, {held.after_per_s:.0f} with {len(keep_high)} kept high"
        console.say(f"{job.target.key()}, batch {held.batch}: {speeds} ({change:+.1%})")
    console.say("in config.yaml:\n    keep_high: [" + ", ".join(f'"{name}"' for name in keep_high) + "]")
    if args.json:
        console.emit_json(report)
    return EXIT_OK


def job_of(args: argparse.Namespace, name: str, target: Target) -> Job:
    """Return the job of one model; SpecError where there is no such model."""
    spec = load_spec(args.config, target, select=[name])
    if name not in spec.names():
        raise SpecError(Fault(f"there is no model '{name}'", str(args.config), fix=did_you_mean(name, spec.names())))
    model = next(model for model in spec.models if model.name == name)
    build = args.build or spec.root / "build"
    return Job(
        model,
        spec.root,
        build,
        repository_folder(config=args.config),
        get_target(target, spec.server),
        spec.server,
        HashCache(build / "hashes.json"),
    )


def require(path: Path, job: Job) -> Path:
    """Return `path`; StageError where the model is not built that far."""
    if not path.exists():
        fix = job.model.build_command("--target", job.target.name)
        raise StageError("engine", Fault(f"{job.model.name} is not built", str(path), "the file is not there", fix))
    return path


def numbers(flag: str, text: str) -> list[int]:
    """Return the numbers of a flag such as ``1,8,32``; SpecError where it holds others."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(Fault(f"{flag} is '{text}'", fix="give whole numbers, such as 1,8,32")) from None
