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
from pathlib import Path
from typing import Any

import numpy as np

from builders.diagnostics.bench_figures import POOL, SLOTS, Figures, Setting, measure_lanes
from planwright.errors import Fault, StageError


class _Lane:
    """One batch in flight: its runner, its slot, the inputs it draws from."""

    def __init__(self, runner: Any, slot: Any, pool: list[dict[str, Any]], shapes: dict[str, Any], start: int) -> None:
        self.runner, self.slot, self.pool, self.shapes, self.turn = runner, slot, pool, shapes, start
        self.outputs: dict[str, Any] = {}
        self.first: dict[int, dict[str, Any]] = {}
        self.enqueue_ms = 0.0

    def send(self) -> None:
        shapes = self.shapes
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
    with _lanes(path, setting) as (lanes, captured):
        used = free - cuda.memory_bytes()[0]
        found = measure_lanes(
            lanes, setting.batch, seconds=seconds, warm_up_s=warm_up_s, memory_mib=used >> 20, graphs=captured
        )
        for lane in lanes:
            for _ in range(2 * len(lane.pool)):
                lane.send()
                lane.receive()
                lane.check()
    return found


@contextmanager
def _lanes(path: Path, setting: Setting) -> Iterator[tuple[list[_Lane], bool]]:
    from builders.targets.tensorrt.target import plugins_of
    from planwright.trt import cuda
    from planwright.trt.plan import Plan
    from planwright.trt.runner import Runner

    plugins = plugins_of(path.parent)
    plans = [Plan.read(path, host_code_allowed=True, plugins=plugins) for _ in range(setting.streams)]
    shapes = {t.name: _shape(plans[0], t, setting.batch) for t in plans[0].inputs}
    profile = plans[0].choose_profile(shapes)
    pool = [_pinned(plans[0], shapes, seed) for seed in range(POOL)]
    runners = [Runner(plan, profile=profile, slots=SLOTS, timed=True) for plan in plans]
    lanes = [
        _Lane(runner, slot, pool, shapes, i) for i in range(SLOTS) for runner in runners for slot in [runner.slots[i]]
    ]
    captured = setting.graphs and min([lane.runner.capture(lane.slot, shapes) for lane in lanes])
    try:
        yield lanes, captured
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
    from builders.targets.tensorrt.layers import random_inputs
    from planwright.trt import cuda

    buffers = {}
    for name, array in random_inputs(plan.inputs, shapes, seed).items():
        buffers[name] = cuda.Pinned(array.nbytes)
        np.copyto(buffers[name].view(array.shape, array.dtype), array)
    return buffers
