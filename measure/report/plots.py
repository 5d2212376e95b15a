"""The pictures of a report, as inline SVG.

In      report.json's value.
Out     name → SVG text; text as paths, so that the page needs no font and no network.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

COLOURS = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#64748b")
INK, FAINT = "#334155", "#e2e8f0"
_STYLE = {
    "svg.fonttype": "path", "svg.hashsalt": "planwright", "font.size": 9.5, "axes.edgecolor": "#94a3b8", "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": FAINT, "axes.axisbelow": True, "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none",
    "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlecolor": INK,
}  # fmt: skip


def run(report: dict[str, Any]) -> dict[str, str]:
    """Draw a run: latency distribution, time series, server split, batch sizes."""
    rows = [row for row in report["models"] if row["histogram"]]
    plots = {}
    if rows:
        plots["latency"] = _draw(_latency, rows)
        plots["percentiles"] = _draw(_percentiles, rows)
        plots["throughput"] = _draw(_throughput, rows, report["warmup_s"])
        plots["seconds"] = _draw(_seconds, rows, report["warmup_s"])
    busy = {name: row for name, row in report["server"].items() if row["requests"] > 0}
    if busy:
        plots["split"] = _draw(_split, busy)
        if any(row["batches"] for row in busy.values()):
            plots["batches"] = _draw(_batches, busy)
    return plots


def sweep(report: dict[str, Any]) -> dict[str, str]:
    """Draw a sweep: throughput and latency of each point, and one against the other."""
    from measure.report import point_plots as points

    shown = [point for point in report["points"] if not point.get("refused")]
    if not shown:
        return {}
    return {
        "sweep_throughput": _draw(points.throughput, shown),
        "sweep_latency": _draw(points.latency, shown),
        "sweep_both": _draw(points.both, shown, "p99_us", None),
    }


def tune(report: dict[str, Any]) -> dict[str, str]:
    """Draw a tune: throughput against latency of all that was tried and of what was measured again, and the SLO."""
    from measure.report import point_plots as points

    key, limit_us = f"{report['slo']['percentile']}_us", report["slo"]["limit_us"]
    shown = [point for point in report["points"] if point["throughput_per_s"]["mean"]]
    plots = {"tune_tried": _draw(points.both, shown, key, limit_us)} if shown else {}
    if report["finals"]:
        plots["tune_finals"] = _draw(points.throughput, report["finals"])
    return plots


@contextmanager
def _figure() -> Iterator[tuple[Any, Any]]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.6, 3.0), layout="constrained")
        yield figure, figure.add_subplot()


def _draw(painter: Any, *args: Any) -> str:
    with _figure() as (figure, axes):
        painter(axes, *args)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    title = re.sub(r"[<>&\"]", "", axes.get_title(loc="left"))
    # ids repeat from plot to plot and would cross-link inside one page
    prefix = re.sub(r"\W", "", title)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def _label(row: dict[str, Any]) -> str:
    return f"{row['model']} {row['protocol']}"


def _latency(axes: Any, rows: list[dict[str, Any]]) -> None:
    axes.set_title("Latency distribution")
    for colour, row in zip(COLOURS * 9, rows, strict=False):
        values = [us / 1000 for us, _ in row["histogram"]]
        weights = [count for _, count in row["histogram"]]
        edges = _edges(min(values), max(values))
        axes.hist(
            values, bins=edges, weights=weights, histtype="stepfilled", alpha=0.35, color=colour, label=_label(row)
        )
        axes.axvline(row["latency_us"]["p99"] / 1000, color=colour, linestyle="--", linewidth=1)
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis)
    axes.set_xlabel("ms, logarithmic; dashed: p99")
    axes.set_ylabel("requests")
    axes.legend()


def _edges(low: float, high: float) -> list[float]:
    low, high = max(low, 1e-3) * 0.98, max(high, low * 1.05) * 1.02
    return [low * (high / low) ** (step / 48) for step in range(49)]


def _percentiles(axes: Any, rows: list[dict[str, Any]]) -> None:
    axes.set_title("Percentiles")
    marks = [50, 90, 99, 99.9, 99.99]
    for colour, row in zip(COLOURS * 9, rows, strict=False):
        points = [(p, us / 1000) for p, us in row["percentiles"] if 0 < p < 100]
        axes.plot(
            [1 / (1 - p / 100) for p, _ in points],
            [ms for _, ms in points],
            color=colour,
            marker="o",
            markersize=3,
            label=_label(row),
        )
        limit = row["slo"].get("p99_ms")
        if limit and points and limit < 3 * points[-1][1]:  # a far SLO would press the curves to the floor
            axes.axhline(limit, color=colour, linewidth=1, linestyle=":")
    axes.set_xscale("log")
    axes.set_xticks([1 / (1 - p / 100) for p in marks], [f"{p:g}%" for p in marks])
    axes.minorticks_off()
    axes.set_xlabel("of requests are faster; dotted: SLO for p99")
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    axes.legend()


def samples_per_request(row: dict[str, Any]) -> float:
    """Return the mean over the run; older records held requests of one size and said only that."""
    return float(row.get("samples_per_request") or (row["batch"] if isinstance(row["batch"], int) else 1))


def _throughput(axes: Any, rows: list[dict[str, Any]], warmup_s: float) -> None:
    axes.set_title("Throughput over time")
    for colour, row in zip(COLOURS * 9, rows, strict=False):
        whole = row["series"][:-1] or row["series"]  # the last second is cut short
        axes.plot(
            [s["t_s"] for s in whole],
            [s["answers"] * samples_per_request(row) / s["width_s"] for s in whole],
            color=colour,
            label=_label(row),
        )
    _warm(axes, warmup_s)
    axes.set_ylabel("infer/sec")
    axes.set_ylim(bottom=0)
    axes.legend()


def _seconds(axes: Any, rows: list[dict[str, Any]], warmup_s: float) -> None:
    axes.set_title("Latency over time")
    for colour, row in zip(COLOURS * 9, rows, strict=False):
        times = [s["t_s"] for s in row["series"]]
        axes.plot(times, [s["p50_us"] / 1000 for s in row["series"]], color=colour, label=f"{_label(row)} p50")
        axes.plot(times, [s["p99_us"] / 1000 for s in row["series"]], color=colour, linestyle="--", label="p99")
    _warm(axes, warmup_s)
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    axes.legend(ncols=2, fontsize=8)


def _warm(axes: Any, warmup_s: float) -> None:
    if warmup_s:
        axes.axvspan(0, warmup_s, color=FAINT, zorder=0)
    axes.set_xlabel("seconds; grey: warm-up, not counted" if warmup_s else "seconds")


def _split(axes: Any, server: dict[str, Any]) -> None:
    axes.set_title("Where the server spends a request")
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    left = [0.0] * len(server)
    for colour, part in zip(("#94a3b8", "#93c5fd", "#2563eb", "#a7f3d0"), parts, strict=True):
        widths = [row[f"mean_{part}_us"] / 1000 for row in server.values()]
        axes.barh(list(server), widths, left=left, color=colour, label=part.replace("_", " "), height=0.55)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_xlabel("mean ms per request")
    axes.invert_yaxis()
    axes.legend(ncols=4, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, -0.42))


def _batches(axes: Any, server: dict[str, Any]) -> None:
    axes.set_title("Executed batch sizes")
    sizes = sorted({batch["size"] for row in server.values() for batch in row["batches"]})
    width = 0.8 / len(server)
    for index, (colour, (name, row)) in enumerate(zip(COLOURS * 9, server.items(), strict=False)):
        counts = {batch["size"]: batch["count"] for batch in row["batches"]}
        places = [position + (index - (len(server) - 1) / 2) * width for position in range(len(sizes))]
        axes.bar(places, [counts.get(size, 0) for size in sizes], width=width, color=colour, label=name)
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axes.set_xlabel("samples in one execution")
    axes.set_ylabel("executions")
    axes.legend()


def _plain_ticks(axis: Any) -> None:
    from matplotlib.ticker import LogLocator, ScalarFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_formatter(lambda *_: "")
