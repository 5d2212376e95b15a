"""The page of a comparison, rendered from its JSON value alone; it opens offline.

In      the result of `metrics.compare`.
Out     HTML with inline SVG; everything from outside is escaped.
"""

from __future__ import annotations

import json
from typing import Any

from measure.compare.metrics import bounds_text, change_text, value_text
from measure.report import plots
from measure.report.build import templates

BASE, NEW = plots.COLOURS[:2]
TONES = {"better": "good", "worse": "bad", "cannot say": "unclear", "no change": ""}


def render(comparison: dict[str, Any]) -> str:
    environment = templates()
    environment.filters.update(change=change_text, bounds=bounds_text, tone=lambda word: TONES.get(word, ""))
    environment.globals["value"] = value_text
    drawn = [plot for pair in comparison["models"] for plot in _pair(pair)]
    page = environment.get_template("compare.html.j2")
    return str(page.render(comparison=comparison, plots=drawn, raw=json.dumps(comparison, indent=2)))


def _pair(pair: dict[str, Any]) -> list[str]:
    curves = [curve for side in pair["curves"].values() for curve in side]
    return [plots.draw(painter, pair) for painter in ((_percentiles, _changes) if any(curves) else (_changes,))]


def _percentiles(axes: Any, pair: dict[str, Any]) -> None:
    axes.set_title(f"Percentiles, {pair['model']} over {pair['protocol']}")
    for side, colour in (("base", BASE), ("new", NEW)):
        for number, curve in enumerate(pair["curves"][side]):
            points = [(1 / (1 - share / 100), us / 1000) for share, us in curve if 0 < share < 100]
            x, y = zip(*points, strict=True) if points else ((), ())
            axes.plot(x, y, color=colour, marker="o", markersize=3, label=side if not number else None)
    if pair["slo"]:
        axes.axhline(pair["slo"]["p99_ms"], color=plots.INK, linewidth=1, linestyle=":", label="SLO for p99")
    plots.percentile_axes(axes, "of requests are faster")


def _changes(axes: Any, pair: dict[str, Any]) -> None:
    """Draw each change with its interval; an open end has no cap."""
    axes.set_title(f"Change, {pair['model']} over {pair['protocol']}")
    rows = [row for row in pair["figures"] if row["unit"] != "count"]
    colours = {"better": "#047857", "worse": "#b91c1c"}
    for place, row in enumerate(rows):
        colour = colours.get(row["word"], "#64748b")
        if row["change"] is None:
            continue
        middle = row["change"] * 100
        ends = [middle if row[end] is None else row[end] * 100 for end in ("low", "high")]
        axes.plot(ends, [place, place], color=colour, linewidth=2)
        axes.plot([middle], [place], "o", color=colour, markersize=5)
    axes.axvline(0, color=plots.INK, linewidth=1)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("percent of the base; lines: 99% intervals")
