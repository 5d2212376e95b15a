"""bench: how fast an engine is by itself, in the terms of trtexec.

In      a plan, a batch size, a number of streams.
Out     a `Figures`: throughput and the times of a batch on its way in, through and out.

Host copies are on, unlike in trtexec 11's default: inputs lie in pinned memory, another random batch each time, and outputs
are copied back. Each stream has an engine of its own, because on 8.6 two contexts of a dynamic engine may not share a
profile. Every return value is checked, and at the end each answer is compared with the first one to the same input.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from planwright.errors import Fault, StageError

SLOTS = 3  # batches in flight per stream: one copied in, one computed, one copied out
POOL = 6  # distinct random input batches per stream


@dataclass(frozen=True)
class Setting:
    """What is measured: batch size, streams, and whether CUDA graphs are used."""

    batch: int
    streams: int = 1
    graphs: bool = True

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.streams} stream{'s' * (self.streams > 1)}{', CUDA graph' if self.graphs else ''}"


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


class _Lane:
    """One batch in flight: its runner, its slot, the inputs it draws from."""

    def __init__(self, runner: Any, slot: Any, pool: list[dict[str, Any]], start: int) -> None:
        self.runner, self.slot, self.pool, self.turn = runner, slot, pool, start
        self.outputs: dict[str, Any] = {}
        self.first: dict[int, dict[str, Any]] = {}
        self.enqueue_ms = 0.0

    def send(self, shapes: dict[str, Any]) -> None:
        self.turn = (self.turn + 1) % len(self.pool)
        self.runner.begin(self.slot)
        for name, buffer in self.pool[self.turn].items():
            self.runner.load(self.slot, name, shapes[name], buffer)
        begun = time.perf_counter()
        self.outputs = self.runner.compute(self.slot, shapes)
        self.enqueue_ms = (time.perf_counter() - begun) * 1e3
        self.runner.fetch(self.slot, self.outputs)

    def receive(self) -> tuple[float, ...]:
        self.slot.events["fetched"].wait()
        at = self.slot.events
        return (
            at["fetched"].since_ms(at["begun"]),
            self.enqueue_ms,
            at["loaded"].since_ms(at["begun"]),
            at["computed"].since_ms(at["started"]),
            at["fetched"].since_ms(at["fetching"]),
        )

    def check(self) -> None:
        """Compare with the first answer to the same input.

        Raises:
            StageError: They differ by more than rounding, so something did not run.
        """
        answer = {name: self.slot.host(name, shape).copy() for name, shape in self.outputs.items()}
        known = self.first.setdefault(self.turn, answer)
        for name, array in answer.items():
            same = np.allclose(array.astype(np.float64), known[name].astype(np.float64), rtol=1e-2, atol=1e-2)
            if not same or not np.asarray(array).any():
                why = "answers to one input differ from run to run, or are all zero"
                raise StageError(
                    "engine", Fault(f"output '{name}' cannot be trusted", why=why, fix="build again with --force")
                )


def measure(path: Path, setting: Setting, *, seconds: float = 2.0, warm_up_s: float = 0.5) -> Figures:
    """Measure one setting; see the module's docstring for the conditions.

    Raises:
        planwright.trt.plan.PlanError: The batch is outside the profile, or TensorRT refuses.
        StageError: Answers are not the same from run to run.
    """
    from planwright.trt import cuda

    free, _ = cuda.memory_bytes()
    with _lanes(path, setting) as (lanes, shapes, captured):
        used = free - cuda.memory_bytes()[0]
        _drive(lanes, shapes, warm_up_s)
        started = time.perf_counter()
        rows = _drive(lanes, shapes, seconds)
        elapsed = time.perf_counter() - started
        for lane in lanes:
            for _ in range(2 * len(lane.pool)):
                lane.send(shapes)
                lane.receive()
                lane.check()
    table = np.array(rows)
    latency, means = table[:, 0], table.mean(axis=0)
    return Figures(
        samples_per_s=round(len(rows) * setting.batch / elapsed, 1),
        batches=len(rows),
        latency_min_ms=_ms(latency.min()),
        latency_max_ms=_ms(latency.max()),
        latency_mean_ms=_ms(means[0]),
        latency_median_ms=_ms(np.median(latency)),
        latency_p99_ms=_ms(np.percentile(latency, 99)),
        enqueue_ms=_ms(means[1]),
        h2d_ms=_ms(means[2]),
        compute_ms=_ms(means[3]),
        d2h_ms=_ms(means[4]),
        gpu_memory_mib=used >> 20,
        graphs=captured,
    )


def _ms(value: Any) -> float:
    return round(float(value), 4)


def _drive(lanes: list[_Lane], shapes: dict[str, Any], seconds: float) -> list[tuple[float, ...]]:
    """Keep every lane busy for a time and return a row per finished batch."""
    rows: list[tuple[float, ...]] = []
    for lane in lanes:
        lane.send(shapes)
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        for lane in lanes:
            rows.append(lane.receive())
            lane.send(shapes)
    rows += [lane.receive() for lane in lanes]
    return rows


@contextmanager
def _lanes(path: Path, setting: Setting) -> Iterator[tuple[list[_Lane], dict[str, Any], bool]]:
    from builders.targets.trt import plugins_of
    from planwright.trt import cuda
    from planwright.trt.plan import Plan
    from planwright.trt.runner import Runner

    plugins = plugins_of(path.parent)
    plans = [Plan.read(path, host_code_allowed=True, plugins=plugins) for _ in range(setting.streams)]
    shapes = {t.name: _shape(plans[0], t, setting.batch) for t in plans[0].inputs}
    profile = plans[0].choose_profile(shapes)
    pool = [_pinned(plans[0], shapes, seed) for seed in range(POOL)]
    runners = [Runner(plan, profile=profile, slots=SLOTS, timed=True) for plan in plans]
    lanes = [_Lane(runner, slot, pool, i) for i in range(SLOTS) for runner in runners for slot in [runner.slots[i]]]
    captured = setting.graphs and min([lane.runner.capture(lane.slot, shapes) for lane in lanes])
    try:
        yield lanes, shapes, captured
    finally:
        for runner in runners:
            runner.free()
        for buffers in pool:
            for buffer in buffers.values():
                buffer.free()
        cuda.call(cuda.cudart.cudaDeviceSynchronize)


def _shape(plan: Any, tensor: Any, batch: int) -> tuple[int, ...]:
    opt = plan.profiles[0][tensor.name][1] if plan.profiles and tensor.name in plan.profiles[0] else tensor.shape
    return (batch, *opt[1:]) if tensor.shape and tensor.shape[0] == -1 else tuple(opt)


def _pinned(plan: Any, shapes: dict[str, Any], seed: int) -> dict[str, Any]:
    from builders.trt.layers import random_inputs
    from planwright.trt import cuda

    buffers = {}
    for name, array in random_inputs(plan.inputs, shapes, seed).items():
        buffers[name] = cuda.Pinned(array.nbytes)
        np.copyto(buffers[name].view(array.shape, array.dtype), array)
    return buffers
