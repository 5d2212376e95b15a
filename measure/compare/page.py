"""The page of a comparison, rendered from its JSON value alone; it opens offline.

In      the result of `metrics.compare`.
Out     HTML with inline SVG; everything from outside is escaped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from measure.compare.metrics import bounds_text, change_text, value_text
from measure.report import svg
from planwright.decimals import exact

BASE, NEW = svg.COLOURS[:2]
MARKS = (50, 90, 99, 99.9, 99.99)
WORDS = {"better": "good", "worse": "bad", "cannot say": "doubt", "no change": ""}


def render(comparison: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1] / "report" / "templates"),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        exact=exact, change=change_text, bounds=bounds_text, tone=lambda word: WORDS.get(word, "")
    )
    environment.globals["value"] = value_text
    plots = [plot for pair in comparison["models"] for plot in _pair(pair)]
    return environment.get_template("compare.html.j2").render(
        comparison=comparison, plots=plots, raw=json.dumps(comparison, indent=2)
    )


def _pair(pair: dict[str, Any]) -> list[str]:
    found = [svg.draw(_changes, pair)]
    if any(pair["curves"]["base"]) or any(pair["curves"]["new"]):
        found.insert(0, svg.draw(_percentiles, pair))
    return found


def _percentiles(axes: Any, pair: dict[str, Any]) -> None:
    axes.set_title(f"Percentiles, {pair['model']} over {pair['protocol']}")
    for side, colour in (("base", BASE), ("new", NEW)):
        for number, curve in enumerate(pair["curves"][side]):
            points = [(1 / (1 - share / 100), us / 1000) for share, us in curve if 0 < share < 100]
            x, y = zip(*points, strict=True) if points else ((), ())
            axes.plot(x, y, color=colour, marker="o", markersize=3, label=side if not number else None)
    if pair["slo"]:
        axes.axhline(pair["slo"]["p99_ms"], color=svg.INK, linewidth=1, linestyle=":", label="SLO for p99")
    axes.set_xscale("log")
    axes.set_xticks([1 / (1 - share / 100) for share in MARKS], [f"{share:g}%" for share in MARKS])
    axes.minorticks_off()
    axes.set_xlabel("of requests are faster")
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    axes.legend()


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
    axes.axvline(0, color=svg.INK, linewidth=1)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("percent of the base; lines: 99% intervals")
