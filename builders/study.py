"""The commands that look into engines and graphs: bench, layers, search.

In      their part of the command line.
Out     a table or JSON, an exit code.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from builders.stage import Job
from builders.target_choice import choose
from builders.targets import get_target
from planwright import console
from planwright.errors import EXIT_OK, Fault, SpecError, StageError, did_you_mean
from planwright.files import HashCache, read_json
from planwright.spec import Target
from planwright.spec_load import load_spec


def add_to(commands: Any) -> None:
    """Add the commands to the parser of ``python -m builders``."""
    bench = commands.add_parser("bench", help="how fast engines are by themselves, in the terms of trtexec")
    bench.add_argument("models", nargs="+", metavar="MODEL", help="models to compare, in one run")
    bench.add_argument("--batch", default="1,8,32", help="batch sizes (default: %(default)s)")
    bench.add_argument("--streams", default="1,2", help="concurrent streams (default: %(default)s)")
    bench.add_argument("--no-graphs", action="store_true", help="without CUDA graphs")
    bench.add_argument("--seconds", type=float, default=2.0, help="per setting and round (default: %(default)s)")
    bench.add_argument(
        "--rounds", type=int, default=3, help="times that every setting is measured, in turn (default: %(default)s)"
    )
    layers = commands.add_parser("layers", help="what an engine really computes: layers, precision, time")
    layers.add_argument("model", metavar="MODEL")
    search = commands.add_parser(
        "search", help="which nodes must stay high for INT8 to meet its gate, and at what cost"
    )
    search.add_argument("model", metavar="MODEL")
    for command in (bench, layers, search):
        command.add_argument("--config", type=Path, default=Path("config.yaml"))
        command.add_argument(
            "--build", type=Path, help="where intermediate files are (default: build beside the config)"
        )
        console.add_json_flag(command)


def bench(args: argparse.Namespace) -> int:
    """Measure engines side by side; every setting once per round, so that drift hits all alike."""
    from builders.bench import Setting, measure

    batches, streams = (_numbers(flag, text) for flag, text in (("--batch", args.batch), ("--streams", args.streams)))
    jobs = [_job(args, name, "tensorrt") for name in args.models]
    for job in jobs:
        _require(job.compile_folder / job.target.filename, job)
    cases = [(job, Setting(b, s, not args.no_graphs)) for job in jobs for b in batches for s in streams]
    found: dict[int, list[Any]] = {}
    for _ in range(args.rounds):
        for index, (job, setting) in enumerate(cases):
            found.setdefault(index, []).append(_measured(job, measure, setting, args.seconds))
    rows = [
        _bench_row(job, setting, sorted(found[i], key=lambda f: f.samples_per_s))
        for i, (job, setting) in enumerate(cases)
    ]
    columns = [
        "model",
        "precision",
        "batch",
        "streams",
        "graph",
        "samples/s",
        "min - max",
        "p50 ms",
        "p99 ms",
        "enqueue",
    ]
    console.table(
        f"engines alone, host copies on, fresh random inputs, {jobs[0].target.key()}",
        [*columns, "H2D", "compute", "D2H", "MiB"],
        [list(row.values())[:14] for row in rows],
    )
    if args.json:
        console.emit_json({"versions": jobs[0].target.versions(), "rows": rows})
    return EXIT_OK


def _measured(job: Job, measure: Any, setting: Any, seconds: float) -> Any:
    from builders.trt.explain import explain_text
    from planwright.trt.plan import PlanError

    try:
        return measure(job.compile_folder / job.target.filename, setting, seconds=seconds)
    except PlanError as error:
        command = f"python -m builders bench {job.model.name} --batch {job.model.batch.bounds[2]}"
        fault = explain_text(str(error), job.model.where, command)
        what = f"{job.model.name} cannot run {setting}: {fault.what}"
        raise StageError("engine", Fault(what, fault.where, fault.why, fault.fix, fault.check)) from None


def _bench_row(job: Job, setting: Any, figures: list[Any]) -> dict[str, Any]:
    middle = figures[len(figures) // 2]
    return {
        "model": job.model.name,
        "precision": job.model.precision,
        "batch": setting.batch,
        "streams": setting.streams,
        "graph": "yes" if middle.graphs else "no",
        "samples_per_s": middle.samples_per_s,
        "range": f"{figures[0].samples_per_s:.0f} - {figures[-1].samples_per_s:.0f}",
        "p50_ms": middle.latency_median_ms,
        "p99_ms": middle.latency_p99_ms,
        "enqueue_ms": middle.enqueue_ms,
        "h2d_ms": middle.h2d_ms,
        "compute_ms": middle.compute_ms,
        "d2h_ms": middle.d2h_ms,
        "gpu_memory_mib": middle.gpu_memory_mib,
        "rounds": [each.as_dict() for each in figures],
    }


def layers(args: argparse.Namespace) -> int:
    """Print the layer table of a model's engine."""
    from builders.trt.layers import realised

    job = _job(args, args.model, "tensorrt")
    table = read_json(_require(job.compile_folder / "layers.json", job))
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
    from builders.keep_high import search as find

    job = _job(args, args.model, choose("auto", needs_engine=False)[0])
    _require(job.export_folder / "model.onnx", job)
    found = find(job, console.say)
    console.say(
        f"cosine {found.before:.6f} with all nodes in INT8, {found.after:.6f} with {len(found.keep_high)} kept high"
    )
    console.say(f"cost: {found.cost:.1%} of the weights stay high")
    console.say("in config.yaml:\n    keep_high: [" + ", ".join(f'"{name}"' for name in found.keep_high) + "]")
    if args.json:
        console.emit_json(vars(found))
    return EXIT_OK


def _job(args: argparse.Namespace, name: str, target: Target) -> Job:
    spec = load_spec(args.config, target, select=[name])
    if name not in spec.names():
        raise SpecError(Fault(f"there is no model '{name}'", str(args.config), fix=did_you_mean(name, spec.names())))
    model = next(model for model in spec.models if model.name == name)
    build = args.build or spec.root / "build"
    return Job(
        model,
        spec.root,
        build,
        spec.root / "model_repository",
        get_target(target, spec.server),
        spec.server,
        HashCache(build / "hashes.json"),
    )


def _require(path: Path, job: Job) -> Path:
    if not path.exists():
        fix = f"python builders/build_all.py {job.model.name} --target {job.target.name}"
        raise StageError("engine", Fault(f"{job.model.name} is not built", str(path), "the file is not there", fix))
    return path


def _numbers(flag: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(Fault(f"{flag} is '{text}'", fix="give whole numbers, such as 1,8,32")) from None
