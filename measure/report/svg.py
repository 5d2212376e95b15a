"""What all pictures of a report share.

In      a function that draws on matplotlib's axes.
Out     SVG text to be put into a page; letters as paths, so that it needs no font and no network.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

COLOURS = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#64748b")
INK, FAINT = "#334155", "#e2e8f0"
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
