"""The parts that the benchmarks share: command lines, rows against targets, the page's tables."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks._parts import markdown
from benchmarks._parts.common import ratio_row, spread
from tests._project import ROOT

SCRIPTS = sorted(path.name for path in (ROOT / "benchmarks").glob("[a-z]*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_benchmark_describes_itself(script: str) -> None:
    done = subprocess.run([sys.executable, f"benchmarks/{script}", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert script in done.stdout.splitlines()[0]


@pytest.mark.parametrize(
    ("sign", "target", "met"), [(">=", 1.0, True), ("≥", 1.1, False), ("≤", 1.1, True), ("≤", 0.9, False), ("≤", None, True)]
)  # fmt: skip
def test_a_row_is_judged_by_its_median(sign: str, target: float | None, met: bool) -> None:
    row = ratio_row("ours / theirs", [0.5, 1.0, 9.0], target, sign=sign)
    assert (row["ratio"], row["low"], row["high"], row["met"]) == (1.0, 0.5, 9.0, met)


def test_records_of_either_form_fill_the_same_cells() -> None:
    row = spread([1.0, 2.0, 3.0])
    older = {"value": 2.0, "low": 1.0, "high": 3.0}
    assert markdown.spread(row) == markdown.spread(older) == ("2.000", "1.000 – 3.000")
