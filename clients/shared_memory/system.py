"""Shared memory, registered with the server, so that tensors do not pass through the socket.

In      a chunk's arrays and the model's outputs; connections, over which regions are registered.
Out     `MemoryRanges` for the request, arrays read from the output region.

A `RegionPair` has one input and one output region, replaced when a request needs larger ones; one request uses them at a time. Names hold the
process id and a random part, so nothing collides. A name is unlinked as soon as the server has mapped the memory: from then on nothing is left
in /dev/shm, however this process ends. Memory is unregistered when the client closes. That of a request that timed out is unregistered when the
request has ended: until then the server refuses to unregister it.

Files are opened here and not by `multiprocessing.shared_memory`: its resource tracker takes a lock that a forked child may find held forever.
Registering sends no admin key: a server that lets clients use shared memory (``--allow-client-shm``) does not restrict this.
"""

from __future__ import annotations

import base64
import errno
import mmap
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from planwright.console import human_bytes
from planwright.errors import Fault
from planwright.tensors import Array, Arrays, TensorSpec

from .. import errors, fork_safety
from ..errors import ClientError, ConnectionFailed, RequestTimeout, SharedMemoryUnavailable
from ..options import Protocol, SharedMemory
from ..request import Chunk, ModelInfo
from ..transport.codec import MemoryRange
from ..transport.pool import Pool

_CLOSE_S = 5.0  # how long closing waits for requests that timed out
_ALIGN_BYTES = 64
_SHM = Path("/dev/shm")


class ServerRegistrar:
    """Registers and unregisters regions over any free connection."""

    def __init__(self, connections: Pool[Any], protocol: Protocol, kind: SharedMemory) -> None:
        self._connections, self._protocol, self._kind = connections, protocol, kind
        self._grpc_name = "CudaSharedMemory" if kind == "cuda" else "SystemSharedMemory"

    def register(self, name: str, key: str, size_bytes: int) -> None:
        """Register a region.

        Raises:
            SharedMemoryUnavailable: The server does not accept it.
        """
        try:
            if self._protocol == "http":
                self._post(name, "register", self._document(key, size_bytes))
            else:
                handle = {"raw_handle": base64.b64decode(key), "device_id": 0} if self._kind == "cuda" else {"key": key}
                self._call("Register", name=name, byte_size=size_bytes, **handle)
        except (ConnectionFailed, RequestTimeout):
            raise
        except ClientError as error:
            raise errors.shared_memory_error(error.faults[0].why) from None

    def unregister(self, name: str) -> None:
        """Unregister a region."""
        if self._protocol == "http":
            self._post(name, "unregister", {})
        else:
            self._call("Unregister", name=name)

    def _post(self, name: str, verb: str, document: dict[str, Any]) -> None:
        path = f"/v2/{self._kind}sharedmemory/region/{name}/{verb}"
        self._connections.use(lambda each: each.post_json(path, document, name))

    def _call(self, verb: str, **fields: Any) -> None:
        method = f"{self._grpc_name}{verb}"
        kind = f"{method}Request"
        self._connections.use(lambda each: each.call(method, each.message(kind, **fields), fields["name"]))

    def _document(self, key: str, size_bytes: int) -> dict[str, Any]:
        if self._kind == "cuda":
            return {"raw_handle": {"b64": key}, "device_id": 0, "byte_size": size_bytes}
        return {"key": key, "offset": 0, "byte_size": size_bytes}


class SystemRegion:
    """One piece of shared memory."""

    def __init__(self, kind: str, size_bytes: int) -> None:
        self.name = f"planwright-{kind}-{os.getpid()}-{secrets.token_hex(8)}"
        self.key, self.size_bytes = f"/{self.name}", size_bytes
        self._path: Path | None = _SHM / self.name
        self._memory: mmap.mmap | None = _mapped(self._path, size_bytes)

    def flush(self) -> None:
        """Do nothing: writes are visible at once."""

    def invalidate(self) -> None:
        """Do nothing: the server's writes are visible at once."""

    def unlink(self) -> None:
        """Remove the name; processes that have mapped the memory keep it."""
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
        """Release the memory."""
        self.unlink()
        self._memory = None  # unmapped with the last view of it

    def after_fork(self) -> None:
        """Drop the mapping in a forked child; the name, if it still exists, is the parent's to remove."""
        self._path = self._memory = None

    def _view(self, dtype: Any, shape: tuple[int, ...], offset: int) -> Array:
        assert self._memory is not None, "the region is closed"
        return np.ndarray(shape, dtype, buffer=self._memory, offset=offset)


