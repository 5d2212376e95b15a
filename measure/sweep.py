"""sweep: throughput and latency of each setting in a grid.

In      a published model; instances × max batch × queue delay × preferred sizes × CUDA graphs.
Out     a table, a report with plots, and per point whether it gains on the first.

Points are interleaved over the repeats and every other repeat runs backwards, so that a slow minute of the machine affects all of
them. The load is locust itself, so there is one way to load a model. A setting that the server refuses is reported in its row
and the sweep goes on; Ctrl-C and a lost server leave a report of what was measured before.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clients import published
from measure import statistics
from measure.operating_point import flags, rows
from measure.operating_point import setting as serving_setting
from measure.operating_point.measurement import Load, Measurement, interleaved, measure
from measure.operating_point.rows import INTERRUPTED, seconds_in_words
from measure.operating_point.server import ConfigurableModel, open_model, published_setting
from measure.operating_point.setting import ServingSetting
from measure.operating_point.usage import first_gpu
from measure.report.build import build_of
from measure.report.verdict import LOUD
from planwright import console
from planwright.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, Fault, PlanwrightError, SpecError, StageError

SHOWN = 4  # comparisons that the verdict repeats, where nothing gained
START_S = 3.0  # locust's own start and end, for the first estimate of the time left
Cell = Callable[[dict[str, Any]], str]


def add_command(commands: Any) -> None:
    parser = commands.add_parser("sweep", help="throughput and latency of each setting in a grid")
    parser.add_argument("model", metavar="MODEL")
    flags.add_sweep(parser)
    parser.set_defaults(main=main)


@dataclass
class SweepResult:
    points: dict[ServingSetting, list[Measurement]] = field(default_factory=dict)
    refused: dict[ServingSetting, str] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)
    stopped_by: str = ""

    @property
    def any(self) -> bool:
        return any(self.points.values())


def main(args: argparse.Namespace) -> int:
    flags.check_load(args)
    if not 1 <= args.users <= 4096:
        raise SpecError(Fault(f"invalid value for --users: {args.users}", fix="give a number from 1 to 4096"))
    args.repository = flags.repository(args)
    published.select(args.repository, [args.model])
    build = build_of(args.repository, args.model)
    load = Load(args.users, args.protocol, args.batch, args.duration_s, args.warmup_s, args.processes)
    _settings(args, published_setting(args.repository, args.model), build)
    result, problem = SweepResult(), None
    try:
        with (
            tempfile.TemporaryDirectory(prefix="planwright-sweep-") as scratch,
            open_model(args.repository, args.model, Path(scratch), args.server) as served,
        ):
            result.identity = served.identity
            result.points = {setting: [] for setting in _settings(args, served.published, build)}
            _measure(args, served, load, Path(scratch), result)
    except PlanwrightError as error:
        if not result.any:
            raise
        problem, result.stopped_by = error, result.stopped_by or error.faults[0].what
    if not result.any and result.stopped_by:
        raise KeyboardInterrupt
    body = _make_report(args, result, load, build)
    report = rows.save_report(args, "sweep", result.identity, body, _show_table)
    if problem is not None:
        raise problem
    if result.stopped_by == INTERRUPTED:
        return EXIT_INTERRUPTED
    return EXIT_FAILED if report["verdict"]["status"] == "fail" else EXIT_OK


def _settings(args: argparse.Namespace, base: ServingSetting, build: dict[str, Any]) -> list[ServingSetting]:
    axes = (args.instances, args.max_batch, args.queue_delay_us, args.preferred, args.cuda_graphs)
    settings = serving_setting.grid(base, *axes)
    serving_setting.check(settings, base, build, args.batch)
    return settings


def _measure(args: argparse.Namespace, served: ConfigurableModel, load: Load, scratch: Path, result: SweepResult) -> None:  # fmt: skip
    """Measure every point in every repeat; a setting that the server refuses is noted, any other error ends the sweep."""
    settings, gpu, began_s = list(result.points), first_gpu(), time.monotonic()
    total = len(settings) * args.repeats
    first_s = total * (load.duration_s + load.warmup_s + START_S)
    counts = f"{console.many(len(settings), 'point')} × {console.many(args.repeats, 'repeat')}"
    console.say(f"{counts}, about {seconds_in_words(first_s)}")
    try:
        for done, setting in enumerate(interleaved(settings, args.repeats), 1):
            if setting not in result.refused and _apply(served, setting, result):
                result.points[setting].append(measure(served, load, args.repository, scratch, gpu))
            left_s = (time.monotonic() - began_s) / done * (total - done)
            console.say(f"{done}/{total}  {_progress(result, setting)}; {seconds_in_words(left_s)} left")
    except KeyboardInterrupt:
        result.stopped_by = INTERRUPTED


def _apply(served: ConfigurableModel, setting: ServingSetting, result: SweepResult) -> bool:
    try:
        served.set(setting)
    except StageError as error:
        result.refused[setting] = " ".join(filter(None, (error.faults[0].what, error.faults[0].why)))
        return False
    return True


def _progress(result: SweepResult, setting: ServingSetting) -> str:
    if setting in result.refused:
        return f"{setting.label}: {result.refused[setting]}"
    last = result.points[setting][-1]
    return f"{setting.label}: {last.throughput_per_s:.0f} infer/sec, p99 {last.latency_us.get('p99', 0.0) / 1000:.2f} ms"  # fmt: skip


def _make_report(args: argparse.Namespace, result: SweepResult, load: Load, build: dict[str, Any]) -> dict[str, Any]:
    every = [measurement for group in result.points.values() for measurement in group]
    points = [
        {**rows.point(setting, group, build), "refused": result.refused.get(setting, "")}
        for setting, group in result.points.items()
        if group or setting in result.refused
    ]
    base = next(point for point in points if not point["refused"])
    for point in points:
        sides = base["throughput_per_s"]["values"], point["throughput_per_s"]["values"]
        compared = point is not base and not point["refused"]
        point["comparison"] = statistics.compare(*sides) if compared else ""
        point["word"] = statistics.verdict(*sides) if compared else ""
    return {
        **rows.identity(build), **rows.conditions(load), "repeats": args.repeats, "points": points,
        "base": base["label"], "best_batches": serving_setting.best_batches(build)[0], "skipped": rows.skipped(every, build),
        "verdict": _verdict(points, base, result.stopped_by), "server": {}, "models": [],
    }  # fmt: skip


def _verdict(points: list[dict[str, Any]], base: dict[str, Any], stopped_by: str) -> dict[str, Any]:
    bad = [
        f"{p['label']}: {p['failures']} failed requests, {p['wrong']} wrong answers" + (f" ({p['errors'][0]})" if p["errors"] else "")
        for p in points
        if p["failures"] or p["errors"]
    ]  # fmt: skip
    bad += [f"{p['label']}: {p['refused']}" for p in points if p["refused"]]
    others, unknown = [p for p in points if p["word"]], [p["label"] for p in points if p["word"] == statistics.UNKNOWN]
    none = others and not unknown and not any(p["word"] == statistics.MORE for p in others)
    reasons = [f"no gain: no setting is clearly faster than {base['label']}"] if none else []
    if unknown:
        sides = f"{', '.join(unknown)} compare with {base['label']}"
        reasons.append(f"cannot say how {sides}: use more --repeats or a longer --duration-s")
    shown = others if len(others) <= SHOWN else [p for p in others if p["word"] != statistics.SAME]
    reasons += [f"{p['label']} against {base['label']}: {p['comparison']} infer/sec" for p in shown]
    limited = [p["label"] for p in points if p["client_limited"]]
    if limited:
        reasons.insert(0, f"{LOUD} at {', '.join(limited)}: read their rates as a lower bound")
    inconclusive = limited or unknown or stopped_by
    status = "fail" if bad or stopped_by not in ("", INTERRUPTED) else "inconclusive" if inconclusive else "pass"
    return {"status": status, "reasons": [*filter(None, [stopped_by]), *bad, *reasons]}


def _show_table(report: dict[str, Any]) -> None:
    title = f"{report['model']}, {report['users']} users over {report['protocol']}"
    optional: list[tuple[str, Cell]] = [("off opt", _off)] if report["best_batches"] else []
    if any(point["joules_per_inference"] is not None for point in report["points"]):
        optional.append(("W", lambda p: _number(p["gpu_w"], 0)))
        optional.append(("J/infer", lambda p: _number(p["joules_per_inference"], 4)))
    columns = ["setting", "infer/sec (95%)", "p50 ms", "p99 ms", "batch", *(name for name, _ in optional), "failed",
               "server, client cores", "GiB", f"against {report['base']}"]  # fmt: skip
    console.table(title, columns, [_cells(point, [read for _, read in optional]) for point in report["points"]])


def _cells(p: dict[str, Any], optional: list[Cell]) -> list[object]:
    rate, memory = p["throughput_per_s"], p["memory_bytes"]
    return [
        p["label"], f"{rate['mean']:.0f} ± {rate['half_width']:.0f}", f"{p['p50_us']['mean'] / 1000:.2f}",
        f"{p['p99_us']['mean'] / 1000:.2f}", f"{p['mean_batch']:.2f}", *(read(p) for read in optional), p["failures"],
        f"{_number(p['server_cores'], 2)}, {p['client_cpu_share']:.2f}", _number(memory and memory / 2**30, 2),
        p["refused"] or p["comparison"],
    ]  # fmt: skip


def _off(point: dict[str, Any]) -> str:
    return "–" if point["off_best"] is None else f"{point['off_best']:.0%}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
