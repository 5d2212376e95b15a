"""Runs batches through one runner: copy in, compute, copy out.

In      requests of one shape.
Out     their answers, split by request.

Inputs on the GPU are copied on the GPU. Inputs on the host are in the memory that the server shares with this process: it is
page-locked, so that the GPU reads it directly. Where that fails they are gathered in pinned memory, and what is gathered
is copied in while the rest is still being gathered. Outputs come back in one copy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import triton_python_backend_utils as pb_utils
from trt_checks import RequestError
from trt_dlpack import address_of

PART_BYTES = 1 << 21  # gathered bytes that are worth a separate copy


class PendingRequest:
    """One request: its position in the call, its tensors, its rows (0 where the model has no batch axis)."""

    __slots__ = ("wanted", "key", "place", "rows", "shapes", "tensors")

    def __init__(self, place: int, request: Any, inputs: list[str], outputs: list[str], *, batching: bool) -> None:
        self.place = place
        self.tensors: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name in inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is None:
                raise RequestError(f"expected input '{name}' is missing")
            self.tensors[name] = tensor
            self.shapes[name] = tuple(tensor.shape())
        wanted_names = request.requested_output_names()
        self.wanted = [name for name in outputs if name in wanted_names]
        sizes = {shape[0] if shape else 1 for shape in self.shapes.values()}
        if batching and len(sizes) != 1:
            raise RequestError(f"inputs disagree about the batch: {self.shapes}")
        self.rows = sizes.pop() if batching else 0
        self.key = tuple(shape[1:] for shape in self.shapes.values()) if batching else (place,)


class InFlightBatch:
    """A batch that was enqueued: its slot, its requests, the shapes of its outputs."""

    __slots__ = ("outputs", "slot", "works")

    def __init__(self, slot: Any, works: list[PendingRequest], outputs: dict[str, Any]) -> None:
        self.slot, self.works, self.outputs = slot, works, outputs


class BatchPipeline:
    """One runner and its free slots."""

    def __init__(self, runner: Any, config: dict[str, Any], shared: Any) -> None:
        self._runner, self._max_rows, self._shared = runner, config["max_batch_size"], shared
        self._free = list(runner.slots)
        self._graph_rows = self._capture(config)

    @property
    def full(self) -> bool:
        """True where every slot is in use."""
        return not self._free

    def parts(self, works: list[PendingRequest]) -> Iterator[list[PendingRequest]]:
        """Split the requests of one shape into batches that fit the engine."""
        part: list[PendingRequest] = []
        for work in works:
            if part and (not self._max_rows or sum(w.rows for w in part) + work.rows > self._max_rows):
                yield part
                part = []
            part.append(work)
        yield part

    def start(self, works: list[PendingRequest]) -> InFlightBatch:
        """Copy in, compute and copy out, all enqueued."""
        slot = self._free.pop()
        try:
            rows = sum(work.rows for work in works)
            shapes = {name: (rows, *shape[1:]) if rows else shape for name, shape in works[0].shapes.items()}
            for name, shape in shapes.items():
                self._gather(slot, name, shape, works)
            padded = self._padded(rows)
            run_shapes = {name: (padded, *shape[1:]) if rows else shape for name, shape in shapes.items()}
            outputs = self._runner.compute(slot, run_shapes)
            wanted_names = {name for work in works for name in work.wanted}
            kept = {n: (rows, *s[1:]) if rows else s for n, s in outputs.items() if n in wanted_names}
            self._runner.fetch(slot, kept)
        except Exception:
            self._free.append(slot)
            raise
        return InFlightBatch(slot, works, kept)

    def finish(self, batch: InFlightBatch) -> list[tuple[PendingRequest, list[tuple[str, Any]]]]:
        """Wait for a batch and return its answers; they are copies, because the slot is reused."""
        try:
            batch.slot.events["fetched"].wait()
            arrays = {name: batch.slot.host(name, shape) for name, shape in batch.outputs.items()}
            answers, start = [], 0
            for work in batch.works:
                cut = slice(start, start + work.rows) if work.rows else slice(None)
                answers.append((work, [(name, arrays[name][cut].copy()) for name in work.wanted]))
                start += work.rows
            return answers
        finally:
            self._free.append(batch.slot)

    def _gather(self, slot: Any, name: str, shape: tuple[int, ...], works: list[PendingRequest]) -> None:
        """Enqueue the copies of one input; `done` bytes are being copied, the rest up to `start` is in pinned memory."""
        total = slot.host(name, shape).nbytes
        row_bytes = total // max(shape[0], 1) if works[0].rows else total
        done = start = 0
        for work in works:
            size = row_bytes * (work.rows or 1)
            if self._directly(slot, name, start, work.tensors[name], size):
                self._send(slot, name, done, start)
                done = start + size
            elif start + size - done >= PART_BYTES:
                self._send(slot, name, done, start + size)
                done = start + size
            start += size
        self._send(slot, name, done, start)

    def _send(self, slot: Any, name: str, begin: int, end: int) -> None:
        if end > begin:
            self._runner.load_part(slot, name, begin, end)

    def _directly(self, slot: Any, name: str, offset: int, tensor: Any, size: int) -> bool:
        """Let the GPU read the tensor directly; where it cannot, copy it into pinned memory and return False.

        The address is DLPack's: ``as_numpy`` of this server's stub copies first.
        """
        pointer = address_of(tensor)
        if not tensor.is_cpu() or self._shared.covers(pointer, size):
            self._runner.load_from(slot, name, offset, pointer, size)
            return True
        ctypes.memmove(slot.pinned[name].pointer + offset, pointer, size)
        return False

    def _padded(self, rows: int) -> int:
        """Return the rows to run: up to the next captured batch where config.pbtxt allows that, else the given rows."""
        return next((size for size, lowest in self._graph_rows if lowest <= rows <= size), rows)

    def _capture(self, config: dict[str, Any]) -> list[tuple[int, int]]:
        """Capture the CUDA graphs that config.pbtxt enables; return (batch, fewest rows that may use it)."""
        options = config.get("optimization", {}).get("cuda", {})
        if not options.get("graphs"):
            return []
        captured = []
        for size, lowest in graph_sizes(config):
            shapes = {t.name: ((size, *self._rest(t)) if size else self._rest(t)) for t in self._runner.plan.inputs}
            if any(-1 in shape for shape in shapes.values()):
                pb_utils.Logger.log_info(f"no CUDA graph for batch {size}: another axis of {config['name']} varies")
                continue
            done = [self._runner.capture(slot, shapes) for slot in self._runner.slots]
            if all(done) and size:
                captured.append((size, lowest))
        return sorted(captured)

    def _rest(self, tensor: Any) -> tuple[int, ...]:
        return tuple(tensor.shape[1:] if self._max_rows else tensor.shape)


def graph_sizes(config: dict[str, Any]) -> list[tuple[int, int]]:
    """Return (batch, lower bound) of each graph, as NVIDIA's backend chooses them."""
    high = config["max_batch_size"]
    specs = config.get("optimization", {}).get("cuda", {}).get("graph_spec", [])
    if specs:
        pairs = [(spec.get("batch_size", 0), spec.get("graph_lower_bound", {})) for spec in specs]
        return [(int(size), int(lower.get("batch_size", size))) for size, lower in pairs]
    if not high:
        return [(0, 0)]
    batching = config.get("dynamic_batching")
    preferred = batching.get("preferred_batch_size", []) if batching is not None else [2, 3, 4, 6, 8, 12, 16]
    return [(size, size) for size in sorted({1, *(int(p) for p in preferred if int(p) <= high), high})]
