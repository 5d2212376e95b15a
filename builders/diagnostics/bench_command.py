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
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from builders.diagnostics.bench_engine import measure_folder, opt_shapes
from builders.diagnostics.jobs import job_of, numbers, require, target_of
from builders.diagnostics.lanes import BenchSetting, Figures
from builders.stage import Job
from planwright import console
from planwright.errors import EXIT_OK, Fault, SpecError

VARIANTS = ("eager", "compile")
ENGINES = ("tensorrt", "onnxruntime")
Measure = Callable[[BenchSetting, float], Figures]


@dataclass(frozen=True)
class Subject:
    model: str
    engine: str
    precision: str
    measure: Measure


def add_to(commands: Any) -> Any:
    """Add the command with its own flags; returns its parser."""
    bench = commands.add_parser("bench", help="how fast engines are by themselves, in the terms of trtexec")
    add = bench.add_argument
    add("models", nargs="+", metavar="MODEL", help="models to compare, in one run")
    add("--target", choices=("auto", "tensorrt", "onnxruntime"), default="auto")
    add("--batch", default="1,8,32", help="batch sizes (default: %(default)s)")
    add("--streams", default="1,2", help="concurrent streams (default: %(default)s)")
    add("--no-graphs", action="store_true", help="without CUDA graphs")
    add("--seconds", type=float, default=2.0, help="per setting and round (default: %(default)s)")
    add("--rounds", type=int, default=3, help="times that every setting is measured, in turn (default: %(default)s)")
    add(
        "--torch",
        nargs="?",
        const=",".join(VARIANTS),
        default="",
        metavar=",".join(VARIANTS),
        help="also measure PyTorch",
    )
    add("--torch-python", default=sys.executable, metavar="PYTHON", help="interpreter that has PyTorch")
    bench.set_defaults(main=run)
    return bench


def run(args: argparse.Namespace) -> int:
    batches, streams = (numbers(flag, text) for flag, text in (("--batch", args.batch), ("--streams", args.streams)))
    if args.rounds < 1 or not args.seconds > 0:
        what = f"invalid value for --rounds or --seconds: {args.rounds}, {args.seconds:g}"
        raise SpecError(Fault(what, fix="give at least 1 round and more than 0 seconds"))
    variants = _variants(args.torch)
    target = target_of("bench", args.target, fix="use --target onnxruntime, or a machine with a GPU and TensorRT")
    jobs = [job_of(args, name, target) for name in args.models]
    with ExitStack() as stack:
        subjects = [_engine(job) for job in jobs] + _torch(args, variants, jobs, stack)
        settings = [BenchSetting(batch, count, not args.no_graphs) for batch in batches for count in streams]
        cases = [(subject, setting) for subject in subjects for setting in settings]
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
    measure = partial(measure_folder, job, path.parent)
    return Subject(job.model.name, here, job.model.precision, measure)


def _variants(text: str) -> list[str]:
    variants = [part for part in text.split(",") if part]
    unknown = [part for part in variants if part not in VARIANTS]
    if unknown:
        raise SpecError(Fault(f"invalid value for --torch: '{text}'", fix=f"use one or more of {', '.join(VARIANTS)}"))
    return variants


def _torch(args: argparse.Namespace, variants: list[str], jobs: list[Job], stack: ExitStack) -> list[Subject]:
    """Return one subject per source, variant and precision; models that share a source are one in PyTorch."""
    if not variants:
        return []
    from builders.diagnostics.bench_torch import TorchBench

    subjects = []
    for job in {(job.model.source, str(job.model.options)): job for job in reversed(jobs)}.values():
        bench = TorchBench(job, args.torch_python, opt_shapes(job))
        stack.callback(bench.close)
        subjects += [
            Subject(job.model.name, f"{bench.label} {variant}", precision, partial(bench.measure, variant, precision))
            for variant in variants
            for precision in bench.precisions
        ]
    return subjects


def _row(subject: Subject, setting: BenchSetting, figures: list[Figures]) -> dict[str, Any]:
    middle = figures[len(figures) // 2]
    return {
        "model": subject.model, "engine": subject.engine, "precision": subject.precision,
        "batch": setting.batch, "streams": setting.streams, "graph": "yes" if middle.graphs else "no",
        "samples_per_s": middle.samples_per_s,
        "range": f"{figures[0].samples_per_s:.0f} - {figures[-1].samples_per_s:.0f}",
        "p50_ms": middle.latency_median_ms, "p99_ms": middle.latency_p99_ms, "enqueue_ms": middle.enqueue_ms,
        "h2d_ms": middle.h2d_ms, "compute_ms": middle.compute_ms, "d2h_ms": middle.d2h_ms,
        "gpu_memory_mib": middle.gpu_memory_mib, "rounds": [asdict(each) for each in figures],
    }  # fmt: skip


def _show(args: argparse.Namespace, job: Job, rows: list[dict[str, Any]]) -> None:
    columns = {
        "model": "model", "engine": "engine", "precision": "precision", "batch": "batch", "streams": "streams", "graph": "graph",
        "samples/s": "samples_per_s", "min - max": "range", "p50 ms": "p50_ms", "p99 ms": "p99_ms", "enqueue": "enqueue_ms",
        "H2D": "h2d_ms", "compute": "compute_ms", "D2H": "d2h_ms", "MiB": "gpu_memory_mib",
    }  # fmt: skip
    empty = (0, 0.0, "no")  # not measurable with the host's clock
    shown = {title: key for title, key in columns.items() if any(row[key] not in empty for row in rows)}
    title = f"engines alone, fresh random inputs, host copies on, {job.target.key()}"
    console.table(title, list(shown), [[row[key] for key in shown.values()] for row in rows])
    if args.json:
        console.emit_json({"versions": job.target.versions(), "rows": rows})
