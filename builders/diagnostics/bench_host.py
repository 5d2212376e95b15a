"""bench for what computes on the host's clock: ONNX Runtime here, PyTorch in `builders.diagnostics.bench_torch`.

In      a function from batch to batch, or lanes of the same shape as those of `builders.diagnostics.bench`.
Out     the same `Figures`, so that rows of one table can be compared.

Each stream is a thread of its own; times inside a batch cannot be told apart and stand under ``compute``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

from builders.diagnostics.bench_figures import POOL, Figures, Row, Setting, measure_lanes
from planwright.tensors import TensorSpec


class HostLane:
    """Runs its batches in one thread of a pool."""

    def __init__(
        self, run: Callable[[dict[str, Any]], Any], pool: Sequence[dict[str, Any]], workers: ThreadPoolExecutor
    ) -> None:
        self._run, self._pool, self._workers, self._turn = run, pool, workers, 0
        self._pending: Future[float] | None = None

    def send(self) -> None:
        """Hand the next batch to the thread."""
        self._turn = (self._turn + 1) % len(self._pool)
        self._pending = self._workers.submit(self._timed, self._pool[self._turn])

    def receive(self) -> Row:
        """Wait for its answer."""
        assert self._pending is not None
        taken_ms = self._pending.result()
        return (taken_ms, 0.0, 0.0, taken_ms, 0.0)

    def _timed(self, inputs: dict[str, Any]) -> float:
        began = time.perf_counter()
        self._run(inputs)
        return (time.perf_counter() - began) * 1e3


def random_pool(datatypes: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> list[dict[str, Any]]:
    """Return the same random batches that `builders.diagnostics.bench` feeds an engine of these shapes.

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


def measure_engine(
    engine: Any, shapes: dict[str, tuple[int, ...]], setting: Setting, *, seconds: float, warm_up_s: float = 0.5
) -> Figures:
    """Measure an engine that answers on the host, such as ONNX Runtime's."""
    pool = random_pool({tensor.name: tensor.datatype for tensor in engine.inputs}, shapes)
    with ThreadPoolExecutor(setting.streams) as workers:
        lanes = [HostLane(engine.run, pool, workers) for _ in range(setting.streams)]
        return measure_lanes(lanes, setting.batch, seconds=seconds, warm_up_s=warm_up_s)
