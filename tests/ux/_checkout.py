"""The files of this checkout, and a copy of it to run commands in.

In      git's list of files (new ones too, ignored ones not).
Out     `package_files`, `files`, and `copy_to`, a fresh clone in all but the download: the three environments that
        ``make setup`` would make are linked in.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("planwright", "builders", "serving", "clients", "measure", "loadtest", "benchmarks", "deploy")
ENVIRONMENTS = (".venv", ".venv-server", ".tritonserver")


def files(*patterns: str) -> list[Path]:
    """Return the project's files that match git's patterns, as paths relative to the root."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z", "--", *patterns]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted({Path(name) for name in done.stdout.split("\0") if name and (ROOT / name).is_file()})


def package_files() -> list[Path]:
    """Return the Python files of all packages, tests excluded."""
    return [path for path in files("*.py") if path.parts[0] in PACKAGES]


def copy_to(folder: Path) -> Path:
    """Copy the checkout's files to `folder` and link the environments."""
    for path in files():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target)
    for name in ENVIRONMENTS:
        (folder / name).symlink_to(ROOT / name)
    return folder
