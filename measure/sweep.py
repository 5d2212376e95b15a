"""sweep: throughput and latency of each setting in a grid.

In      a published model; instances × max batch × queue delay × preferred sizes × CUDA graphs.
Out     a table, a report with plots, and per point whether it gains on the first.

Points are interleaved over the repeats and every other repeat runs backwards, so that a slow minute of the machine hits all of
them. The load is locust itself, so there is one way to load a model. A setting that the server refuses is told in its row
and the rest goes on; Ctrl-C and a server that is lost leave a report of what was measured before.
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
from measure.operating_point import setting as point_setting
from measure.operating_point.measurement import Load, Measured, measure
from measure.operating_point.rows import seconds_in_words
from measure.operating_point.server import Bench, bench, published_setting
from measure.operating_point.setting import Setting
from measure.operating_point.usage import Gpu, first_gpu
from measure.report import build as report_build
from measure.report.verdict import LOUD
from planwright import console
from planwright.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, Fault, PlanwrightError, SpecError, StageError

STOPPED = "stopped by Ctrl-C"
SHOWN = 4  # comparisons that the verdict repeats, where nothing gained
START_S = 3.0  # locust's own start and end, for the first estimate of the time left


Cell = Callable[[dict[str, Any]], str]


@dataclass
class Found:
    """What was measured so far."""

    points: dict[Setting, list[Measured]] = field(default_factory=dict)
    refused: dict[Setting, str] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)
    stopped_by: str = ""

    @property
    def any(self) -> bool:
        """Say whether there is anything to report."""
        return any(self.points.values())


def main(args: argparse.Namespace) -> int:
    """Run the sweep; returns the exit code."""
    args.repository = flags.repository(args)
    published.select(args.repository, [args.model])
    version = published.served(args.repository, args.model)
    build = version.build if version else {}
    load = Load(args.users, args.protocol, args.batch, args.duration_s, args.warmup_s, args.processes)
    _settings(args, published_setting(args.repository, args.model), build)
    found, problem = Found(), None
    try:
        with tempfile.TemporaryDirectory(prefix="planwright-sweep-") as name:
            scratch = Path(name)
            with bench(args.repository, args.model, scratch, args.server) as served:
                found.identity = served.identity
                _measure(args, served, _settings(args, served.published, build), load, scratch, found)
    except PlanwrightError as error:
        if not found.any:
            raise
        problem, found.stopped_by = error, found.stopped_by or error.faults[0].what
    if not found.any and found.stopped_by:
        raise KeyboardInterrupt
    code = _finish(args, found, load, build)
    if problem is not None:
        raise problem
    return code


def _settings(args: argparse.Namespace, base: Setting, build: dict[str, Any]) -> list[Setting]:
    """Return the grid, checked."""
    flags.check_load(args)
    if not 1 <= args.users <= 4096:
        raise SpecError(Fault(f"--users {args.users}", fix="give a number from 1 to 4096"))
    settings = point_setting.grid(
        base, args.instances, args.max_batch, args.queue_delay_us, args.preferred, args.cuda_graphs
    )
    point_setting.check(settings, base, build, args.batch)
    return settings


def _measure(args: argparse.Namespace, served: Bench, settings: list[Setting], load: Load, scratch: Path, found: Found) -> None:  # fmt: skip
    found.points = {setting: [] for setting in settings}
    gpu, began_s, done, total = first_gpu(), time.monotonic(), 0, len(settings) * args.repeats
    first_s = total * (load.duration_s + load.warmup_s + START_S)
    console.say(
        f"{console.many(len(settings), 'point')} × {console.many(args.repeats, 'repeat')}, about {seconds_in_words(first_s)}"
    )
    try:
        for repeat in range(args.repeats):
            for setting in settings if repeat % 2 == 0 else reversed(settings):
                done += 1
                if setting not in found.refused:
                    _one(args, served, setting, load, scratch, found, gpu)
                left_s = (time.monotonic() - began_s) / done * (total - done)
                console.say(f"{done}/{total}  {_progress(found, setting)}; {seconds_in_words(left_s)} left")
    except KeyboardInterrupt:
        found.stopped_by = STOPPED


def _one(args: argparse.Namespace, served: Bench, setting: Setting, load: Load, scratch: Path, found: Found, gpu: Gpu | None) -> None:  # fmt: skip
    """Measure one point once; a refused setting is noted, anything else that goes wrong ends the sweep."""
    try:
        served.set(setting)
    except StageError as error:
        found.refused[setting] = " ".join(filter(None, (error.faults[0].what, error.faults[0].why)))
        return
    found.points[setting].append(measure(served, load, args.repository, scratch, gpu))


def _progress(found: Found, setting: Setting) -> str:
    if setting in found.refused:
        return f"{setting.label}: {found.refused[setting]}"
    last = found.points[setting][-1]
    return f"{setting.label}: {last.throughput_per_s:.0f} infer/sec, p99 {last.latency_us.get('p99', 0.0) / 1000:.2f} ms"  # fmt: skip


def _finish(args: argparse.Namespace, found: Found, load: Load, build: dict[str, Any]) -> int:
    folder = report_build.new_folder(args.runs, f"sweep-{args.model}")
    report = {
        "schema": report_build.SCHEMA_VERSION, "kind": "sweep", **report_build.header(folder, found.identity),
        **_make_report(args, found, load, build),
    }  # fmt: skip
    report_build.save(folder, report)
    _show(report, folder)
    if args.json:
        console.emit_json({**report, "report": str(folder / "report.html")})
    if found.stopped_by == STOPPED:
        return EXIT_INTERRUPTED
    return EXIT_FAILED if report["verdict"]["status"] == "fail" else EXIT_OK


def _make_report(args: argparse.Namespace, found: Found, load: Load, build: dict[str, Any]) -> dict[str, Any]:
    every = [measured for group in found.points.values() for measured in group]
    points = [
        {**rows.point(setting, group, build), "refused": found.refused.get(setting, "")}
        for setting, group in found.points.items()
        if group or setting in found.refused
    ]
    base = next(point for point in points if not point["refused"])
    for point in points:
        values = point["throughput_per_s"]["values"]
        same = point is base or point["refused"]
        sides = base["throughput_per_s"]["values"], values
        point["comparison"], point["word"] = (
            ("", "") if same else (statistics.compare(*sides), statistics.verdict(*sides))
        )
    return {
        **rows.identity(build), **rows.conditions(load), "repeats": args.repeats, "points": points,
        "base": base["label"], "best_batches": point_setting.best_batches(build)[0], "skipped": rows.skipped(every, build),
        "verdict": _verdict(points, base, found.stopped_by), "server": {}, "models": [],
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
    reasons = [f"no gain: no setting is surely faster than {base['label']}"] if none else []
    if unknown:
        labels = ", ".join(unknown)
        reasons.append(
            f"cannot say how {labels} compare with {base['label']}: give more --repeats, or a longer --duration-s"
        )
    shown = others if len(others) <= SHOWN else [p for p in others if p["word"] != statistics.SAME]
    reasons += [f"{p['label']} against {base['label']}: {p['comparison']} infer/sec" for p in shown]
    limited = [p["label"] for p in points if p["client_limited"]]
    if limited:
        reasons.insert(0, f"{LOUD} at {', '.join(limited)}: read their rates as a lower bound")
    doubtful = limited or unknown or stopped_by
    status = "fail" if bad or stopped_by not in ("", STOPPED) else "inconclusive" if doubtful else "pass"
    return {"status": status, "reasons": [*filter(None, [stopped_by]), *bad, *reasons]}


def _show(report: dict[str, Any], folder: Path) -> None:
    title = f"{report['model']}, {report['users']} users over {report['protocol']}"
    optional: list[tuple[str, Cell]] = [("off opt", _off)] if report["best_batches"] else []
    if any(point["joules_per_inference"] is not None for point in report["points"]):
        optional += [
            ("W", lambda p: _number(p["gpu_w"], 0)),
            ("J/infer", lambda p: _number(p["joules_per_inference"], 4)),
        ]
    columns = ["setting", "infer/sec (95%)", "p50 ms", "p99 ms", "batch", *(name for name, _ in optional), "failed",
               "server, client cores", "GiB", f"against {report['base']}"]  # fmt: skip
    console.table(title, columns, [_cells(point, [read for _, read in optional]) for point in report["points"]])
    for why in report["skipped"]:
        console.say(f"skipped: {why}")
    verdict = report["verdict"]
    console.say(f"verdict: {verdict['status']}" + "".join(f"\n  {reason}" for reason in verdict["reasons"]))
    console.say(f"report: {folder / 'report.html'}")


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
