"""What every bench measures, whatever computes: lanes that are kept busy, and the figures of their batches.

In      a setting, and lanes; those that run on the host (ONNX Runtime, PyTorch on the CPU) are here too.
Out     `Figures`: throughput and the times of a batch on its way in, through and out.

On the host each stream is a thread of its own; times inside a batch cannot be separated there and all count as ``compute``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np

from planwright.tensors import TensorSpec

SLOTS = 3  # batches in flight per stream: one copied in, one computed, one copied out
POOL = 6  # distinct random input batches per stream

Run = Callable[[dict[str, Any]], Any]
Times = tuple[float, ...]  # of one batch: latency, enqueue, H2D, compute, D2H in ms


@dataclass(frozen=True)
class BenchSetting:
    """What is measured: batch size, streams, and whether CUDA graphs are used where the engine can."""

    batch: int
    streams: int = 1
    graphs: bool = True

    def __str__(self) -> str:
        # whether there is a CUDA graph is known when it has been captured: the figures say so
        return f"batch {self.batch}, {self.streams} stream{'s' * (self.streams > 1)}"


@dataclass(frozen=True)
class Figures:
    """One measurement; times in milliseconds over the batches, latency from the first byte in to the last byte out."""

    samples_per_s: float
    batches: int
    latency_min_ms: float
    latency_max_ms: float
    latency_mean_ms: float
    latency_median_ms: float
    latency_p99_ms: float
    enqueue_ms: float
    h2d_ms: float
    compute_ms: float
    d2h_ms: float
    gpu_memory_mib: int = 0
    graphs: bool = False


class Lane(Protocol):
    def send(self) -> None:
        """Start the next batch."""

    def receive(self) -> Times:
        """Wait for it and return its times."""


def measure_lanes(lanes: Sequence[Lane], batch: int, *, seconds: float, warm_up_s: float = 0.5) -> Figures:
    _drive(lanes, warm_up_s)
    started = time.perf_counter()
    rows = _drive(lanes, seconds)
    elapsed_s = time.perf_counter() - started
    table = np.array(rows)
    latency, means = table[:, 0], table.mean(axis=0)

    def ms(value: Any) -> float:
        return round(float(value), 4)

    return Figures(
        samples_per_s=round(len(rows) * batch / elapsed_s, 1), batches=len(rows),
        latency_min_ms=ms(latency.min()), latency_max_ms=ms(latency.max()), latency_mean_ms=ms(means[0]),
        latency_median_ms=ms(np.median(latency)), latency_p99_ms=ms(np.percentile(latency, 99)),
        enqueue_ms=ms(means[1]), h2d_ms=ms(means[2]), compute_ms=ms(means[3]), d2h_ms=ms(means[4]),
    )  # fmt: skip


def _drive(lanes: Sequence[Lane], seconds: float) -> list[Times]:
    """Keep every lane busy for a time and return a row per finished batch."""
    rows: list[Times] = []
    for lane in lanes:
        lane.send()
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        for lane in lanes:
            rows.append(lane.receive())
            lane.send()
    rows += [lane.receive() for lane in lanes]
    return rows


class HostLane:
    def __init__(self, run: Run, pool: Sequence[dict[str, Any]], workers: ThreadPoolExecutor) -> None:
        self._run, self._pool, self._workers, self._turn = run, pool, workers, 0
        self._pending: Future[float] | None = None

    def send(self) -> None:
        self._turn = (self._turn + 1) % len(self._pool)
        self._pending = self._workers.submit(self._timed, self._pool[self._turn])

    def receive(self) -> Times:
        assert self._pending is not None
        taken_ms = self._pending.result()
        return (taken_ms, 0.0, 0.0, taken_ms, 0.0)

    def _timed(self, inputs: dict[str, Any]) -> float:
        began = time.perf_counter()
        self._run(inputs)
        return (time.perf_counter() - began) * 1e3


def random_pool(datatypes: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> list[dict[str, Any]]:
    """Return the random batches that every engine of these shapes is given.

    Args:
        datatypes: Input name -> Triton's datatype, such as ``UINT8``.
        shapes: Input name -> shape, the batch first.
    """
    from builders.targets.tensorrt.layers import random_inputs

    tensors = [
        SimpleNamespace(name=name, datatype=datatype, dtype=TensorSpec(name, datatype, ()).numpy_dtype)
        for name, datatype in datatypes.items()
    ]
    return [random_inputs(tensors, shapes, seed) for seed in range(POOL)]


def measure_host(run: Run, pool: Sequence[dict[str, Any]], setting: BenchSetting, seconds: float) -> Figures:
    """Measure what answers on the host, from a batch of inputs to its answers."""
    with ThreadPoolExecutor(setting.streams) as workers:
        lanes = [HostLane(run, pool, workers) for _ in range(setting.streams)]
        return measure_lanes(lanes, setting.batch, seconds=seconds)
