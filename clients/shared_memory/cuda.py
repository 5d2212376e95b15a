"""CUDA shared memory: tensors that stay on the GPU between client and server.

In      arrays.
Out     `CudaRegion`, which `RegionPair` uses like a region of system memory.

tritonclient's module allocates, copies and exports the memory; it needs the package cuda-python. It copies from the
beginning of a region only, so tensors are laid out in a host copy first, which is copied as a whole.
"""

from __future__ import annotations

import functools
import importlib
import os
import secrets
from typing import Any

import numpy as np

from planwright.errors import Fault
from planwright.tensors import Array

from .. import fork_safety
from ..errors import SharedMemoryUnavailable

DEVICE = 0
_users: list[int] = []  # processes that have used CUDA: this one and those that it was forked from


class CudaRegion:
    """One piece of GPU memory."""

    def __init__(self, kind: str, size_bytes: int) -> None:
        self._library = _library()
        self.name = f"planwright-cuda-{kind}-{os.getpid()}-{secrets.token_hex(8)}"
        self.size_bytes = size_bytes
        self._handle = self._call("create_shared_memory_region", self.name, size_bytes, DEVICE)
        self.key = self._call("get_raw_handle", self._handle).decode()
        _users[:] = _users or [os.getpid()]
        self._host = np.zeros(size_bytes, np.uint8)
        self._fresh = False

    def unlink(self) -> None:
        """Do nothing: the memory has no name in any file system."""

    def write(self, array: Array, offset: int) -> None:
        """Write `array` into the host copy at `offset`; `flush` copies it to the GPU."""
        self._host[offset : offset + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def flush(self) -> None:
        """Copy the host copy to the GPU."""
        self._call("set_shared_memory_region", self._handle, [self._host])

    def invalidate(self) -> None:
        """Note that the server has written: the next `read` copies from the GPU."""
        self._fresh = False

    def read(self, dtype: Any, shape: tuple[int, ...], offset: int) -> Array:
        """Return a copy of the array at `offset`."""
        if not self._fresh:
            self._host = self._call("get_contents_as_numpy", self._handle, np.uint8, [self.size_bytes])
            self._fresh = True
        return np.ndarray(shape, dtype, buffer=self._host.data, offset=offset).copy()

    def destroy(self) -> None:
        """Release the memory."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._call("destroy_shared_memory_region", handle)

    def after_fork(self) -> None:
        """Leave the memory alone in a forked child, where CUDA does not work: making a region there raises an error."""
        handle, self._handle = self._handle, None
        fork_safety.leave_to_parent(handle)

    def _call(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self._library, function)(*arguments)
        except self._library.CudaSharedMemoryException as error:
            raise (_used_before_fork() if _users and os.getpid() not in _users else _unavailable(str(error))) from None


@functools.cache
def load() -> Any:
    """Return tritonclient's module, or why it cannot be imported; to be called when a client is made.

    The first request reports the failure, not the client's construction.
    """
    try:
        return importlib.import_module("tritonclient.utils.cuda_shared_memory")
    except (ImportError, RuntimeError) as error:
        return str(error)


def _library() -> Any:
    found = load()
    if isinstance(found, str):
        raise _unavailable(found)
    return found


def _used_before_fork() -> SharedMemoryUnavailable:
    what, why = "CUDA shared memory does not work in this process", "it was forked from one that had used CUDA"
    fix = "start it by multiprocessing's 'spawn', fork before the first request, or use shared_memory='system'"
    return SharedMemoryUnavailable(Fault(what, why=why, fix=fix))


def _unavailable(why: str) -> SharedMemoryUnavailable:
    fix = "use shared_memory='system', or run on a machine with a GPU and the package cuda-python"
    return SharedMemoryUnavailable(Fault("there is no CUDA shared memory here", why=why, fix=fix))
