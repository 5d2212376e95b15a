"""ruff and mypy find nothing, with the settings of pyproject.toml."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.quick import LINT
from tests.ux._checkout import ROOT


@pytest.mark.parametrize("check", LINT)
def test_the_code_is_clean(check: str) -> None:
    done = subprocess.run([sys.executable, "-m", *LINT[check]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
