"""System shared memory: tensors that do not travel through the socket.

In      a chunk's arrays and the model's outputs.
Out     `Places` for the request, arrays read out of the output region.

One input and one output region per `Regions`, grown when a request needs more; one request uses them at a time. Names hold process id and a
random part, so nothing collides. A name is unlinked as soon as the server has mapped the memory: from then on nothing is left in /dev/shm,
however this process ends. The server lets go of it when the client closes; memory of a request that timed out as soon as that request has
ended, which the server says by taking the unregistration.

Files are opened here and not by `multiprocessing.shared_memory`: its resource tracker takes a lock that a forked child may find held for ever.
"""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from planwright.console import human_bytes
from planwright.errors import Fault
from planwright.tensors import TensorSpec

from .. import forks
from ..errors import ClientError, SharedMemoryUnavailable
from ..request import Array, Arrays, Chunk, ModelInfo
from ..transport.codec import Place

LATE_S = 5.0  # how long closing waits for requests that timed out
_ALIGN_BYTES = 64
_SHM = Path("/dev/shm")


class Registrar(Protocol):
    """Registers regions with the server."""

    def register(self, name: str, key: str, size_bytes: int) -> None:
        """Let the server map a region."""

    def unregister(self, name: str) -> None:
        """Let the server unmap a region."""


class Region:
    """One piece of shared memory."""

    def __init__(self, kind: str, size_bytes: int) -> None:
        self.name = f"planwright-{kind}-{os.getpid()}-{secrets.token_hex(8)}"
        self.key, self.size_bytes = f"/{self.name}", size_bytes
        self._path: Path | None = _SHM / self.name
        self._memory: mmap.mmap | None = _mapped(self._path, size_bytes)

    def flush(self) -> None:
        """Do nothing: what was written is there."""

    def stale(self) -> None:
        """Do nothing: what the server writes is there."""

    def unlink(self) -> None:
        """Take the name away; who has mapped the memory keeps it."""
        path, self._path = self._path, None
        if path is not None:
            path.unlink(missing_ok=True)

    def write(self, array: Array, offset: int) -> None:
        """Copy `array` to `offset`."""
        self._view(array.dtype, array.shape, offset)[...] = array

    def read(self, dtype: Any, shape: tuple[int, ...], offset: int) -> Array:
        """Return a copy of the array at `offset`; a view would change with the next request."""
        return self._view(dtype, shape, offset).copy()

    def destroy(self) -> None:
        """Give the memory back."""
        self.unlink()
        self._memory = None  # unmapped with the last view of it

    def after_fork(self) -> None:
        """Drop the mapping in a forked child; the name, if there still is one, is the parent's to take away."""
        self._path = self._memory = None

    def _view(self, dtype: Any, shape: tuple[int, ...], offset: int) -> Array:
        assert self._memory is not None, "the region is closed"
        return np.ndarray(shape, dtype, buffer=self._memory, offset=offset)


