"""Which tritonserver there is on this machine.

In      PATH, NVIDIA's image place, and the wheel that ``make setup`` unpacks into ``.tritonserver/``.
Out     `Installation`.

Environment: PLANWRIGHT_TRITONSERVER_DIR (the unpacked wheel) and PLANWRIGHT_SERVER_VENV (the stubs' Python) point to
other places than the checkout's ``.tritonserver`` and ``.venv-server``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from planwright.errors import Fault, MachineError

ROOT = Path(__file__).resolve().parents[1]
IMAGE_BINARY = Path("/opt/tritonserver/bin/tritonserver")


@dataclass(frozen=True)
class Installation:
    """A tritonserver and what belongs to it.

    Attributes:
        binary: The executable.
        home: Folder with ``backends`` and ``caches``.
        libraries: Folders that the copied stub needs on LD_LIBRARY_PATH.
        stubs: Folder of stubs per Python minor; None where the python backend has its own (NVIDIA's image).
        native: True where a C++ onnxruntime backend is there, so ours is not needed.
    """

    binary: Path
    home: Path
    libraries: tuple[Path, ...]
    stubs: Path | None
    native: bool


@dataclass(frozen=True)
class StubPython:
    """The environment that the stubs run in.

    Attributes:
        bin: Its ``bin`` folder, put first on the server's PATH.
        minor: ``3.11``.
        library: Folder of its libpython.
    """

    bin: Path
    minor: str
    library: Path


def find_server() -> Installation:
    """Return the tritonserver to use: PATH, then NVIDIA's image, then the wheel.

    Raises:
        MachineError: There is none (exit 3).
    """
    on_path = shutil.which("tritonserver")
    for binary in (Path(on_path) if on_path else None, IMAGE_BINARY):
        if binary is not None and binary.exists():
            return _system(binary.resolve())
    wheel = Path(os.environ.get("PLANWRIGHT_TRITONSERVER_DIR", ROOT / ".tritonserver"))
    home = wheel / "pytriton" / "tritonserver"
    if not (home / "bin" / "tritonserver").exists():
        why = f"not on PATH, not at {IMAGE_BINARY}, not unpacked in {wheel}"
        raise MachineError(
            Fault("there is no tritonserver here", why=why, fix="make setup", check="python -m serving --help")
        )
    return Installation(
        home / "bin" / "tritonserver", home, (wheel / "nvidia_pytriton.libs",), home / "python_backend_stubs", False
    )


def _system(binary: Path) -> Installation:
    home = binary.parents[1]
    native = (home / "backends" / "onnxruntime" / "libtriton_onnxruntime.so").exists()
    return Installation(binary, home, (home / "lib",), None, native)


def find_stub_python() -> StubPython:
    """Return the server environment (numpy 1.26), with the folder of its libpython.

    Raises:
        MachineError: It is missing, or its Python has no shared libpython (exit 3).
    """
    venv = Path(os.environ.get("PLANWRIGHT_SERVER_VENV", ROOT / ".venv-server"))
    python = venv / "bin" / "python"
    if not python.exists():
        raise MachineError(Fault("the server's Python environment is missing", str(venv), fix="make setup"))
    ask = (
        "import sys,sysconfig as c;print('%d.%d'%sys.version_info[:2],c.get_config_var('LIBDIR'),"
        "c.get_config_var('INSTSONAME'),sys.base_prefix+'/lib')"
    )
    told = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    minor, folder, name, beside = told  # a Python that was moved knows its LIBDIR no more
    library = _library_folder(Path(folder), name) or _library_folder(Path(beside), name)
    if library is None:
        why = f"{python} is linked without {name}, which the stub loads"
        raise MachineError(
            Fault(
                "Python has no shared libpython", str(folder), why, f"apt-get install libpython{minor}, then make setup"
            )
        )
    return StubPython(venv / "bin", minor, library)


def _library_folder(folder: Path, name: str) -> Path | None:
    if ".so" not in name:
        return None
    for place in (folder, folder / "x86_64-linux-gnu", Path("/usr/lib/x86_64-linux-gnu")):
        if any(place.glob(f"{name}*")):
            return place
    return None