class RegionPair:
    """An input and an output region."""

    def __init__(self, registrar: ServerRegistrar, make: Callable[[str, int], Any] = SystemRegion) -> None:
        self._registrar, self._make = registrar, make
        self._regions: dict[str, Any] = {}
        self._abandoned: list[str] = []  # still registered: a request that timed out may write there
        fork_safety.register(self)

    def put(self, info: ModelInfo, chunk: Chunk) -> tuple[dict[str, MemoryRange], dict[str, MemoryRange]]:
        """Copy the inputs in and reserve memory for the outputs; text, empty tensors and outputs of unknown size are sent inline.

        Raises:
            SharedMemoryUnavailable: The server does not accept the region, or /dev/shm is full.
        """
        self._unregister_abandoned()
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

    def read(self, info: ModelInfo, outputs: dict[str, MemoryRange], rows: int) -> Arrays:
        """Read the outputs of the request that was just answered."""
        specs = {tensor.name: tensor for tensor in info.outputs}
        found = {}
        if outputs:
            self._regions["out"].invalidate()
        for name, place in outputs.items():
            shape = (rows, *specs[name].shape) if info.batches else specs[name].shape
            found[name] = self._regions["out"].read(specs[name].numpy_dtype, shape, place.offset)
        return found

    def abandon(self) -> None:
        """Use other memory from now on: after a time-out the server may still write here, into the next answer."""
        for region in self._regions.values():
            self._abandoned.append(region.name)
            region.destroy()
        self._regions.clear()

    def interrupt(self) -> None:
        """Do nothing: a request ends with its connection."""

    def after_fork(self) -> None:
        """Use other memory from now on, in a forked child; this is the parent's, which alone unregisters it."""
        for region in self._regions.values():
            region.after_fork()
        self._regions, self._abandoned = {}, []

    def close(self) -> None:
        """Unregister and release the memory.

        Waits up to `_CLOSE_S` for requests that timed out; memory that the server still uses then stays mapped until it stops.
        """
        self.abandon()
        deadline = time.monotonic() + _CLOSE_S
        self._unregister_abandoned()
        while self._abandoned and time.monotonic() < deadline:
            time.sleep(0.05)
            self._unregister_abandoned()
        self._abandoned = []

    def _unregister_abandoned(self) -> None:
        """Unregister abandoned memory, except regions that the server reports as in use."""
        if self._abandoned:
            self._abandoned = [name for name in self._abandoned if not self._unregistered(name)]

    def _unregistered(self, name: str) -> bool:
        try:
            self._registrar.unregister(name)
        except ClientError as error:
            return "in use" not in error.faults[0].why
        return True

    def _layout(self, kind: str, sizes: dict[str, int]) -> dict[str, MemoryRange]:
        offsets, total = {}, 0
        for name, size in sizes.items():
            offsets[name] = total
            total += -(-size // _ALIGN_BYTES) * _ALIGN_BYTES
        if not sizes:
            return {}
        name = self._region(kind, total).name
        return {tensor: MemoryRange(name, offset, sizes[tensor]) for tensor, offset in offsets.items()}

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
            self._abandoned.append(old.name)
            old.destroy()
            self._unregister_abandoned()
        return region


def _mapped(path: Path, size_bytes: int) -> mmap.mmap:
    """Create the file and map it; raises `SharedMemoryUnavailable` where it does not fit or /dev/shm is missing."""
    try:
        free = shutil.disk_usage(path.parent).free
        if size_bytes > free:  # filling /dev/shm would harm every other process that uses it
            raise _full(size_bytes, free)
        return _allocated(path, size_bytes)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _full(size_bytes, 0) from None
        what, fix = "there is no shared memory here", "leave shared_memory out"
        raise SharedMemoryUnavailable(Fault(what, path.parent.as_posix(), str(error), fix)) from None


def _allocated(path: Path, size_bytes: int) -> mmap.mmap:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(handle, 0, size_bytes)  # memory that is missing on access kills the process with SIGBUS
        return mmap.mmap(handle, size_bytes)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def _full(size_bytes: int, free_bytes: int) -> SharedMemoryUnavailable:
    why = f"{human_bytes(size_bytes)} are needed, {human_bytes(free_bytes)} are free in {_SHM}"
    fix = "send smaller batches, or give the container a larger --shm-size"
    return SharedMemoryUnavailable(Fault("shared memory is full", why=why, fix=fix))


def uses_shared_memory(info: ModelInfo, inputs: Arrays) -> bool:
    """Say whether any tensor of a request goes through shared memory; text, for example, is sent inline."""
    return bool(_plain(inputs) or _sizes_out(info, 1))


def _plain(arrays: Arrays) -> Arrays:
    # the server refuses ranges of 0 bytes
    return {name: array for name, array in arrays.items() if array.dtype.kind != "O" and array.nbytes}


def _sizes_out(info: ModelInfo, rows: int) -> dict[str, int]:
    sizes = {t.name: _size(t, rows) for t in info.outputs if t.datatype != "BYTES" and -1 not in t.shape}
    return {name: size for name, size in sizes.items() if size}


def _size(tensor: TensorSpec, rows: int) -> int:
    return int(np.prod((rows or 1, *tensor.shape), dtype=np.int64)) * tensor.numpy_dtype.itemsize