class Regions:
    """An input and an output region."""

    def __init__(self, registrar: Registrar, make: Callable[[str, int], Any] = Region) -> None:
        self._registrar, self._make = registrar, make
        self._regions: dict[str, Any] = {}
        self._late: list[str] = []  # registered, but a request that timed out may still write there
        forks.register(self)

    def put(self, info: ModelInfo, chunk: Chunk) -> tuple[dict[str, Place], dict[str, Place]]:
        """Copy the inputs in and reserve memory for the outputs; text, empty tensors and outputs of unknown size travel inline.

        Raises:
            SharedMemoryUnavailable: The server does not take the region, or /dev/shm is full.
        """
        self._let_go()
        plain = _plain(chunk.arrays)
        sizes_in = {name: array.nbytes for name, array in plain.items()}
        rows = len(next(iter(chunk.arrays.values()))) if info.batches else 0
        sizes_out = _sizes_out(info, rows)
        inputs, outputs = self._layout("in", sizes_in), self._layout("out", sizes_out)
        for name, place in inputs.items():
            self._regions["in"].write(plain[name], place.offset)
        if inputs:
            self._regions["in"].flush()
        return inputs, outputs

    def take(self, info: ModelInfo, outputs: dict[str, Place], rows: int) -> Arrays:
        """Read the outputs of the request that was just answered."""
        specs = {tensor.name: tensor for tensor in info.outputs}
        found = {}
        if outputs:
            self._regions["out"].stale()
        for name, place in outputs.items():
            shape = (rows, *specs[name].shape) if info.batches else specs[name].shape
            found[name] = self._regions["out"].read(specs[name].numpy_dtype, shape, place.offset)
        return found

    def abandon(self) -> None:
        """Use other memory from now on: after a time-out the server may still write here, over the next answer."""
        for region in self._regions.values():
            self._late.append(region.name)
            region.destroy()
        self._regions.clear()

    def interrupt(self) -> None:
        """Do nothing: a request ends with its connection."""

    def after_fork(self) -> None:
        """Use other memory from now on, in a forked child; this is the parent's, which alone unregisters it."""
        for region in self._regions.values():
            region.after_fork()
        self._regions, self._late = {}, []

    def close(self) -> None:
        """Let the server and the machine have the memory back; a server that is gone has let go already.

        Waits up to `LATE_S` for requests that timed out; what the server still uses then, it keeps until it ends.
        """
        self.abandon()
        deadline = time.monotonic() + LATE_S
        self._let_go()
        while self._late and time.monotonic() < deadline:
            time.sleep(0.05)
            self._let_go()
        self._late = []

    def _let_go(self) -> None:
        """Unregister abandoned memory, apart from what the server says is in use."""
        if self._late:
            self._late = [name for name in self._late if not self._gone(name)]

    def _gone(self, name: str) -> bool:
        try:
            self._registrar.unregister(name)
        except ClientError as error:
            return "in use" not in error.faults[0].why
        return True

    def _layout(self, kind: str, sizes: dict[str, int]) -> dict[str, Place]:
        offsets, total = {}, 0
        for name, size in sizes.items():
            offsets[name] = total
            total += -(-size // _ALIGN_BYTES) * _ALIGN_BYTES
        region = self._region(kind, total) if sizes else None
        return {name: Place(region.name, offset, sizes[name]) for name, offset in offsets.items()} if region else {}

    def _region(self, kind: str, size_bytes: int) -> Any:
        old = self._regions.get(kind)
        if old is not None and old.size_bytes >= size_bytes:
            return old
        region = self._make(kind, max(size_bytes, _ALIGN_BYTES))
        try:
            self._registrar.register(region.name, region.key, region.size_bytes)
            region.unlink()
        except BaseException:
            region.destroy()
            raise
        self._regions[kind] = region
        if old is not None:
            self._late.append(old.name)
            old.destroy()
            self._let_go()
        return region


def _mapped(path: Path, size_bytes: int) -> mmap.mmap:
    """Create the file and map it.

    Raises:
        SharedMemoryUnavailable: It does not fit, or there is no shared memory at all.
    """
    try:
        free = shutil.disk_usage(path.parent).free
        if size_bytes > free:  # filling /dev/shm to see that it does not fit would harm everything else that uses it
            raise _full(size_bytes, free)
        return _allocated(path, size_bytes)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _full(size_bytes, 0) from None
        fix = "leave shared_memory out"
        raise SharedMemoryUnavailable(
            Fault("there is no shared memory here", path.parent.as_posix(), str(error), fix)
        ) from None


def _allocated(path: Path, size_bytes: int) -> mmap.mmap:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(handle, 0, size_bytes)  # memory that is promised and then missing kills with SIGBUS
        return mmap.mmap(handle, size_bytes)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def _full(size_bytes: int, free_bytes: int) -> SharedMemoryUnavailable:
    why = f"{human_bytes(size_bytes)} are needed, {human_bytes(free_bytes)} are free in {_SHM}"
    fix = "send smaller batches, or give the container a larger --shm-size"
    return SharedMemoryUnavailable(Fault("the shared memory is full", why=why, fix=fix))


def carries(info: ModelInfo, inputs: Arrays) -> bool:
    """Say whether any tensor of a request goes through shared memory; text, for one, travels inline."""
    return bool(_plain(inputs) or _sizes_out(info, 1))


def _plain(arrays: Arrays) -> Arrays:
    # the server takes no place of 0 bytes
    return {name: array for name, array in arrays.items() if array.dtype.kind != "O" and array.nbytes}


def _sizes_out(info: ModelInfo, rows: int) -> dict[str, int]:
    sizes = {t.name: _size(t, rows) for t in info.outputs if t.datatype != "BYTES" and -1 not in t.shape}
    return {name: size for name, size in sizes.items() if size}


def _size(tensor: TensorSpec, rows: int) -> int:
    return int(np.prod((rows or 1, *tensor.shape), dtype=np.int64)) * tensor.numpy_dtype.itemsize
