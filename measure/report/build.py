"""report.json first, then report.html from it and from nothing else.

In      what a run or a sweep measured.
Out     runs/<id>/report.json (its form: report.schema.json) and a self-contained runs/<id>/report.html.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from clients import published
from measure.record.recorder import Track, bars, curve, up_to
from measure.record.server_counters import Counted
from measure.report import plots
from measure.report.verdict import passed, stability, verdict
from measure.workload.settings import Settings
from planwright import config_pbtxt
from planwright.errors import Fault, SpecError
from planwright.files import read_json, write_atomic, write_json

SCHEMA_VERSION = 1
PERCENTILES = (50, 90, 95, 99, 99.9)


@dataclass(frozen=True)
class Measured:
    """What a run hands over; see `Run`. `chosen` is every model and transport that was to be covered."""

    tracks: dict[tuple[str, str], Track]
    chosen: list[tuple[str, str]]
    duration_s: float
    window_s: float
    users: int
    counted: Counted
    identity: dict[str, Any]
    client: dict[str, Any]
    load: dict[str, Any]
    stopped_by: str


def write_run(settings: Settings, measured: Measured) -> tuple[Path, dict[str, Any]]:
    """Write both files, the page only where it is wanted; returns their folder and the JSON value."""
    models = [_model(settings, measured, *key, track) for key, track in sorted(measured.tracks.items())]
    folder = new_folder(settings.runs, "-".join(dict.fromkeys(row["model"] for row in models)) or "empty")
    report = {
        "schema": SCHEMA_VERSION,
        "kind": "run",
        **header(folder, measured.identity),
        "duration_s": round(measured.duration_s, 3),
        "window_s": round(measured.window_s, 3),
        "warmup_s": settings.warmup_s,
        "users": measured.users,
        "load": measured.load,
        "models": models,
        "not_requested": [list(pair) for pair in measured.chosen if pair not in measured.tracks],
        "server": measured.counted.models,
        "server_note": measured.counted.note,
        "client": measured.client,
    }
    report["verdict"] = verdict(
        report, stopped_by=measured.stopped_by, lost_server=measured.counted.lost, steady=settings.steady
    )
    save(folder, report, page=settings.page)
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
    """Return what every report begins with."""
    return {
        "id": folder.name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "environment": {
            "cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "system": platform.platform(), "python": platform.python_version(),
            "server": identity, "versions": {name: found for name in ("locust", "tritonclient", "numpy", "grpcio", "gevent") if (found := _version(name))},
        },
    }  # fmt: skip


def save(folder: Path, report: dict[str, Any], *, page: bool = True) -> None:
    """Write report.json and make report.html from it."""
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
    if not isinstance(report, dict) or report.get("schema") != SCHEMA_VERSION:
        why = "it is missing, cut short, or of another version"
        raise SpecError(Fault("there is no report.json to read", str(path), why, "name a folder below runs/"))
    write_atomic(path.with_name("report.html"), render(report).encode())
    return path.with_name("report.html")


def render(report: dict[str, Any]) -> str:
    """Return the HTML of a report; everything that came from outside is escaped."""
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["ms"] = lambda us: f"{us / 1000:.2f}" if us < 100_000 else f"{us / 1000:.0f}"
    environment.filters["passed"] = passed
    environment.filters["count"] = lambda value: f"{value:,.0f}"
    draw = {"run": plots.run, "sweep": plots.sweep, "tune": plots.tune}[report["kind"]]
    return environment.get_template("report.html.j2").render(
        report=report, plots=draw(report), raw=json.dumps(report, indent=2)
    )


def _model(settings: Settings, measured: Measured, model: str, protocol: str, track: Track) -> dict[str, Any]:
    build = _build(settings.repository / model, measured.counted.versions.get(model, ""))
    answered_by = measured.counted.models.get(model, {}).get("versions", [])  # both, where one took over from another
    slo = slo_of(settings.repository / model, build)
    answered = track.latencies.get_total_count()
    within = up_to(track.latencies, slo["p99_ms"] * 1000) if slo else answered
    row = {
        "model": model,
        "protocol": protocol,
        "version": ", ".join(answered_by) or str(build.get("version", "")),
        "batch": settings.batch,
        "samples_per_request": round(track.samples / track.in_window, 4) if track.in_window else None,
        "target": build.get("target", ""),
        "precision": build.get("precision", ""),
        "weights": build.get("weights", "real"),
        "slo": slo,
        "requests": track.requests,
        "unanswered": track.sent - track.requests - track.cancels,
        "cancelled": track.cancels,
        "measured": track.measured,
        "failures": track.failures,
        "checked": track.checked,
        "wrong": track.wrong,
        "throughput_per_s": round(track.samples / measured.window_s, 3),
        "goodput_per_s": round(track.samples / measured.window_s * within / max(answered, 1), 3),
        "latency_us": latencies(track.latencies),
        "service_us": latencies(track.service),
        "histogram": bars(track.latencies),
        "percentiles": [list(point) for point in curve(track.latencies)] if answered else [],
        "series": track.series.as_rows(),
        "errors": [{"text": text, "count": count} for text, count in track.errors.most_common()],
    }
    row["stability"] = stability(row["series"], settings.warmup_s, settings.warmup_s + measured.window_s)
    return row


def latencies(histogram: Any) -> dict[str, float]:
    """Return the usual figures in µs; zeros where nothing was answered."""
    if not histogram.get_total_count():
        return {**{f"p{p:g}": 0.0 for p in PERCENTILES}, "mean": 0.0, "min": 0.0, "max": 0.0}
    found = {f"p{p:g}": float(histogram.get_value_at_percentile(p)) for p in PERCENTILES}
    return {
        **found,
        "mean": round(histogram.get_mean_value(), 1),
        "min": float(histogram.get_min_value()),
        "max": float(histogram.get_max_value()),
    }


def _build(folder: Path, served: str) -> dict[str, Any]:
    """Return build.json of the version that is served, or of the one that config.pbtxt serves where that is not known."""
    found = read_json(folder / served / "build.json") if served else None
    if isinstance(found, dict):
        return found
    version = published.served(folder.parent, folder.name)
    return version.build if version else {}


def slo_of(folder: Path, build: Mapping[str, Any]) -> dict[str, float]:
    """Return the SLO of config.pbtxt, which is newer than build.json when only the SLO changed."""
    config = config_pbtxt.read(folder)
    if config is None:
        return dict(build.get("slo", {}))
    limit_ms = config_pbtxt.slo_p99_ms(config)
    return {} if limit_ms is None else {"p99_ms": limit_ms}


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
