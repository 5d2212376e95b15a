"""The pictures of reports: of a load test, of sweep and tune; and what all pictures share.

In      a `RunReport`, or the value of a sweep's or a tune's report.json.
Out     name → SVG text to be put into a page; letters as paths, so that it needs no font and no network.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from measure.report.schema import ModelFigures, RunReport, ServerFigures

COLOURS = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#64748b")
INK, FAINT = "#334155", "#e2e8f0"
GOOD, DULL = "#059669", "#94a3b8"
NAMED = 12  # above that many points, labels would cover each other
MARKS = (50, 90, 99, 99.9, 99.99)
_STYLE = {
    "svg.fonttype": "path", "svg.hashsalt": "planwright", "font.size": 9.5, "axes.edgecolor": "#94a3b8", "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": FAINT, "axes.axisbelow": True, "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none",
    "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlecolor": INK,
}  # fmt: skip


def draw(painter: Callable[..., None], *args: Any) -> str:
    """Return what `painter` draws, given the axes and `args`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.6, 3.0), layout="constrained")
        axes = figure.add_subplot()
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


def run(report: RunReport) -> dict[str, str]:
    rows = [row for row in report.models if row.histogram]
    plots = {}
    if rows:
        plots["latency"] = draw(_latency, rows)
        plots["percentiles"] = draw(_percentiles, rows)
        plots["throughput"] = draw(_throughput, rows, report.warmup_s)
        plots["seconds"] = draw(_seconds, rows, report.warmup_s)
    busy = {name: row for name, row in report.server.items() if row.requests > 0}
    if busy:
        plots["split"] = draw(_split, busy)
        if any(row.batches for row in busy.values()):
            plots["batches"] = draw(_batches, busy)
    return plots


def _label(row: ModelFigures) -> str:
    return f"{row.model} {row.protocol}"


def _latency(axes: Any, rows: Sequence[ModelFigures]) -> None:
    axes.set_title("Latency distribution")
    for colour, row in zip(COLOURS * 9, rows, strict=False):
        values = [us / 1000 for us, _ in row.histogram]
        weights = [count for _, count in row.histogram]
        edges = _edges(min(values), max(values))
        style = {"histtype": "stepfilled", "alpha": 0.35, "color": colour, "label": _label(row)}
        axes.hist(values, bins=edges, weights=weights, **style)
        axes.axvline(row.latency_us.p99 / 1000, color=colour, linestyle="--", linewidth=1)
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis)
    axes.set_xlabel("ms, logarithmic; dashed: p99")
    axes.set_ylabel("requests")
    axes.legend()


def _edges(low: float, high: float) -> list[float]:
    low, high = max(low, 1e-3) * 0.98, max(high, low * 1.05) * 1.02
    return [low * (high / low) ** (step / 48) for step in range(49)]


def _percentiles(axes: Any, rows: Sequence[ModelFigures]) -> None:
    axes.set_title("Percentiles")
    for colour, row in zip(COLOURS * 9, rows, strict=False):
        points = [(p, us / 1000) for p, us in row.percentiles if 0 < p < 100]
        places = [1 / (1 - p / 100) for p, _ in points]
        axes.plot(places, [ms for _, ms in points], color=colour, marker="o", markersize=3, label=_label(row))
        limit = row.slo.get("p99_ms")
        if limit and points and limit < 3 * points[-1][1]:  # a far SLO would press the curves to the floor
            axes.axhline(limit, color=colour, linewidth=1, linestyle=":")
    percentile_axes(axes, "of requests are faster; dotted: SLO for p99")


def percentile_axes(axes: Any, label: str) -> None:
    axes.set_xscale("log")
    axes.set_xticks([1 / (1 - p / 100) for p in MARKS], [f"{p:g}%" for p in MARKS])
    axes.minorticks_off()
    axes.set_xlabel(label)
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    axes.legend()


def _throughput(axes: Any, rows: Sequence[ModelFigures], warmup_s: float) -> None:
    axes.set_title("Throughput over time")
    for colour, row in zip(COLOURS * 9, rows, strict=False):
        whole = row.series[:-1] or row.series  # the last second is cut short
        rates = [s.answers * row.samples_each / s.width_s for s in whole]
        axes.plot([s.t_s for s in whole], rates, color=colour, label=_label(row))
    _time_axes(axes, warmup_s, "infer/sec")
    axes.legend()


def _seconds(axes: Any, rows: Sequence[ModelFigures], warmup_s: float) -> None:
    axes.set_title("Latency over time")
    for colour, row in zip(COLOURS * 9, rows, strict=False):
        times = [s.t_s for s in row.series]
        axes.plot(times, [s.p50_us / 1000 for s in row.series], color=colour, label=f"{_label(row)} p50")
        axes.plot(times, [s.p99_us / 1000 for s in row.series], color=colour, linestyle="--", label="p99")
    _time_axes(axes, warmup_s, "ms")
    axes.legend(ncols=2, fontsize=8)


def _time_axes(axes: Any, warmup_s: float, label: str) -> None:
    if warmup_s:
        axes.axvspan(0, warmup_s, color=FAINT, zorder=0)
    axes.set_xlabel("seconds; grey: warm-up, not counted" if warmup_s else "seconds")
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)


