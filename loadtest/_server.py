"""What the server itself says about a run: Triton's counters before and after.

In      addresses.
Out     `Snapshot`, and the difference of two as a JSON value per model.

prometheus_client renames Triton's counters to ``…_total``. Warm-up inferences and rejected requests are counted by the
server in ways of its own, so errors are counted at the client and only differences are used.
"""

from __future__ import annotations

import json
import math
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

COUNTERS = {
    "nv_inference_request_success": "requests",
    "nv_inference_request_failure": "failures",
    "nv_inference_count": "inferences",
    "nv_inference_exec_count": "executions",
    "nv_inference_request_duration_us": "request_us",
    "nv_inference_queue_duration_us": "queue_us",
    "nv_inference_compute_input_duration_us": "compute_input_us",
    "nv_inference_compute_infer_duration_us": "compute_infer_us",
    "nv_inference_compute_output_duration_us": "compute_output_us",
}
TIMEOUT_S = 10.0
_GARBAGE = (OSError, HTTPException, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Snapshot:
    """Counters of one instant.

    Attributes:
        counters: Model → counter → value.
        batches: Model → batch size → (count, total µs of computing).
        instances: Model → number of instances.
        at: Moment of ``time.perf_counter``.
    """

    counters: dict[str, dict[str, float]]
    batches: dict[str, dict[int, tuple[int, int]]]
    instances: dict[str, int] = field(default_factory=dict)
    at: float = field(default_factory=time.perf_counter)


def snapshot(http_url: str, metrics_url: str, models: Iterable[str]) -> Snapshot | None:
    """Read all counters; None where the server does not answer, or not what a Triton server does."""
    try:
        text = _get(f"http://{metrics_url}/metrics")
        at, names = time.perf_counter(), list(models)
        batches = {model: _batches(json.loads(_get(f"http://{http_url}/v2/models/{model}/stats"))) for model in names}
        configs = {model: json.loads(_get(f"http://{http_url}/v2/models/{model}/config")) for model in names}
        instances = {m: sum(int(g.get("count", 1)) for g in c.get("instance_group", [])) for m, c in configs.items()}
        return Snapshot(_counters(text), batches, instances, at)
    except _GARBAGE:
        return None


def identity(http_url: str) -> dict[str, Any]:
    """Return the server's name and version; empty where it does not answer."""
    try:
        document: dict[str, Any] = json.loads(_get(f"http://{http_url}/v2"))
        return {"name": str(document.get("name", "")), "version": str(document.get("version", ""))}
    except _GARBAGE:
        return {}


def difference(before: Snapshot, after: Snapshot) -> dict[str, Any]:
    """Return, per model, what happened between two snapshots; times are means per request."""
    return {model: _model(before, after, model) for model in after.batches}


def _model(before: Snapshot, after: Snapshot, model: str) -> dict[str, Any]:
    old, new = before.counters.get(model, {}), after.counters.get(model, {})
    delta = {name: new.get(name, 0.0) - old.get(name, 0.0) for name in COUNTERS.values()}
    requests, executions = max(delta["requests"], 1.0), max(delta["executions"], 1.0)
    means = {f"mean_{name}": delta[name] / requests for name in delta if name.endswith("_us")}
    rows = []
    for size, (count, total_us) in sorted(after.batches[model].items()):
        earlier, earlier_us = before.batches.get(model, {}).get(size, (0, 0))
        if count > earlier:
            rows.append(
                {"size": size, "count": count - earlier, "mean_infer_us": (total_us - earlier_us) / (count - earlier)}
            )
    counts = {name: int(delta[name]) for name in ("requests", "failures", "inferences", "executions")}
    instances = max(after.instances.get(model, 1), 1)
    computed_us = sum(row["count"] * row["mean_infer_us"] for row in rows)
    busy = computed_us / 1e6 / max((after.at - before.at) * instances, 1e-9)
    shares = {"instances": instances, "busy_share": round(min(busy, 1.0), 4)}
    return {**counts, **means, **shares, "mean_batch": delta["inferences"] / executions, "batches": rows}


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
        return str(response.read().decode())


def _counters(text: str) -> dict[str, dict[str, float]]:
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = COUNTERS.get(sample.name.removesuffix("_total"))
            if name and not math.isfinite(sample.value):
                raise ValueError(f"{sample.name} is {sample.value}")
            if name:
                found[sample.labels.get("model", "")][name] += sample.value
    return {model: dict(values) for model, values in found.items()}


def _batches(document: dict[str, Any]) -> dict[int, tuple[int, int]]:
    found: dict[int, tuple[int, int]] = {}
    for version in document.get("model_stats", []):
        for row in version.get("batch_stats", []):
            size, infer = int(row["batch_size"]), row["compute_infer"]
            count, total_us = found.get(size, (0, 0))
            found[size] = (count + int(infer["count"]), total_us + int(infer["ns"]) // 1000)
    return found
