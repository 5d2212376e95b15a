"""The pictures of sweep and tune.

In      report.json's value.
Out     name → SVG text.
"""

from __future__ import annotations

from typing import Any

from measure.report.svg import COLOURS, INK, draw

GOOD, DULL = "#059669", "#94a3b8"
NAMED = 12  # above that many points, labels would cover each other


def sweep(report: dict[str, Any]) -> dict[str, str]:
    shown = [point for point in report["points"] if not point.get("refused")]
    if not shown:
        return {}
    return {
        "sweep_throughput": draw(_throughput, shown),
        "sweep_latency": draw(_latency, shown),
        "sweep_both": draw(_both, shown, "p99_us", None),
    }


def tune(report: dict[str, Any]) -> dict[str, str]:
    key, limit_us = f"{report['slo']['percentile']}_us", report["slo"]["limit_us"]
    shown = [point for point in report["points"] if point["throughput_per_s"]["mean"]]
    plots = {"tune_tried": draw(_both, shown, key, limit_us)} if shown else {}
    if report["finals"]:
        plots["tune_finals"] = draw(_throughput, report["finals"])
    return plots


def _throughput(axes: Any, points: list[dict[str, Any]]) -> None:
    axes.set_title("Throughput")
    _lines(axes, points, "throughput_per_s", 1.0, COLOURS[0], "")
    axes.set_xlabel("infer/sec; bars: 95% interval, dots: single repeats")


def _latency(axes: Any, points: list[dict[str, Any]]) -> None:
    axes.set_title("Latency")
    for colour, name in zip(COLOURS, ("p50", "p99"), strict=False):
        _lines(axes, points, f"{name}_us", 1e-3, colour, name)
    axes.set_xlabel("ms; bars: 95% interval")
    axes.legend()


DRAW = {"sweep": sweep, "tune": tune}


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
            axes.annotate(
                str(point.get("number", number)), place, (4, 4), textcoords="offset points", fontsize=8, color=INK
            )
    if limit_us is not None:
        axes.axvline(limit_us / 1000, color=COLOURS[3], linestyle=":", linewidth=1.2)
    _limits(axes, points, key, limit_us)
    axes.set_xlabel(f"{key.removesuffix('_us')} in ms" + ("; dotted: the SLO; numbers: as tried" if limit_us else "; numbers: as listed"))  # fmt: skip
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
