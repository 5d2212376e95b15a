"""``python -m builders bench``: engines, precisions and PyTorch side by side in one run.

In      models, batch sizes, streams, what of PyTorch to add.
Out     a table or JSON; every setting measured once per round, so that drift of the machine hits all alike.

Engines are TensorRT's where there is a GPU and ONNX Runtime's where there is none. PyTorch runs in a child process, because
it may live in another interpreter than TensorRT.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.diagnostics.bench_figures import Figures, Setting
from builders.diagnostics.layers_search import job_of, numbers, require
from builders.stage import Job
from builders.targets.choose import choose
from builders.targets.tensorrt import profiles
from planwright import console
from planwright.errors import EXIT_OK, Fault, SpecError, StageError

VARIANTS = ("eager", "compile")
ENGINES = ("tensorrt", "onnxruntime")
Measure = Callable[[Setting, float], Figures]


@dataclass(frozen=True)
class Subject:
    """One thing that computes."""

    model: str
    engine: str
    precision: str
    measure: Measure


def add_to(commands: Any) -> Any:
    """Add the command with its own flags; returns its parser."""
    bench = commands.add_parser("bench", help="how fast engines are by themselves, in the terms of trtexec")
    bench.add_argument("models", nargs="+", metavar="MODEL", help="models to compare, in one run")
    bench.add_argument("--target", choices=("auto", "tensorrt", "onnxruntime"), default="auto")
    bench.add_argument("--batch", default="1,8,32", help="batch sizes (default: %(default)s)")
    bench.add_argument("--streams", default="1,2", help="concurrent streams (default: %(default)s)")
    bench.add_argument("--no-graphs", action="store_true", help="without CUDA graphs")
    bench.add_argument("--seconds", type=float, default=2.0, help="per setting and round (default: %(default)s)")
    bench.add_argument(
        "--rounds", type=int, default=3, help="times that every setting is measured, in turn (default: %(default)s)"
    )
    bench.add_argument(
        "--torch", nargs="?", const=",".join(VARIANTS), default="", metavar="eager,compile", help="PyTorch beside them"
    )
    bench.add_argument("--torch-python", default=sys.executable, metavar="PYTHON", help="interpreter that has PyTorch")
    bench.set_defaults(main=run)
    return bench


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    batches, streams = (numbers(flag, text) for flag, text in (("--batch", args.batch), ("--streams", args.streams)))
    target, _ = choose(args.target)
    jobs = [job_of(args, name, target) for name in args.models]
    with ExitStack() as stack:
        subjects = [_engine(job) for job in jobs] + _torch(args, jobs, stack)
        cases = [(subject, Setting(b, s, not args.no_graphs)) for subject in subjects for b in batches for s in streams]
        found: list[list[Figures]] = [[] for _ in cases]
        for number in range(args.rounds):
            for index, (subject, setting) in enumerate(cases):
                console.say(f"round {number + 1}/{args.rounds}  {subject.model} {subject.engine} {setting}")
                found[index].append(subject.measure(setting, args.seconds))
    rows = [_row(*case, sorted(each, key=lambda f: f.samples_per_s)) for case, each in zip(cases, found, strict=True)]
    _show(args, jobs[0], rows)
    return EXIT_OK


def _engine(job: Job) -> Subject:
    path = require(job.compile_folder / job.target.filename, job)
    here = ", ".join(f"{name} {value}" for name, value in job.target.versions().items() if name in ENGINES)
    return Subject(job.model.name, here, job.model.precision, lambda *asked: measure_folder(job, path.parent, *asked))


def measure_folder(job: Job, folder: Path, setting: Setting, seconds: float) -> Figures:
    """Measure the engine in `folder`, of the job's model and target.

    Raises:
        StageError: stage 'engine': it cannot run this setting, or answers are not the same from run to run.
    """
    return (_plan if job.target.name == "tensorrt" else _session)(job, folder, setting, seconds)


def _session(job: Job, folder: Path, setting: Setting, seconds: float) -> Figures:
    from builders.diagnostics.bench_host import measure_engine

    engine = job.target.load(folder)
    opt = _opt(job)
    shapes = {tensor.name: (setting.batch, *opt[tensor.name][1:]) for tensor in engine.inputs}
    try:
        for tensor in engine.inputs:
            if tensor.datatype == "BYTES":
                raise _cannot(job, setting, f"input '{tensor.name}' is text, and random text would mean nothing")
            if tensor.shape[:1] not in ((-1,), (setting.batch,)):
                raise _cannot(job, setting, f"the engine declares {tensor}")
        return measure_engine(engine, shapes, setting, seconds=seconds)
    finally:
        engine.close()


def _cannot(job: Job, setting: Setting, why: str) -> StageError:
    return StageError("engine", Fault(f"{job.model.name} cannot run {setting}", why=why, fix="give its own --batch"))


def _plan(job: Job, folder: Path, setting: Setting, seconds: float) -> Figures:
    from builders.diagnostics.bench import measure
    from builders.targets.tensorrt.explain import explain_text
    from planwright.trt.plan import PlanError

    try:
        return measure(folder / job.target.filename, setting, seconds=seconds)
    except PlanError as error:
        command = f"python -m builders bench {job.model.name} --batch {job.model.batch.largest}"
        fault = explain_text(str(error), job.model.where, command)
        what = f"{job.model.name} cannot run {setting}: {fault.what}"
        raise StageError("engine", Fault(what, fault.where, fault.why, fault.fix, fault.check)) from None


def _opt(job: Job) -> dict[str, list[int]]:
    derived = profiles.from_samples(job.export_folder, job.model)
    return {name: bounds["opt"] for name, bounds in derived.items()}


def _torch(args: argparse.Namespace, jobs: list[Job], stack: ExitStack) -> list[Subject]:
    """Return one subject per source, variant and precision; models that share a source are one in PyTorch."""
    variants = [part for part in args.torch.split(",") if part]
    unknown = [part for part in variants if part not in VARIANTS]
    if unknown:
        raise SpecError(Fault(f"--torch is '{args.torch}'", fix=f"give some of {', '.join(VARIANTS)}"))
    if not variants:
        return []
    from builders.diagnostics.bench_torch import TorchBench

    subjects = []
    for job in {(job.model.source, str(job.model.options)): job for job in reversed(jobs)}.values():
        bench = TorchBench(job, args.torch_python, _opt(job))
        stack.callback(bench.close)
        subjects += [
            Subject(job.model.name, f"{bench.label} {variant}", precision, _torch_measure(bench, variant, precision))
            for variant in variants
            for precision in bench.precisions
        ]
    return subjects


def _torch_measure(bench: Any, variant: str, precision: str) -> Measure:
    def measure(setting: Setting, seconds: float) -> Figures:
        found: Figures = bench.measure(variant, precision, setting, seconds)
        return found

    return measure


def _row(subject: Subject, setting: Setting, figures: list[Figures]) -> dict[str, Any]:
    middle = figures[len(figures) // 2]
    return {
        "model": subject.model,
        "engine": subject.engine,
        "precision": subject.precision,
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


def _show(args: argparse.Namespace, job: Job, rows: list[dict[str, Any]]) -> None:
    columns = {
        "model": "model", "engine": "engine", "precision": "precision", "batch": "batch", "streams": "streams", "graph": "graph",
        "samples/s": "samples_per_s", "min - max": "range", "p50 ms": "p50_ms", "p99 ms": "p99_ms", "enqueue": "enqueue_ms",
        "H2D": "h2d_ms", "compute": "compute_ms", "D2H": "d2h_ms", "MiB": "gpu_memory_mib",
    }  # fmt: skip
    empty = (0, 0.0, "no")  # what the host's clock cannot tell apart
    shown = {title: key for title, key in columns.items() if any(row[key] not in empty for row in rows)}
    title = f"engines alone, fresh random inputs, host copies on, {job.target.key()}"
    console.table(title, list(shown), [[row[key] for key in shown.values()] for row in rows])
    if args.json:
        console.emit_json({"versions": job.target.versions(), "rows": rows})
