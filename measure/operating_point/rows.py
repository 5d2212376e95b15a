"""What the reports of sweep and tune share: points as JSON values, the model and the load, saving and showing.

In      measurements per setting.
Out     one JSON value per point: means with 95% intervals, batches, cost; the report's files and its last lines on the terminal.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from measure import statistics
from measure.operating_point import setting as serving_setting
from measure.operating_point.measurement import Load, Measurement
from measure.operating_point.setting import ServingSetting
from measure.record.recorder import PERCENTILES
from measure.report import build as report_build
from measure.report.schema import SCHEMA_VERSION
from planwright import console

INTERRUPTED = "stopped by Ctrl-C"
Value = dict[str, Any]


def point(setting: ServingSetting, found: Sequence[Measurement], build: Mapping[str, Any]) -> dict[str, Any]:
    """Return one point; zeros where nothing was measured."""
    batches = Counter[int]()
    for measured in found:
        batches.update(dict(measured.batches))
    rows = [{"size": size, "count": count} for size, count in sorted(batches.items())]
    return {
        "label": setting.label,
        "instances": setting.instances,
        "setting": setting.fields(),
        "throughput_per_s": statistics.interval([measured.throughput_per_s for measured in found] or [0.0]),
        **{f"{name}_us": _latency(found, name) for name in PERCENTILES},
        "mean_batch": _mean([measured.mean_batch for measured in found]) or 0.0,
        "batches": rows,
        "off_best": serving_setting.off_best(rows, serving_setting.best_batches(build)[0]),
        "failures": sum(measured.failures for measured in found),
        "wrong": sum(measured.wrong for measured in found),
        "errors": list(dict.fromkeys(error for measured in found for error in measured.errors)),
        "client_limited": sum(measured.client_limited for measured in found),
        "client_cpu_share": max((measured.client_cores for measured in found), default=0.0),
        **_costs(found),
    }


def _costs(found: Sequence[Measurement]) -> dict[str, float | None]:
    watts = _mean([measured.usage.gpu_w for measured in found])
    rate = _mean([measured.throughput_per_s for measured in found])
    return {
        "server_cores": _mean([measured.server_cores for measured in found]),
        "memory_bytes": max((m.usage.memory_bytes for m in found if m.usage.memory_bytes is not None), default=None),
        "gpu_w": watts,
        "gpu_memory_bytes": max((m.usage.gpu_memory_bytes for m in found if m.usage.gpu_memory_bytes is not None), default=None),
        "joules_per_inference": watts / rate if watts is not None and rate else None,
    }  # fmt: skip


def _latency(found: Sequence[Measurement], name: str) -> dict[str, object]:
    return statistics.interval([measured.latency_us.get(name, 0.0) for measured in found] or [0.0])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def save_report(args: argparse.Namespace, kind: str, server: Value, body: Value, show_tables: Callable[[Value], None]) -> Value:  # fmt: skip
    """Write report.json and report.html, print the tables and the verdict; returns the JSON value."""
    folder = report_build.new_folder(args.runs, f"{kind}-{args.model}")
    header = report_build.header(folder, server)
    report = {"schema": SCHEMA_VERSION, "kind": kind, **header, **body}
    report_build.save(folder, report)
    show_tables(report)
    for why in report["skipped"]:
        console.say(f"skipped: {why}")
    verdict = report["verdict"]
    console.say(f"verdict: {verdict['status']}" + "".join(f"\n  {reason}" for reason in verdict["reasons"]))
    console.say(f"report: {folder / 'report.html'}")
    if args.json:
        console.emit_json({**report, "report": str(folder / "report.html")})
    return report


def identity(build: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": build.get("model", ""), "version": str(build.get("version", "")), "weights": build.get("weights", "real"),
        "target": build.get("target", ""), "precision": build.get("precision", ""),
    }  # fmt: skip


def conditions(load: Load) -> dict[str, Any]:
    return {
        "protocol": load.protocol, "batch": load.batch, "users": load.users, "processes": load.processes,
        "duration_s": load.duration_s, "warmup_s": load.warmup_s,
    }  # fmt: skip


def skipped(found: Sequence[Measurement], build: Mapping[str, Any]) -> list[str]:
    why = serving_setting.best_batches(build)[1]
    first = [f"share of batches other than the profile's opt: {why}"] if why else []
    return [*first, *dict.fromkeys(reason for measured in found for reason in measured.usage.skipped)]


def costs_in_words(row: Mapping[str, Any]) -> str:
    """Return ``1.4 server cores, 0.6 client cores, 0.21 GiB``; what could not be measured is left out."""
    parts = [f"{row['client_cpu_share']:.2f} client cores"]
    if row["server_cores"] is not None:
        parts.insert(0, f"{row['server_cores']:.2f} server cores")
    if row["memory_bytes"] is not None:
        parts.append(f"{row['memory_bytes'] / 2**30:.2f} GiB")
    if row["gpu_memory_bytes"] is not None:
        parts.append(f"{row['gpu_memory_bytes'] / 2**30:.2f} GiB on the GPU")
    if row["joules_per_inference"] is not None:
        parts.append(f"{row['gpu_w']:.0f} W, {row['joules_per_inference']:.4f} J per inference")
    return ", ".join(parts)


def seconds_in_words(seconds: float) -> str:
    """Format a length of time.

    Example:
        >>> seconds_in_words(42), seconds_in_words(190)
        ('42 s', '3 min 10 s')
    """
    whole = max(0, round(seconds))
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"
