"""Sections and tables of docs/benchmarks.md.

In      records of benchmarks/results.
Out     Markdown lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def section(title: str, *parts: str | Sequence[str]) -> list[str]:
    """Return a heading and its parts, each a line or lines, with blank lines between them."""
    lines = [f"## {title}"]
    for part in parts:
        lines += ["", *([part] if isinstance(part, str) else part)]
    return lines


def table(columns: str, rows: Iterable[Sequence[object]]) -> list[str]:
    """Return a table.

    >>> table("what | ratio:", [("a", 1)])
    ['| what | ratio |', '| --- | ---: |', '| a | 1 |']
    """
    names = [name.strip() for name in columns.split("|")]
    header = [name.removesuffix(":") for name in names]
    return [_line(header), _line("---:" if name.endswith(":") else "---" for name in names), *map(_line, rows)]


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def spread(row: dict[str, Any], digits: int = 3) -> tuple[str, str]:
    median = row["ratio"] if "ratio" in row else row["value"]
    return f"{median:.{digits}f}", f"{row['low']:.{digits}f} – {row['high']:.{digits}f}"


def met(row: dict[str, Any]) -> str:
    return "met" if row["met"] else "missed"


def when(record: dict[str, Any]) -> str:
    """Return the day, the machine and the versions of a record."""
    versions = ", ".join(f"{name} {record['versions'][name]}" for name in ("onnxruntime", "tritonclient"))
    return f"{record['created'][:10]}, {record['cpu']}, {record['cores']} cores, Python {record['python']}, {versions}"
