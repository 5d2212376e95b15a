"""The server's private backend folder.

In      an installation and the stubs' Python.
Out     a temporary folder with the python backend, its stub and our Python-based backends.

The stub is copied, never linked: when it cannot start, the server changes its file mode, which through a link would
damage the installed wheel. The folder lies in the system's temporary place because the server hands its path to a
shell, and a checkout may lie under any name.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from planwright.errors import Fault
from serving.find import Installation, StubPython

BACKENDS = Path(__file__).parent / "backends"
PLAN_RUNTIME = Path(__file__).parents[1] / "planwright" / "trt"  # the tensorrt backend's own half, shared with verify
STUB = "triton_python_backend_stub"


def faults(installation: Installation, python: StubPython) -> list[Fault]:
    """Return why no folder can be made: no stub for this Python, an unsafe temporary place."""
    found = []
    if installation.stubs is not None and not (installation.stubs / python.minor / STUB).exists():
        known = ", ".join(sorted(entry.name for entry in installation.stubs.glob("3.*")))
        why = f"the environment of the stubs is Python {python.minor}; the server has stubs for {known or 'none'}"
        found.append(
            Fault(
                f"the server has no stub for Python {python.minor}",
                str(installation.stubs),
                why,
                "make setup PYTHON=python3.11",
            )
        )
    if not re.fullmatch(r"[A-Za-z0-9._/-]+", tempfile.gettempdir()):
        found.append(
            Fault(
                "the temporary folder's path is not safe",
                tempfile.gettempdir(),
                "this server hands it to a shell",
                "set TMPDIR=/tmp",
            )
        )
    return found


def make(installation: Installation, python: StubPython) -> Path:
    """Return a fresh backend folder; the caller removes it."""
    folder = Path(tempfile.mkdtemp(prefix="planwright-backends-"))
    source, target = installation.home / "backends" / "python", folder / "python"
    shutil.copytree(source, target)
    if installation.stubs is not None:
        shutil.copy2(installation.stubs / python.minor / STUB, target / STUB)
    (target / STUB).chmod(0o755)
    ignore = shutil.ignore_patterns("__pycache__")
    for backend in BACKENDS.iterdir():
        if (backend / "model.py").exists():
            shutil.copytree(backend, folder / backend.name, ignore=ignore)
    shutil.copytree(PLAN_RUNTIME, folder / "tensorrt" / "planwright_trt", ignore=ignore)
    return folder
