"""report.json first, then report.html from it and from nothing else.

In      what a run or a sweep measured.
Out     runs/<id>/report.json (its form: report.schema.json) and a self-contained runs/<id>/report.html.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from clients import published
from measure.record.process_stats import LoadRecord
from measure.record.recorder import Track, bars, curve, up_to
from measure.record.server_statistics import Counted
from measure.report import plots, schema
from measure.report.schema import LatencyFigures, Lateness, LoadFigures, ModelFigures, RunReport, Second
from measure.report.verdict import passed, stability, verdict
from measure.workload.settings import Settings
from planwright import config_pbtxt
from planwright.decimals import exact, scaled
from planwright.errors import Fault, SpecError
from planwright.files import read_json, write_atomic, write_json


@dataclass(frozen=True)
class Collected:
    """What a run hands over.

    Attributes:
        tracks: Model and transport → what happened.
        chosen: Every model and transport that was to be covered.
        processes: What all processes of the client counted of their own part.
        identity: The server's name and version.
        stopped_by: Why the run ended early; empty where it did not.
    """

    tracks: dict[tuple[str, str], Track]
    chosen: list[tuple[str, str]]
    duration_s: float
    window_s: float
    users: int
    processes: LoadRecord
    counted: Counted
    identity: dict[str, str]
    stopped_by: str


def write_run(settings: Settings, collected: Collected) -> tuple[Path, RunReport]:
    """Write both files, the page only where it is wanted; returns their folder and the report."""
    models = [_model(settings, collected, *key, track) for key, track in sorted(collected.tracks.items())]
    folder = new_folder(settings.runs, "-".join(dict.fromkeys(row.model for row in models)) or "empty")
    counted = collected.counted
    report = RunReport(
        **header(folder, collected.identity),
        duration_s=round(collected.duration_s, 3),
        window_s=round(collected.window_s, 3),
        warmup_s=settings.test.warmup_s,
        users=collected.users,
        load=_load(settings, collected),
        models=models,
        not_requested=[pair for pair in collected.chosen if pair not in collected.tracks],
        server=counted.models,
        server_note=counted.note,
        client=_client(collected.processes, automatic=settings.test.check is None),
    )
    found = verdict(report, stopped_by=collected.stopped_by, lost_server=counted.lost, steady=settings.steady)
    report = report.model_copy(update={"verdict": found})
    save(folder, report.model_dump(mode="json"), page=settings.page)
    return folder, report


def new_folder(runs: Path, name: str) -> Path:
    """Return a fresh folder ``<UTC time>-<name>``; never one that exists."""
    stem = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{name}"
    for attempt in range(1000):
        folder = runs / (stem if not attempt else f"{stem}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(stem)


def header(folder: Path, identity: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": folder.name,
        "created": utc_now(),
        "environment": {
            "cpu": processor(), "cores": len(os.sched_getaffinity(0)), "system": platform.platform(), "python": platform.python_version(),
            "server": identity, "versions": installed(("locust", "tritonclient", "numpy", "grpcio", "gevent")),
        },
    }  # fmt: skip


def save(folder: Path, report: dict[str, Any], *, page: bool = True) -> None:
    write_json(folder / "report.json", report)
    if page:
        write_atomic(folder / "report.html", render(report).encode())


def remake(folder: Path) -> Path:
    """Make report.html again from report.json.

    Raises:
        SpecError: There is no readable report.json (exit 2).
    """
    path = folder / "report.json" if folder.is_dir() else folder
    report = read_json(path)
    if not isinstance(report, dict) or report.get("schema") != schema.SCHEMA_VERSION:
        why = "it is missing, cut short, or of another version"
        raise SpecError(Fault("there is no report.json to read", str(path), why, "name a folder below runs/"))
    write_atomic(path.with_name("report.html"), render(report).encode())
    return path.with_name("report.html")


def render(report: dict[str, Any]) -> str:
    environment = templates()
    environment.filters["ms"] = lambda us: f"{us / 1000:.2f}" if us < 100_000 else f"{us / 1000:.0f}"
    environment.filters["count"] = lambda value: f"{value:,.0f}"
    run = RunReport.model_validate(report) if report["kind"] == "run" else None
    drawn, shown = plots.DRAW[report["kind"]](run or report), passed(run) if run else ""
    page = environment.get_template("report.html.j2")
    return str(page.render(report=report, plots=drawn, passed=shown, raw=json.dumps(report, indent=2)))


def templates() -> Any:
    """Return the jinja2 environment of all pages; everything that came from outside is escaped."""
    from jinja2 import Environment, FileSystemLoader

    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["exact"] = exact
    return environment


def _load(settings: Settings, collected: Collected) -> LoadFigures:
    record, test = collected.processes, settings.test
    span_s, asked_per_s = collected.window_s + test.warmup_s, 0.0
    if settings.rate is not None:
        span_s = min(span_s, settings.rate.length_s)
        asked_per_s = settings.rate.total(span_s) / max(span_s, 1e-9)
    return LoadFigures(
        scenario=settings.scenario, arrivals=test.kind, rate=test.rate if settings.rate else "", asked_per_s=round(asked_per_s, 3),
        offered_per_s=round(record.offered_per_s, 3), due=record.due, waited=record.waited, unsent=record.unsent,
        late_us=Lateness.of(record.late), wait_s=test.wait_s, profile=test.users or "", weights=dict(settings.models),
    )  # fmt: skip


def _client(record: LoadRecord, *, automatic: bool) -> schema.ClientFigures:
    share, low, high = (round(figure, 5) for figure in record.cost.share())
    return schema.ClientFigures(
        cpu_s=round(record.cpu_s, 3), cpu_share=round(record.busiest, 4), processes=record.processes, loop_lag_us=Lateness.of(record.lag),
        checking=schema.Checking(count=record.cost.count, share=share, low=low, high=high, automatic=automatic),
    )  # fmt: skip


def _model(settings: Settings, collected: Collected, model: str, transport: str, track: Track) -> ModelFigures:
    folder = settings.repository / model
    build = _build(folder, collected.counted.versions.get(model, ""))
    answered_by = collected.counted.models.get(model, {}).get("versions", [])  # both, where one took over from another
    slo = slo_of(folder, build)
    answered = track.latencies.get_total_count()
    within = up_to(track.latencies, scaled(slo["p99_ms"], "1000")) if slo else answered
    throughput_per_s = track.samples / collected.window_s
    series = [Second.model_validate(each) for each in track.series.as_rows()]
    return ModelFigures.model_validate({
        "model": model,
        "protocol": transport,
        "version": ", ".join(answered_by) or str(build.get("version", "")),
        "batch": settings.batch,
        "samples_per_request": round(track.samples / track.in_window, 4) if track.in_window else None,
        "target": str(build.get("target", "")),
        "precision": str(build.get("precision", "")),
        "weights": str(build.get("weights", "real")),
        "slo": slo,
        "requests": track.requests,
        "unanswered": max(track.sent - track.requests - track.cancels, 0),
        "cancelled": track.cancels,
        "measured": track.measured,
        "failures": track.failures,
        "checked": track.checked,
        "wrong": track.wrong,
        "throughput_per_s": round(throughput_per_s, 3),
        "goodput_per_s": round(throughput_per_s * within / max(answered, 1), 3),
        "latency_us": LatencyFigures.of(track.latencies),
        "service_us": LatencyFigures.of(track.service),
        "histogram": bars(track.latencies),
        "percentiles": list(curve(track.latencies)) if answered else [],
        "series": series,
        "errors": [{"text": text, "count": count} for text, count in track.errors.most_common()],
        "stability": stability(series, settings.test.warmup_s, settings.test.warmup_s + collected.window_s),
    })  # fmt: skip


def _build(folder: Path, served: str) -> dict[str, Any]:
    """Return build.json of the version that is served, or of the one that config.pbtxt serves where that is not known."""
    found = read_json(folder / served / "build.json") if served else None
    return found if isinstance(found, dict) else build_of(folder.parent, folder.name)


def build_of(repository: Path, model: str) -> dict[str, Any]:
    """Return build.json of the newest version that config.pbtxt serves; empty where there is none."""
    newest = published.served(repository, model)
    return newest.build if newest else {}


def slo_of(folder: Path, build: Mapping[str, Any]) -> dict[str, float]:
    """Return the SLO of config.pbtxt, which is newer than build.json when only the SLO changed."""
    config = config_pbtxt.read(folder)
    if config is None:
        return dict(build.get("slo", {}))
    limit_ms = config_pbtxt.slo_p99_ms(config)
    return {} if limit_ms is None else {"p99_ms": limit_ms}


def utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Return name → version of those of the packages that are installed."""
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
