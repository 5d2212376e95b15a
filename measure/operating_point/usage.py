"""Resources that a server uses during a measurement: its processes' CPU time and memory, the GPU's energy.

In      the process id of the server's launcher (0 where the server runs elsewhere), NVIDIA's management library.
Out     `Meter`, which is read repeatedly while a measurement runs, and `Usage`.

The launcher, tritonserver and one process per model instance are a tree; all of it counts. Memory is the proportional set
size, in which pages shared between these processes count once. A GPU's energy counter is read through ctypes, because the
library comes with the driver and needs no package.
"""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass, field

import psutil


@dataclass(frozen=True)
class Usage:
    """The resources that one measurement took.

    Attributes:
        cpu_s: CPU seconds of the server's processes; None where they are not visible.
        memory_bytes: Peak of their memory; None likewise.
        gpu_w, gpu_memory_bytes: Mean power and peak memory of the GPU; None where there is none.
        skipped: Why a figure is None.
    """

    cpu_s: float | None
    memory_bytes: int | None
    gpu_w: float | None
    gpu_memory_bytes: int | None
    skipped: tuple[str, ...]


@dataclass
class Meter:
    root: int
    gpu: Gpu | None
    _cpu: list[float] = field(default_factory=list)
    _memory: list[int] = field(default_factory=list)
    _energy: list[tuple[float, float, int]] = field(default_factory=list)

    def read(self) -> None:
        if self.root:
            found = processes(self.root)
            self._cpu.append(sum(map(cpu_s, found)))
            self._memory.append(sum(map(memory_bytes, found)))
        if self.gpu is not None:
            self._energy.append((time.monotonic(), self.gpu.energy_j(), self.gpu.memory_bytes()))

    def usage(self, from_s: float, to_s: float) -> Usage:
        """Return what was used; GPU power is the mean between two moments of ``time.monotonic``."""
        skipped = []
        if not self._cpu:
            why = "its processes are not on this machine, or its server file is unknown"
            skipped.append(f"server CPU and memory: {why}")
        if self.gpu is None:
            skipped.append("GPU power: NVIDIA's driver is not on this machine")
        inside = [row for row in self._energy if from_s <= row[0] <= to_s]
        watts = None
        if len(inside) > 1 and inside[-1][0] > inside[0][0]:
            watts = (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])
        used_s = max(0.0, self._cpu[-1] - self._cpu[0]) if self._cpu else None
        gpu_bytes = max((row[2] for row in self._energy), default=None)
        return Usage(used_s, max(self._memory, default=None), watts, gpu_bytes, tuple(skipped))


def processes(root: int) -> list[psutil.Process]:
    """Return the live process `root` and all its descendants."""
    try:
        first = psutil.Process(root)
        return [first, *first.children(recursive=True)]
    except psutil.Error:
        return []


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU seconds of a process and of its children that ended; 0 where it has ended itself."""
    try:
        return sum(process.cpu_times()[:4])
    except psutil.Error:
        return 0.0


def memory_bytes(process: psutil.Process) -> int:
    """Return the proportional set size of a process, or its resident size without permission for that; 0 where it has ended."""
    for read, name in ((process.memory_full_info, "pss"), (process.memory_info, "rss")):
        try:
            return int(getattr(read(), name))
        except psutil.Error:
            continue
    return 0


@dataclass(frozen=True)
class Gpu:
    """The first GPU, through NVIDIA's management library."""

    library: ctypes.CDLL
    handle: ctypes.c_void_p

    def energy_j(self) -> float:
        value = ctypes.c_ulonglong()
        self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle, ctypes.byref(value))
        return value.value / 1000

    def memory_bytes(self) -> int:
        """Return the memory in use, of all programs."""
        value = (ctypes.c_ulonglong * 3)()  # total, free, used
        self.library.nvmlDeviceGetMemoryInfo(self.handle, ctypes.byref(value))
        return int(value[2])


def first_gpu() -> Gpu | None:
    """Return the GPU whose energy is read; None without a driver or an energy counter."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    handle, energy = ctypes.c_void_p(), ctypes.c_ulonglong()
    if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)):
        return None
    if library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(energy)):
        return None
    return Gpu(library, handle)
