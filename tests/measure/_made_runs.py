"""Synthetic run reports with the noise of real ones: correlated seconds, an occasional stall."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from measure.report import records
from measure.report.records import Record
from measure.report.schema import SCHEMA_VERSION

Numbers = np.ndarray[Any, np.dtype[np.float64]]
SHARES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9}
WARMUP_S = 1


def report(
    seed: int,
    *,
    seconds: int = 40,
    median_us: float = 30_000,
    users: int = 8,
    alike: float = 0.5,
    scatter: float = 0.04,
    stalls: float = 0.02,
    **changes: Any,
) -> dict[str, Any]:
    """Return report.json's value for a closed loop; `changes` go into its one row.

    Latencies are log-normal about a level that wanders from second to second: `alike` of it stays, `scatter` is its width.
    """  # fmt: skip
    rng = np.random.default_rng(seed)
    level, spans, all_us = rng.normal() * scatter, [], []
    for second in range(seconds + WARMUP_S):
        level = alike * level + math.sqrt(1 - alike**2) * scatter * rng.normal()
        middle = math.log(median_us) + level
        count = rng.poisson(users * 1e6 / math.exp(middle + 0.08))
        us = np.maximum(np.round(np.exp(middle + 0.4 * rng.normal(size=count))), 1.0)
        if rng.random() < stalls:
            us[:users] += rng.uniform(20_000, 200_000)
        spans.append(_span(second, us))
        all_us.append(us)
    measured = np.concatenate(all_us[WARMUP_S:])
    return {
        **_frame(f"made-{seed}-{median_us:g}", seconds, users),
        "models": [{**_row(measured, spans, seconds), **changes}],
    }


def record(value: dict[str, Any], folder: Path) -> Record:
    """Write a report and read it as the command does."""
    return records.read([saved(value, folder)])[0]


def saved(value: dict[str, Any], folder: Path) -> Path:
    """Write a report into a folder of its own."""
    path = folder / str(value.get("id", "odd"))
    path.mkdir(parents=True, exist_ok=True)
    (path / "report.json").write_text(json.dumps(value))
    return path


def _span(second: int, us: Numbers) -> dict[str, float]:
    rounded = [float(f"{value:.2g}") for value in np.percentile(us, [50, 99])] if len(us) else [0.0, 0.0]
    return {"t_s": second, "width_s": 1, "answers": len(us), "failures": 0, "p50_us": rounded[0], "p99_us": rounded[1]}


def _row(us: Numbers, spans: list[dict[str, float]], seconds: int) -> dict[str, Any]:
    values, counts = np.unique(us, return_counts=True)
    latency = {name: float(np.percentile(us, share)) for name, share in SHARES.items()}
    return {
        "model": "digits", "protocol": "grpc", "version": "1", "batch": 1, "target": "onnxruntime", "precision": "fp32", "weights": "real",
        "slo": {}, "requests": len(us), "measured": len(us), "failures": 0, "checked": 200, "wrong": 0, "errors": [],
        "throughput_per_s": len(us) / seconds, "series": spans,
        "latency_us": {**latency, "mean": float(us.mean()), "min": float(us.min()), "max": float(us.max())},
        "histogram": [[int(value), int(count)] for value, count in zip(values, counts, strict=True)],
        "percentiles": [[share, float(np.percentile(us, share))] for share in (0, 10, 50, 90, 99, 99.9, 100)],
    }  # fmt: skip


def _frame(name: str, seconds: int, users: int) -> dict[str, Any]:
    return {
        "schema": SCHEMA_VERSION, "kind": "run", "id": name, "created": "2026-11-21T00:00:00Z",
        "environment": {
            "cpu": "made", "cores": 2, "system": "made", "python": "3.11.0", "server": {"name": "made", "version": "2.51.0"}, "versions": {},
        },
        "duration_s": seconds + WARMUP_S + 0.2, "warmup_s": float(WARMUP_S), "users": users,
        "server": {"digits": {f"mean_{part}_us": 10.0 * at for at, part in enumerate(("queue", "compute_input", "compute_infer", "compute_output"), 1)}},
        "verdict": {"status": "pass", "reasons": []},
    }  # fmt: skip
