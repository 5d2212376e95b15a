"""System shared memory: tensors that do not travel through the socket.

In      a chunk's arrays and the model's outputs.
Out     `Places` for the request, arrays read out of the output region.

One input and one output region per client, grown when a request needs more. Names hold process id and a random part, so
nothing collides; regions are unregistered and unlinked when the client closes, also after an error.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import Any

import numpy as np

from planwright.tensors import TensorSpec

from .core import Array, Arrays, Chunk, ModelInfo
from .wire import Place

Register = Callable[[str, str, int], None]
Unregister = Callable[[str], None]
_ALIGN_BYTES = 64


class Region:
    """One named piece of shared memory, known to this process and to the server."""

    def __init__(self, kind: str, size_bytes: int) -> None:
        from tritonclient.utils import shared_memory

        self.name = f"planwright-{kind}-{os.getpid()}-{secrets.token_hex(4)}"
        self.key, self.size_bytes = f"/{self.name}", size_bytes
        self._handle: Any = shared_memory.create_shared_memory_region(self.name, self.key, size_bytes)

    def write(self, array: Array, offset: int) -> None:
        """Copy `array` to `offset`."""
        from tritonclient.utils import shared_memory

        shared_memory.set_shared_memory_region(self._handle, [array], offset=offset)

    def read(self, dtype: Any, shape: tuple[int, ...], offset: int) -> Array:
        """Return a copy of the array at `offset`; a view would change with the next request."""
        from tritonclient.utils import shared_memory

        view: Array = shared_memory.get_contents_as_numpy(self._handle, dtype, shape, offset=offset)
        return view.copy()

    def destroy(self) -> None:
        """Unlink the memory."""
        from tritonclient.utils import shared_memory

        if self._handle is not None:
            shared_memory.destroy_shared_memory_region(self._handle)
            self._handle = None


class Regions:
    """The two regions of one client."""

    def __init__(self, info: ModelInfo, register: Register, unregister: Unregister) -> None:
        self._info, self._register, self._unregister = info, register, unregister
        self._regions: dict[str, Region] = {}

    def put(self, chunk: Chunk) -> tuple[dict[str, Place], dict[str, Place]]:
        """Copy the inputs in and reserve room for the outputs; text and outputs of unknown size travel inline."""
        plain = {name: array for name, array in chunk.arrays.items() if array.dtype.kind not in "OSU"}
        sizes_in = {name: array.nbytes for name, array in plain.items()}
        rows = len(next(iter(chunk.arrays.values()))) if self._info.batches else 0
        sizes_out = {t.name: _size(t, rows) for t in self._info.outputs if t.datatype != "BYTES" and -1 not in t.shape}
        inputs, outputs = self._layout("in", sizes_in), self._layout("out", sizes_out)
        for name, place in inputs.items():
            self._regions["in"].write(plain[name], place.offset)
        return inputs, outputs

    def take(self, outputs: dict[str, Place], rows: int) -> Arrays:
        """Read the outputs of the request that was just answered."""
        specs = {tensor.name: tensor for tensor in self._info.outputs}
        found = {}
        for name, place in outputs.items():
            shape = (rows, *specs[name].shape) if self._info.batches else specs[name].shape
            found[name] = self._regions["out"].read(specs[name].numpy_dtype, shape, place.offset)
        return found

    def close(self) -> None:
        """Unregister and unlink both regions."""
        for region in self._regions.values():
            try:
                self._unregister(region.name)
            finally:
                region.destroy()
        self._regions.clear()

    def _layout(self, kind: str, sizes: dict[str, int]) -> dict[str, Place]:
        offsets, total = {}, 0
        for name, size in sizes.items():
            offsets[name] = total
            total += -(-size // _ALIGN_BYTES) * _ALIGN_BYTES
        region = self._region(kind, total) if sizes else None
        return {name: Place(region.name, offset, sizes[name]) for name, offset in offsets.items()} if region else {}

    def _region(self, kind: str, size_bytes: int) -> Region:
        old = self._regions.get(kind)
        if old is not None and old.size_bytes >= size_bytes:
            return old
        if old is not None:
            del self._regions[kind]
            self._unregister(old.name)
            old.destroy()
        region = Region(kind, max(size_bytes, _ALIGN_BYTES))
        try:
            self._register(region.name, region.key, region.size_bytes)
        except BaseException:
            region.destroy()
            raise
        self._regions[kind] = region
        return region


def _size(tensor: TensorSpec, rows: int) -> int:
    return int(np.prod((rows or 1, *tensor.shape), dtype=np.int64)) * tensor.numpy_dtype.itemsize
