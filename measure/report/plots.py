"""The pictures of a load test's report.

In      a `RunReport`.
Out     name → SVG text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from measure.report.schema import ModelFigures, RunReport, ServerFigures
from measure.report.svg import COLOURS, FAINT, draw


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
        axes.hist(
            values, bins=edges, weights=weights, histtype="stepfilled", alpha=0.35, color=colour, label=_label(row)
        )
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
    marks = [50, 90, 99, 99.9, 99.99]
    for colour, row in zip(COLOURS * 9, rows, strict=False):
        points = [(p, us / 1000) for p, us in row.percentiles if 0 < p < 100]
        axes.plot(
            [1 / (1 - p / 100) for p, _ in points],
            [ms for _, ms in points],
            color=colour,
            marker="o",
            markersize=3,
            label=_label(row),
        )
        limit = row.slo.get("p99_ms")
        if limit and points and limit < 3 * points[-1][1]:  # a far SLO would press the curves to the floor
            axes.axhline(limit, color=colour, linewidth=1, linestyle=":")
    axes.set_xscale("log")
    axes.set_xticks([1 / (1 - p / 100) for p in marks], [f"{p:g}%" for p in marks])
    axes.minorticks_off()
    axes.set_xlabel("of requests are faster; dotted: SLO for p99")
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    axes.legend()


def _throughput(axes: Any, rows: Sequence[ModelFigures], warmup_s: float) -> None:
    axes.set_title("Throughput over time")
    for colour, row in zip(COLOURS * 9, rows, strict=False):
        whole = row.series[:-1] or row.series  # the last second is cut short
        axes.plot(
            [s.t_s for s in whole],
            [s.answers * row.samples_each / s.width_s for s in whole],
            color=colour,
            label=_label(row),
        )
    _warm(axes, warmup_s)
    axes.set_ylabel("infer/sec")
    axes.set_ylim(bottom=0)
    axes.legend()


def _seconds(axes: Any, rows: Sequence[ModelFigures], warmup_s: float) -> None:
    axes.set_title("Latency over time")
    for colour, row in zip(COLOURS * 9, rows, strict=False):
        times = [s.t_s for s in row.series]
        axes.plot(times, [s.p50_us / 1000 for s in row.series], color=colour, label=f"{_label(row)} p50")
        axes.plot(times, [s.p99_us / 1000 for s in row.series], color=colour, linestyle="--", label="p99")
    _warm(axes, warmup_s)
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    axes.legend(ncols=2, fontsize=8)


def _warm(axes: Any, warmup_s: float) -> None:
    if warmup_s:
        axes.axvspan(0, warmup_s, color=FAINT, zorder=0)
    axes.set_xlabel("seconds; grey: warm-up, not counted" if warmup_s else "seconds")


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
