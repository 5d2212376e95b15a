"""Measure one engine by itself, in the terms of trtexec.

In      a folder with an engine, a batch size, a number of streams.
Out     `Figures`: throughput and the times of a batch on its way in, through and out.

Of a plan: host copies are on, unlike in trtexec 11's default: inputs are in pinned memory, another random batch each time, and
outputs are copied back. Each stream has an engine of its own, because on 8.6 two contexts of a dynamic engine may not share
a profile. Every return value is checked, and at the end each answer is compared with the first one to the same input.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from builders.diagnostics.lanes import POOL, SLOTS, BenchSetting, Figures, measure_host, measure_lanes, random_pool
from builders.stage import Job
from builders.targets.tensorrt import profiles
from planwright.errors import Fault, StageError


def measure_folder(job: Job, folder: Path, setting: BenchSetting, seconds: float) -> Figures:
    """Measure an engine of the job's model; raises StageError if it cannot run this setting, or answers differ from run to run."""
    return (_plan if job.target.name == "tensorrt" else _session)(job, folder, setting, seconds)


def _session(job: Job, folder: Path, setting: BenchSetting, seconds: float) -> Figures:
    engine = job.target.load(folder)
    opt = opt_shapes(job)
    shapes = {tensor.name: (setting.batch, *opt[tensor.name][1:]) for tensor in engine.inputs}
    try:
        for tensor in engine.inputs:
            if tensor.datatype == "BYTES":
                raise _cannot(job, setting, f"input '{tensor.name}' is text, and random text would mean nothing")
            if tensor.shape[:1] not in ((-1,), (setting.batch,)):
                raise _cannot(job, setting, f"the engine declares {tensor}")
        pool = random_pool({tensor.name: tensor.datatype for tensor in engine.inputs}, shapes)
        return measure_host(engine.run, pool, setting, seconds)
    finally:
        engine.close()


def _cannot(job: Job, setting: BenchSetting, why: str) -> StageError:
    return StageError("engine", Fault(f"{job.model.name} cannot run {setting}", why=why, fix="give its own --batch"))


def _plan(job: Job, folder: Path, setting: BenchSetting, seconds: float) -> Figures:
    from builders.targets.tensorrt.explain import explain_text
    from planwright.trt.plan import PlanError

    try:
        return measure_plan(folder / job.target.filename, setting, seconds=seconds)
    except PlanError as error:
        command = f"python -m builders bench {job.model.name} --batch {job.model.batch.largest}"
        fault = explain_text(str(error), job.model.where, command)
        what = f"{job.model.name} cannot run {setting}: {fault.what}"
        raise StageError("engine", Fault(what, fault.where, fault.why, fault.fix, fault.check)) from None


def opt_shapes(job: Job) -> dict[str, list[int]]:
    """Return input -> the shape that profiles are tuned for, the batch first."""
    derived = profiles.from_samples(job.export_folder, job.model)
    return {name: bounds["opt"] for name, bounds in derived.items()}


class _PlanLane:
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
        """Compare with the first answer to the same input; raises StageError if they differ by more than rounding."""
        answer = {name: self.slot.host(name, shape).copy() for name, shape in self.outputs.items()}
        known = self.first.setdefault(self.turn, answer)
        for name, array in answer.items():
            same = np.allclose(array.astype(np.float64), known[name].astype(np.float64), rtol=1e-2, atol=1e-2)
            if not same or not np.asarray(array).any():
                why, fix = "answers to one input differ from run to run, or are all zero", "build again with --force"
                raise StageError("engine", Fault(f"output '{name}' cannot be trusted", why=why, fix=fix))


def measure_plan(path: Path, setting: BenchSetting, *, seconds: float = 2.0, warm_up_s: float = 0.5) -> Figures:
    """Measure one setting; raises PlanError if the batch is outside the profile, StageError if answers differ from run to run."""
    from planwright.trt import cuda

    free, _ = cuda.memory_bytes()
    with _lanes(path, setting) as (lanes, captured):
        used = free - cuda.memory_bytes()[0]
        found = measure_lanes(lanes, setting.batch, seconds=seconds, warm_up_s=warm_up_s)
        for lane in lanes:
            for _ in range(2 * len(lane.pool)):
                lane.send()
                lane.receive()
                lane.check()
    return replace(found, gpu_memory_mib=used >> 20, graphs=captured)


@contextmanager
def _lanes(path: Path, setting: BenchSetting) -> Iterator[tuple[list[_PlanLane], bool]]:
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
    lanes = [_PlanLane(runner, runner.slots[i], pool, shapes, i) for i in range(SLOTS) for runner in runners]
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
