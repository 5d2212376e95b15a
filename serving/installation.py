"""The tritonserver on this machine, and the backend folder made from it.

In      PATH, NVIDIA's image, and the wheel that ``make setup`` unpacks into ``.tritonserver/``.
Out     `Installation`, `StubPython`, and a temporary folder with the python backend, its stub and our Python-based backends.

Environment: PLANWRIGHT_TRITONSERVER_DIR (the unpacked wheel) and PLANWRIGHT_SERVER_VENV (the stubs' Python) replace the
checkout's ``.tritonserver`` and ``.venv-server``.

The stub is copied, never linked: when it cannot start, the server changes its file mode, which through a link would
damage the installed wheel. The folder is in the system's temporary folder because the server passes its path to a
shell, and a checkout may have any name.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from planwright.errors import Fault, MachineError
from planwright.files import ROOT
from serving.processes import STUB

IMAGE_BINARY = Path("/opt/tritonserver/bin/tritonserver")
BACKENDS = ROOT / "serving" / "backends"
PLAN_RUNTIME = ROOT / "planwright" / "trt"  # the tensorrt backend's other half, shared with verify
_LIBPYTHON = "/usr/lib/x86_64-linux-gnu"
_DESCRIBE_PYTHON = (
    "import sys,sysconfig as c;print('%d.%d'%sys.version_info[:2],c.get_config_var('LIBDIR'),"
    "c.get_config_var('INSTSONAME'),sys.base_prefix+'/lib')"
)


@dataclass(frozen=True)
class Installation:
    """A tritonserver and what belongs to it.

    Attributes:
        binary: The executable.
        home: Folder with ``backends`` and ``caches``.
        libraries: Folders that the copied stub needs on LD_LIBRARY_PATH.
        stubs: Folder of stubs per Python minor; None where the python backend has its own (NVIDIA's image).
        native: True where there is a C++ onnxruntime backend, so ours is not needed.
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
    binary = home / "bin" / "tritonserver"
    if not binary.exists():
        why, check = f"not on PATH, not at {IMAGE_BINARY}, not unpacked in {wheel}", "python -m serving --help"
        raise MachineError(Fault("tritonserver is not installed", why=why, fix="make setup", check=check))
    return Installation(binary, home, (wheel / "nvidia_pytriton.libs",), home / "python_backend_stubs", native=False)


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
    done = subprocess.run([python, "-c", _DESCRIBE_PYTHON], capture_output=True, text=True, check=True)
    minor, folder, name, base = done.stdout.split()  # the LIBDIR of a relocated Python is wrong, so its base comes next
    library = _library_folder(Path(folder), name) or _library_folder(Path(base), name)
    if library is None:
        why = f"{python} is linked without {name}, which the stub loads"
        fix = f"apt-get install libpython{minor}, then make setup"
        raise MachineError(Fault("Python has no shared libpython", folder, why, fix))
    return StubPython(venv / "bin", minor, library)


def _library_folder(folder: Path, name: str) -> Path | None:
    places = (folder, folder / "x86_64-linux-gnu", Path(_LIBPYTHON)) if ".so" in name else ()
    return next((place for place in places if any(place.glob(f"{name}*"))), None)


def backend_faults(installation: Installation, python: StubPython) -> list[Fault]:
    """Return why no backend folder can be made: no stub for this Python, an unsafe temporary folder."""
    found = []
    if installation.stubs is not None and not (installation.stubs / python.minor / STUB).exists():
        known = ", ".join(sorted(entry.name for entry in installation.stubs.glob("3.*")))
        why = f"the environment of the stubs is Python {python.minor}; the server has stubs for {known or 'none'}"
        what = f"the server has no stub for Python {python.minor}"
        found.append(Fault(what, str(installation.stubs), why, "make setup PYTHON=python3.11"))
    folder = tempfile.gettempdir()
    if not re.fullmatch(r"[A-Za-z0-9._/-]+", folder):
        why = "this server passes it to a shell"
        found.append(Fault("the path of the temporary folder is not safe", folder, why, "set TMPDIR=/tmp"))
    return found


def make_backend_folder(installation: Installation, python: StubPython) -> Path:
    """Return a new backend folder; the caller removes it."""
    folder = Path(tempfile.mkdtemp(prefix="planwright-backends-"))
    target = folder / "python"
    shutil.copytree(installation.home / "backends" / "python", target)
    if installation.stubs is not None:
        shutil.copy2(installation.stubs / python.minor / STUB, target / STUB)
    (target / STUB).chmod(0o755)
    ignore = shutil.ignore_patterns("__pycache__")
    for backend in BACKENDS.iterdir():
        if (backend / "model.py").exists():
            shutil.copytree(backend, folder / backend.name, ignore=ignore)
    shutil.copytree(PLAN_RUNTIME, folder / "tensorrt" / "planwright_trt", ignore=ignore)
    return folder
