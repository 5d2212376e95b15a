"""The records that the docs quote."""

from __future__ import annotations

from pathlib import Path

from benchmarks.table import page

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_what_the_records_say() -> None:
    assert (ROOT / "docs/benchmarks.md").read_text() == page(), "run: python benchmarks/table.py > docs/benchmarks.md"
