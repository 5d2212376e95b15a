"""What `validate` found, for a person and for programs.

In      the `Row`s of a run.
Out     table cells, one summary per model, the first failure of each model.

A table has one line per model and transport, because a healthy repository of ten models has over a hundred rows; where a row is not
ok, all rows of that model and transport are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from planwright import console

from .validate import OK, SKIPPED, Row

COLUMNS = ("model", "version", "transport", "batch", "samples", "relative error", "cosine", "verdict", "reason")


def stage(row: Row) -> tuple[str, str, str]:
    """Return what a line of the table stands for: model, version and transport."""
    return row.model, row.version, row.transport


def condensed(rows: Iterable[Row]) -> list[Row]:
    """Fold the rows of each model, version and transport into one with the worst figures, unless one of them is not ok."""
    found: list[Row] = []
    for _, group in groupby(rows, stage):
        members = list(group)
        found += [_worst(members)] if all(row.verdict == OK for row in members) else members
    return found


def _worst(rows: Sequence[Row]) -> Row:
    return Row(
        rows[0].model, rows[0].version, rows[0].transport, ", ".join(row.batch for row in rows), sum(row.samples for row in rows),
        max(row.relative or 0.0 for row in rows), min(1.0 if row.cosine is None else row.cosine for row in rows), OK,
        "; ".join(row.reason for row in rows if row.reason), rows[0].weights,
    )  # fmt: skip


def show(rows: Iterable[Row], *, verbose: bool) -> None:
    """Print the table; `verbose` for a line per row."""
    console.table("golden answers", COLUMNS, [_cells(row) for row in (rows if verbose else condensed(rows))])


def _cells(row: Row) -> tuple[object, ...]:
    model = row.model + (" (random weights)" if row.weights == "random" else "")
    relative = "-" if row.relative is None else f"{row.relative:.2g}"
    cosine = "-" if row.cosine is None else f"{row.cosine:.6f}"
    return (model, row.version, row.transport, row.batch, row.samples, relative, cosine, row.verdict, row.reason)


def first_failures(rows: Iterable[Row]) -> list[Row]:
    """Return the first bad row of each model that has one."""
    first: dict[str, Row] = {}
    for row in rows:
        if row.bad:
            first.setdefault(row.model, row)
    return list(first.values())


def summaries(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Return one entry per model: what was served, with which weights, and the first failing stage."""
    failing = {row.model: row.transport for row in first_failures(rows)}
    return [_summary(name, [row for row in rows if row.model == name], failing.get(name)) for name in _names(rows)]


def _summary(name: str, rows: Sequence[Row], failing: str | None) -> dict[str, object]:
    return {
        "model": name,
        "versions": list(dict.fromkeys(row.version for row in rows)),
        "weights": rows[0].weights,
        "failures": sum(row.bad for row in rows),
        "skipped": list(dict.fromkeys(row.transport for row in rows if row.verdict == SKIPPED)),
        "first_failing_stage": failing,
    }


def _names(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row.model for row in rows))
