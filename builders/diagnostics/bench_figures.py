"""What every bench measures and how rows become figures, whatever computes.

In      a setting, one row of times per batch.
Out     `Figures`: throughput and the times of a batch on its way in, through and out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

SLOTS = 3  # batches in flight per stream: one copied in, one computed, one copied out
POOL = 6  # distinct random input batches per stream

Row = tuple[float, ...]  # latency, enqueue, H2D, compute, D2H in ms


@dataclass(frozen=True)
class Setting:
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
    gpu_memory_mib: int
    graphs: bool

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON value."""
        return asdict(self)


class Lane(Protocol):
    """One batch in flight."""

    def send(self) -> None:
        """Start the next batch."""
        ...

    def receive(self) -> Row:
        """Wait for it and return its times."""
        ...


def measure_lanes(
    lanes: Sequence[Lane],
    batch: int,
    *,
    seconds: float,
    warm_up_s: float = 0.5,
    memory_mib: int = 0,
    graphs: bool = False,
) -> Figures:
    """Keep every lane busy and return the figures."""
    drive(lanes, warm_up_s)
    started = time.perf_counter()
    rows = drive(lanes, seconds)
    elapsed_s = time.perf_counter() - started
    return figures(rows, batch, elapsed_s, memory_mib=memory_mib, graphs=graphs)


def drive(lanes: Sequence[Lane], seconds: float) -> list[Row]:
    """Keep every lane busy for a time and return a row per finished batch."""
    rows: list[Row] = []
    for lane in lanes:
        lane.send()
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        for lane in lanes:
            rows.append(lane.receive())
            lane.send()
    rows += [lane.receive() for lane in lanes]
    return rows


def figures(rows: Sequence[Row], batch: int, elapsed_s: float, *, memory_mib: int = 0, graphs: bool = False) -> Figures:
    """Sum rows up."""
    table = np.array(rows)
    latency, means = table[:, 0], table.mean(axis=0)

    def ms(value: Any) -> float:
        return round(float(value), 4)

    return Figures(
        samples_per_s=round(len(rows) * batch / elapsed_s, 1),
        batches=len(rows),
        latency_min_ms=ms(latency.min()),
        latency_max_ms=ms(latency.max()),
        latency_mean_ms=ms(means[0]),
        latency_median_ms=ms(np.median(latency)),
        latency_p99_ms=ms(np.percentile(latency, 99)),
        enqueue_ms=ms(means[1]),
        h2d_ms=ms(means[2]),
        compute_ms=ms(means[3]),
        d2h_ms=ms(means[4]),
        gpu_memory_mib=memory_mib,
        graphs=graphs,
    )