def _split(axes: Any, server: Mapping[str, ServerFigures]) -> None:
    axes.set_title("Where the server spends a request")
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    left = [0.0] * len(server)
    for colour, part in zip(("#94a3b8", "#93c5fd", "#2563eb", "#a7f3d0"), parts, strict=True):
        widths = [getattr(row, f"mean_{part}_us") / 1000 for row in server.values()]
        axes.barh(list(server), widths, left=left, color=colour, label=part.replace("_", " "), height=0.55)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_xlabel("mean ms per request")
    axes.invert_yaxis()
    axes.legend(ncols=4, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, -0.42))


def _batches(axes: Any, server: Mapping[str, ServerFigures]) -> None:
    axes.set_title("Executed batch sizes")
    sizes = sorted({batch.size for row in server.values() for batch in row.batches})
    width = 0.8 / len(server)
    for index, (colour, (name, row)) in enumerate(zip(COLOURS * 9, server.items(), strict=False)):
        counts = {batch.size: batch.count for batch in row.batches}
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


def sweep(report: dict[str, Any]) -> dict[str, str]:
    shown = [point for point in report["points"] if not point.get("refused")]
    if not shown:
        return {}
    alone = {"sweep_throughput": draw(_point_rates, shown), "sweep_latency": draw(_point_latencies, shown)}
    return {**alone, "sweep_both": draw(_both, shown, "p99_us", None)}


def tune(report: dict[str, Any]) -> dict[str, str]:
    key, limit_us = f"{report['slo']['percentile']}_us", report["slo"]["limit_us"]
    shown = [point for point in report["points"] if point["throughput_per_s"]["mean"]]
    plots = {"tune_tried": draw(_both, shown, key, limit_us)} if shown else {}
    if report["finals"]:
        plots["tune_finals"] = draw(_point_rates, report["finals"])
    return plots


def _point_rates(axes: Any, points: list[dict[str, Any]]) -> None:
    axes.set_title("Throughput")
    _lines(axes, points, "throughput_per_s", 1.0, COLOURS[0], "")
    axes.set_xlabel("infer/sec; bars: 95% interval, dots: single repeats")


def _point_latencies(axes: Any, points: list[dict[str, Any]]) -> None:
    axes.set_title("Latency")
    for colour, name in zip(COLOURS, ("p50", "p99"), strict=False):
        _lines(axes, points, f"{name}_us", 1e-3, colour, name)
    axes.set_xlabel("ms; bars: 95% interval")
    axes.legend()


def _lines(axes: Any, points: list[dict[str, Any]], key: str, unit: float, colour: str, name: str) -> None:
    places = list(range(len(points)))
    middle = [point[key]["mean"] * unit for point in points]
    spread = [point[key]["half_width"] * unit for point in points]
    axes.errorbar(middle, places, xerr=spread, color=colour, marker="o", linestyle="", capsize=3, label=name)
    for place, point in zip(places, points, strict=True):
        values = [value * unit for value in point[key]["values"]]
        axes.plot(values, [place] * len(values), ".", color=DULL, markersize=4)
    # an interval of two repeats can be many times the value: the figures stay readable, the bars run out of the picture
    top = max((value * unit for point in points for value in point[key]["values"]), default=1.0)
    axes.set_xlim(0, max(top * 1.15, axes.get_xlim()[1] if key.endswith("_us") else 0))
    axes.set_yticks(places, [_short(point) for point in points], fontsize=max(4.5, min(8.5, 110 / len(points))))
    axes.set_ylim(len(points) - 0.5, -0.5)


def _both(axes: Any, points: list[dict[str, Any]], key: str, limit_us: float | None) -> None:
    axes.set_title("Throughput against latency")
    for number, point in enumerate(points, 1):
        rate, late = point["throughput_per_s"], point[key]
        pick = point.get("fate") == "the pick"
        colour = GOOD if pick else COLOURS[0] if point.get("within", True) else DULL
        axes.errorbar(
            late["mean"] / 1000, rate["mean"], xerr=late["half_width"] / 1000, yerr=rate["half_width"],
            color=colour, marker="*" if pick else "o", markersize=11 if pick else 5, capsize=2, elinewidth=0.8,
        )  # fmt: skip
        if len(points) <= NAMED or pick:
            place = (late["mean"] / 1000, rate["mean"])
            name = str(point.get("number", number))
            axes.annotate(name, place, (4, 4), textcoords="offset points", fontsize=8, color=INK)
    if limit_us is not None:
        axes.axvline(limit_us / 1000, color=COLOURS[3], linestyle=":", linewidth=1.2)
    _limits(axes, points, key, limit_us)
    legend = "dotted: the SLO; numbers: as tried" if limit_us else "numbers: as listed"
    axes.set_xlabel(f"{key.removesuffix('_us')} in ms; {legend}")
    axes.set_ylabel("infer/sec")


def _limits(axes: Any, points: list[dict[str, Any]], key: str, limit_us: float | None) -> None:
    late = max(max(point[key]["values"]) for point in points) / 1000
    rate = max(max(point["throughput_per_s"]["values"]) for point in points)
    # a far SLO would press the points against the axis
    shown = limit_us / 1000 if limit_us and limit_us / 1000 < 4 * late else 0.0
    axes.set_xlim(0, max(late, shown) * 1.15 or 1)
    axes.set_ylim(0, rate * 1.2 or 1)


def _short(point: dict[str, Any]) -> str:
    users = f" · {point['users']} in flight" if "users" in point else ""
    return str(point["label"]).replace("no batcher", "none").replace("delay ", "") + users


DRAW: dict[str, Callable[[Any], dict[str, str]]] = {"run": run, "sweep": sweep, "tune": tune}
