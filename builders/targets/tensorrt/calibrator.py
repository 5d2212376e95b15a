"""TensorRT 8.6's INT8 calibrator: the older way, for users who want the ranges that TensorRT chooses.

In      the calibration samples of the export, the method, the file of the cache.
Out     an ``IInt8EntropyCalibrator2`` or ``IInt8MinMaxCalibrator`` that feeds them, batch by batch, and keeps its cache.

TensorRT calibrates at one shape, the opt of the calibration profile: samples of another shape are left out and counted. It takes
for full batches only. An exception may not cross TensorRT's own code, so it is kept and raised when the build has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 16

Shapes = Mapping[str, Sequence[int]]


class Feed:
    """Full batches of one shape, on the GPU one after the other.

    Attributes:
        batches: Input name -> array, per batch.
        left_out: Samples of another shape, or beyond the last full batch.
        given: How many batches have been fed.
    """

    def __init__(self, samples: Path, shapes: Shapes) -> None:
        self.batches, self.left_out = full_batches(samples, shapes)
        self.error: Exception | None = None
        self._buffers: dict[str, Any] = {}
        self.given = 0

    def next(self, names: Sequence[str]) -> list[int] | None:
        """Return the addresses of the next batch in the order of `names`; None after the last."""
        from planwright.trt import cuda

        if self.given >= len(self.batches):
            return None
        batch = self.batches[self.given]
        self.given += 1
        try:
            for name in names:
                array = np.ascontiguousarray(batch[name])
                buffer = self._buffers.setdefault(name, cuda.Device(array.nbytes))
                cuda.call(cuda.cudart.cudaMemcpy, buffer.pointer, array.ctypes.data, array.nbytes, cuda.HOST_TO_DEVICE)
            return [self._buffers[name].pointer for name in names]
        except Exception as error:
            self.error = error
            return None

    def free(self) -> None:
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers.clear()


def full_batches(samples: Path, shapes: Shapes) -> tuple[list[dict[str, Any]], int]:
    """Return the full batches of exactly these shapes (the batch first where there is one), and how many samples they leave out."""
    from planwright.golden import Golden

    found: list[dict[str, Any]] = []
    total = 0
    stored = Golden.load(samples)
    if not stored.batched:
        feeds = list(stored.feeds(1))
        found = [feed for feed in feeds if all(list(feed[name].shape) == list(shape) for name, shape in shapes.items())]
        return found, len(feeds) - len(found)
    for group in stored.groups:
        size = len(next(iter(group.inputs.values())))
        total += size
        batch = next(iter(shapes.values()))[0]
        fits = all(list(group.inputs[name].shape[1:]) == list(shape[1:]) for name, shape in shapes.items())
        for start in range(0, size - batch + 1, batch) if fits else ():
            found.append({name: group.inputs[name][start : start + batch] for name in shapes})
    return found, total - sum(len(next(iter(batch.values()))) for batch in found)


def calibrator(trt: Any, job: Mapping[str, Any], feed: Feed, report: Callable[[str, int, int], Any]) -> Any:
    """Return the calibrator of the job's method, for TensorRT 8.6 and 10; `report` is called with (phase, step, steps)."""
    base: Any = trt.IInt8EntropyCalibrator2 if job["method"] == "entropy" else trt.IInt8MinMaxCalibrator
    cache = Path(job["cache"])

    class Calibrator(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)

        def get_batch_size(self) -> int:
            return len(next(iter(feed.batches[0].values()))) if feed.batches else 1

        def get_batch(self, names: Sequence[str]) -> list[int] | None:
            report("calibrating", feed.given + 1, len(feed.batches))
            return feed.next(names)

        def read_calibration_cache(self) -> bytes | None:
            return cache.read_bytes() if cache.exists() else None

        def write_calibration_cache(self, text: Any) -> None:
            cache.parent.mkdir(parents=True, exist_ok=True)
            scratch = cache.with_suffix(".tmp")
            scratch.write_bytes(bytes(memoryview(text)))
            scratch.replace(cache)

    return Calibrator()
