"""The server's private backend folder.

In      an installation and the stubs' Python.
Out     a temporary folder with the python backend, its stub and our Python-based backends.

The stub is copied, never linked: when it cannot start, the server changes its file mode, which through a link would
damage the installed wheel. The folder lies in the system's temporary place because the server hands its path to a
shell, and a checkout may lie under any name.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from planwright.errors import Fault, MachineError
from serving.find import Installation, StubPython

BACKENDS = Path(__file__).parent / "backends"
STUB = "triton_python_backend_stub"


def make(installation: Installation, python: StubPython) -> Path:
    """Return a fresh backend folder; the caller removes it.

    Raises:
        MachineError: The installation has no stub for this Python (exit 3).
    """
    folder = Path(tempfile.mkdtemp(prefix="planwright-backends-"))
    source, target = installation.home / "backends" / "python", folder / "python"
    shutil.copytree(source, target)
    if installation.stubs is not None:
        stub = installation.stubs / python.minor / STUB
        if not stub.exists():
            known = ", ".join(sorted(entry.name for entry in installation.stubs.iterdir()))
            shutil.rmtree(folder)
            raise MachineError(Fault(f"the server has no stub for Python {python.minor}", str(installation.stubs), f"it has {known}", "make setup PYTHON=python3.11"))
        shutil.copy2(stub, target / STUB)
    (target / STUB).chmod(0o755)
    for backend in BACKENDS.iterdir():
        if backend.is_dir() and (backend / "model.py").exists():
            shutil.copytree(backend, folder / backend.name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder
