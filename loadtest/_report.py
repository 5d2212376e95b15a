"""report.json first, then report.html from it and from nothing else.

In      what a run or a sweep measured.
Out     runs/<id>/report.json (its form: report.schema.json) and a self-contained runs/<id>/report.html.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from clients import published
from loadtest import _plots
from loadtest._recorder import Track, bars, curve
from loadtest._settings import Settings
from planwright.errors import Fault, SpecError
from planwright.files import read_json, write_atomic, write_json

SCHEMA_VERSION = 1
PERCENTILES = (50, 90, 95, 99, 99.9)
ENOUGH_FOR_P99 = 100  # below this a 99th percentile is one sample
BUSY = 0.9  # share of a core from which the client itself may be what is measured


@dataclass(frozen=True)
class Measured:
    """What a run hands over; see `_run.Run`."""

    tracks: dict[tuple[str, str], Track]
    started_s: float
    duration_s: float
    users: int
    server: dict[str, Any]
    identity: dict[str, Any]
    cpu_s: float
    lost_server: bool
    stopped_by: str


def write_run(settings: Settings, measured: Measured) -> tuple[Path, dict[str, Any]]:
    """Write both files; returns their folder and the JSON value."""
    models = [_model(settings, measured, *key, track) for key, track in sorted(measured.tracks.items())]
    folder = new_folder(settings.runs, "-".join(dict.fromkeys(row["model"] for row in models)) or "empty")
    report = {
        "schema": SCHEMA_VERSION,
        "kind": "run",
        **header(folder, measured.identity),
        "duration_s": round(measured.duration_s, 3),
        "warmup_s": settings.warmup_s,
        "users": measured.users,
        "models": models,
        "server": measured.server,
        "client": {
            "cpu_s": round(measured.cpu_s, 3),
            "cpu_share": round(measured.cpu_s / max(measured.duration_s, 1e-9), 4),
        },
    }
    report["verdict"] = _verdict(report, measured)
    save(folder, report)
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


def save(folder: Path, report: dict[str, Any]) -> None:
    """Write report.json and make report.html from it."""
    write_json(folder / "report.json", report)
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

    folder = Path(__file__).parent / "_templates"
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["ms"] = lambda us: f"{us / 1000:.2f}" if us < 100_000 else f"{us / 1000:.0f}"
    environment.filters["count"] = lambda value: f"{value:,.0f}"
    plots = _plots.sweep(report) if report["kind"] == "sweep" else _plots.run(report)
    return environment.get_template("report.html.j2").render(
        report=report, plots=plots, raw=json.dumps(report, indent=2)
    )


def _model(settings: Settings, measured: Measured, model: str, protocol: str, track: Track) -> dict[str, Any]:
    build = _build(settings.repository / model)
    window_s = max(measured.duration_s - settings.warmup_s, 1e-9)
    answered = track.latencies.get_total_count()
    return {
        "model": model,
        "protocol": protocol,
        "version": str(build.get("version", "")),
        "batch": settings.batch,
        "target": build.get("target", ""),
        "precision": build.get("precision", ""),
        "weights": build.get("weights", "real"),
        "slo": _slo(settings.repository / model, build),
        "requests": track.requests,
        "measured": track.measured,
        "failures": track.failures,
        "checked": track.checked,
        "wrong": track.wrong,
        "throughput_per_s": round(answered * settings.batch / window_s, 3),
        "latency_us": latencies(track.latencies),
        "histogram": bars(track.latencies),
        "percentiles": [list(point) for point in curve(track.latencies)] if answered else [],
        "series": [_second(second, row, track.failed_seconds[second]) for second, row in sorted(track.seconds.items())],
        "errors": [{"text": text, "count": count} for text, count in track.errors.most_common()],
    }


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


def _second(second: int, row: Counter[int], failed: int) -> dict[str, float]:
    ordered = sorted(row.items())
    return {
        "t_s": second,
        "answers": sum(row.values()),
        "failures": failed,
        "p50_us": _share(ordered, 0.5),
        "p99_us": _share(ordered, 0.99),
    }


def _share(ordered: list[tuple[int, int]], share: float) -> float:
    need, seen = share * sum(count for _, count in ordered), 0
    for value, count in ordered:
        seen += count
        if seen >= need:
            return float(value)
    return 0.0


def _build(folder: Path) -> dict[str, Any]:
    found = sorted(folder.glob("*/build.json"), key=lambda path: int(path.parent.name))
    return published.version(folder.parent, folder.name, found[-1].parent.name).build if found else {}


def _slo(folder: Path, build: dict[str, Any]) -> dict[str, float]:
    """Return the SLO of config.pbtxt, which is newer than build.json when only the SLO changed."""
    import re

    path = folder / "config.pbtxt"
    text = path.read_text() if path.is_file() else ""
    match = re.search(r'key: "planwright_slo_p99_ms"\s*value \{\s*string_value: "([\d.]+)"', text)
    return {"p99_ms": float(match[1])} if match else ({} if text else dict(build.get("slo", {})))


def _verdict(report: dict[str, Any], measured: Measured) -> dict[str, Any]:
    """Say pass, fail or inconclusive, and why."""
    bad, doubts = [], []
    if measured.stopped_by:
        bad.append(measured.stopped_by)
    if measured.lost_server:
        bad.append("the server did not answer at the end of the run")
    for row in report["models"]:
        name, p99_ms = f"{row['model']} over {row['protocol']}", row["latency_us"]["p99"] / 1000
        limit_ms = row["slo"].get("p99_ms")
        if row["wrong"]:
            bad.append(f"{name}: {row['wrong']} of {row['checked']} checked answers are wrong")
        if row["failures"] > row["wrong"]:
            bad.append(f"{name}: {row['failures'] - row['wrong']} of {row['requests']} requests failed")
        if limit_ms is not None and row["measured"] and p99_ms > limit_ms:
            bad.append(f"{name}: p99 is {p99_ms:.2f} ms, the SLO is {limit_ms:g} ms")
        if row["measured"] < ENOUGH_FOR_P99:
            doubts.append(f"{name}: {row['measured']} requests after the warm-up are too few for a 99th percentile")
    if not report["models"]:
        doubts.append("nothing was measured")
    share = report["client"]["cpu_share"]
    if share > BUSY:
        doubts.append(
            f"THE CLIENT MAY BE THE LIMIT: it used {share:.0%} of a core; give locust --processes, or read the rates as a lower bound"
        )
    status = "fail" if bad else "inconclusive" if doubts else "pass"
    return {"status": status, "reasons": [*bad, *doubts]}


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
