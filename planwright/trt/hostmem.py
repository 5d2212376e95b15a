"""Host memory that others allocated, page-locked in place.

In      addresses of arrays in a shared-memory mapping, such as the pool in which Triton hands tensors to a Python backend.
Out     `Registered.covers`: True where the GPU may read the array without a copy into pinned memory.

A mapping is registered with CUDA when an address in it is first seen. Triton grows its pool by mapping it again at another
address and keeps the old mapping, so a registration stays good. Where CUDA refuses (no right to lock memory, say), arrays
are gathered by copies from then on.
"""

from __future__ import annotations

import bisect
from pathlib import Path

from . import cuda

MAPS = Path("/proc/self/maps")
SHARED = "/dev/shm/"  # private memory may be given back and mapped to something else behind a registration


class Registered:
    """The ranges of this process that CUDA has page-locked."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._refused = False

    def covers(self, address: int, size_bytes: int) -> bool:
        """Return whether the range is page-locked, registering its mapping at first use."""
        if self._refused:
            return False
        return self._known(address, size_bytes) or (self._register(address) and self._known(address, size_bytes))

    def free(self) -> None:
        """Unregister everything."""
        for start in self._starts:
            cuda.cudart.cudaHostUnregister(start)
        self._starts, self._ends = [], []

    def _known(self, address: int, size_bytes: int) -> bool:
        index = bisect.bisect_right(self._starts, address) - 1
        # one registration must hold all of it: CUDA copies from no two at once
        return index >= 0 and address + size_bytes <= self._ends[index]

    def _register(self, address: int) -> bool:
        start, end = mapping_of(address)
        known = zip(self._starts, self._ends, strict=True)
        if end <= start or any(start < last and first < end for first, last in known):
            return False
        code = cuda.cudart.cudaHostRegister(start, end - start, cuda.cudart.cudaHostRegisterDefault)[0]
        if int(code) != 0:
            cuda.cudart.cudaGetLastError()  # or the next call would report it
            self._refused = True
            return False
        index = bisect.bisect_right(self._starts, start)
        self._starts.insert(index, start)
        self._ends.insert(index, end)
        return True


def mapping_of(address: int) -> tuple[int, int]:
    """Return the shared-memory mapping that holds an address; (0, 0) where none does."""
    for line in MAPS.read_text().splitlines():
        first, _, last = line.split(" ", 1)[0].partition("-")
        if int(first, 16) <= address < int(last, 16):
            return (int(first, 16), int(last, 16)) if SHARED in line else (0, 0)
    return 0, 0
