"""The oldest packages that the SDK allows: what Python 3.10 gets differs from what these tests otherwise run on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from planwright.server_info import ServerInfo
from tests._server import ROOT
from tests.clients._command import where

OLDEST = (
    "tritonclient==2.60.0",
    "geventhttpclient==2.4.0",
    "hpack==4.0.0",
)  # pyproject.toml's bound; constraints/py310.txt
CACHE = ROOT / ".cache" / "oldest-clients"


@pytest.fixture(scope="module")
def oldest() -> Path:
    """A folder with those packages, to be looked in first."""
    marker = CACHE / "+".join(OLDEST)
    if not marker.exists():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--upgrade",
            "--target",
            str(CACHE),
            *OLDEST,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            pytest.skip(f"no {' and '.join(OLDEST)} for this Python: {done.stderr.strip().splitlines()[-1]}")
        marker.touch()
    return CACHE


def test_every_answer_is_right_over_the_oldest_packages(oldest: Path, server: ServerInfo, repository: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(oldest)}
    code = "import geventhttpclient, tritonclient; print(geventhttpclient.__file__)"
    seen = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert str(oldest) in seen.stdout, seen.stderr
    command = [sys.executable, "-m", "clients", "validate", "affine", "two", "text", *where(server, repository)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "http" in done.stdout
