"""ruff and mypy find nothing, with the settings of pyproject.toml."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.ux._checkout import ROOT

CHECKS = {
    "ruff": ["ruff", "check", "."],
    "ruff, format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "mypy, scripts": ["mypy", "deploy", "docs"],
}


@pytest.mark.parametrize("check", CHECKS)
def test_the_code_is_clean(check: str) -> None:
    done = subprocess.run([sys.executable, "-m", *CHECKS[check]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
