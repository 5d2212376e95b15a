"""Check whether Planwright can be set up on this machine; everything that is missing is reported at once.

In      the Pythons on PATH, the system.
Out     `find_python`, `problems`, and `render`, which ends with one apt-get command that fixes all of it.

Standard library only, and no syntax newer than Python 3.7: it must be able to report that this Python is too old.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

EXIT_USAGE, EXIT_MACHINE, EXIT_INTERRUPTED = 2, 3, 130  # as in planwright/errors.py
FULL, SERVE = ("3.12", "3.11"), ("3.12", "3.11", "3.10")
NEED_BYTES = 6 << 30
NEED_GLIBC = (2, 35)  # of the tritonserver wheel
SYSTEM_LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
# the suitable Python that each distribution packages
PACKAGED = {"bookworm": "3.11", "jammy": "3.11", "noble": "3.12"}

# Run in a child, because the candidate may be another Python than this one.
PROBE = """
import importlib.util, sys, sysconfig
print("%d.%d" % sys.version_info[:2]); print(sys.version.split()[0])
print(int(all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))))
print(sysconfig.get_config_var("INSTSONAME") or ""); print(sysconfig.get_config_var("LIBDIR") or "")
"""
# Run with the environment's Python, which can import planwright; in a child, because a driver may crash it.
GPU_PROBE = """
from planwright.gpu import first_device
found = first_device()
print(found.name if found else ""); print(found.cuda if found else "")
"""


@dataclass(frozen=True)
class Python:
    path: str
    minor: str
    version: str
    has_venv: bool
    has_library: bool

    @property
    def is_complete(self) -> bool:
        """True where only the version could be wrong."""
        return self.has_venv and self.has_library


@dataclass(frozen=True)
class Gpu:
    """The GPU to use: its name, and the CUDA version that its driver supports, such as ``13.0``."""

    name: str
    cuda: str


@dataclass(frozen=True)
class Missing:
    """One thing that this machine lacks, and the Debian or Ubuntu packages that provide it."""

    what: str
    packages: tuple[str, ...] = ()


def find_python(given: str, serve_only: bool) -> Python | None:
    """Return the Python to use: the given one, else the first complete one on PATH, else the first of a good version."""
    if given:
        return probe(given)
    good = SERVE if serve_only else FULL
    seen = [probe(name) for name in [*(f"python{minor}" for minor in good), "python3"]]
    candidates = [python for python in seen if python is not None]
    right = [python for python in candidates if python.minor in good]
    ranked = [*(python for python in right if python.is_complete), *right, *candidates]
    return ranked[0] if ranked else None


def probe(name: str) -> Python | None:
    """Return what a Python has; None where it does not run (a pyenv shim of a version that is not active)."""
    path = shutil.which(name)
    if path is None:
        return None
    done = subprocess.run([path, "-c", PROBE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if done.returncode:
        return None
    minor, version, has_venv, library, folder = [*done.stdout.split("\n"), "", ""][:5]
    return Python(path, minor, version, has_venv == "1", has_shared_library(minor, library, folder))


def has_shared_library(minor: str, name: str, folder: str) -> bool:
    """Return whether the libpython that the server's stubs load is there; in Debian it is a separate package."""
    places = [Path(folder), Path(folder) / "x86_64-linux-gnu", SYSTEM_LIBRARIES]
    return ".so" in name and any(list(place.glob(f"libpython{minor}.so*")) for place in places)


def find_gpu(python: Path, root: Path) -> Gpu | None:
    command = [str(python), "-c", GPU_PROBE]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    name, cuda = [*done.stdout.split("\n"), "", ""][:2]
    return Gpu(name, cuda) if name else None


def problems(found: Python | None, serve_only: bool, root: Path) -> list[Missing]:
    return [*system_problems(), *python_problems(found, serve_only), *disk_problems(root)]


def system_problems() -> list[Missing]:
    missing = []
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        missing.append(Missing(f"Linux on x86-64; this is {platform.system()} on {platform.machine()}"))
    version = glibc_version()
    if tuple(map(int, version.split(".")[:2] if version else ())) < NEED_GLIBC:
        found = version or "another C library"
        missing.append(Missing(f"glibc 2.35 or newer (Debian 12, Ubuntu 22.04); this is {found}"))
    for tool in ("git", "bash"):
        if shutil.which(tool) is None:
            missing.append(Missing(tool, (tool,)))
    return missing


def glibc_version() -> str:
    """Return the running glibc's version, "" with another C library; platform.libc_ver() reads the executable instead."""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")[2]
    except (ValueError, OSError):
        return ""


def python_problems(found: Python | None, serve_only: bool) -> list[Missing]:
    good = SERVE if serve_only else FULL
    wanted = " or ".join(sorted(good))
    if found is None or found.minor not in good:
        minor = packaged_python()
        this = f"; this is {found.version} ({found.path})" if found else ""
        text = f"Python {wanted} with venv and a shared libpython{this}; name another with make setup PYTHON=/path/to/python"
        return [Missing(text, (f"python{minor}", f"python{minor}-venv", f"libpython{minor}"))]
    missing = []
    if not found.has_venv:
        missing.append(Missing(f"venv for {found.path}", (f"python{found.minor}-venv",)))
    if not found.has_library:
        package = f"libpython{found.minor}"
        missing.append(Missing(f"a shared {package}, which the server's stubs load", (package,)))
    return missing


def packaged_python() -> str:
    release = Path("/etc/os-release")
    words = release.read_text() if release.exists() else ""
    return next((minor for name, minor in PACKAGED.items() if f"VERSION_CODENAME={name}" in words), "3.12")


def disk_problems(root: Path) -> list[Missing]:
    free = shutil.disk_usage(root).free
    if free >= NEED_BYTES or (root / ".tritonserver").exists():
        return []
    return [Missing(f"{NEED_BYTES >> 30} GiB of disk space at {root}; {free / (1 << 30):.1f} GiB are free")]


def render(missing: list[Missing]) -> str:
    """Return one message, with one command for all packages."""
    lines = ["error: this machine lacks what Planwright needs", *(f"  - {item.what}" for item in missing)]
    packages = [package for item in missing for package in item.packages]
    if packages:
        lines.append(f"  fix    apt-get install {' '.join(packages)}")
    return "\n".join([*lines, "  check  make setup"])
