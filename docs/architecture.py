"""Draw docs/architecture.svg: how data flows through the stages, and which package imports which.

In      the pipeline's stage names, the project's imports, the folders of each package.
Out     the picture on stdout: ``python docs/architecture.py > docs/architecture.svg``. A test draws it again and compares.

Positions are chosen here; what is in the picture comes from the code. A new stage or package needs a place below.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from builders.pipeline import NAMES
from tests.ux._checkout import package_files
from tests.ux._imports import Graph, child_graph, module_graph

WIDTH, HEIGHT = 1000, 804
STYLE = """
text { font: 13px ui-sans-serif, system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2937 }
.title { font-size: 15px; font-weight: 600 } .name { font-weight: 600 } .small { font-size: 11px; fill: #4b5563 }
.page { fill: #ffffff } .box { fill: #eef2ff; stroke: #6366f1 } .file { fill: #f3f4f6; stroke: #9ca3af }
.line { stroke: #6b7280; stroke-width: 1.5; fill: none } .head { fill: #6b7280 }
.golden { stroke: #d97706; stroke-width: 2; fill: none } .goldhead { fill: #d97706 } text.gold { fill: #b45309 }
@media (prefers-color-scheme: dark) {
  text { fill: #e5e7eb } .small { fill: #b6bcc8 } .page { fill: #111827 } .box { fill: #1e2447; stroke: #818cf8 }
  .file { fill: #1f2937; stroke: #6b7280 } .line { stroke: #9ca3af } .head { fill: #9ca3af }
  .golden { stroke: #f59e0b } .goldhead { fill: #f59e0b } text.gold { fill: #fbbf24 }
}
"""
# What each stage leaves behind, one line each.
LEAVES = {
    "export": ("model.onnx (FP32)", "golden.npz"),
    "graph": ("model.fp16.onnx", "(or bf16, int8, fp8)"),
    "compile": ("model.plan", "or model.onnx"),
    "verify": ("verify.json", ""),
    "publish": ("config.pbtxt", "build.json"),
}
BOX_W, BOX_H, STEP = 116, 44, 140
FLOW_Y, GOLDEN_Y, SERVE_Y = 56, 186, 240
# Where each package stands, x, y, width, height, and what it is for.
LAYERS_Y = 392
PLACES = {
    "loadtest": (22, LAYERS_Y, 180, 52, "scenarios a user edits"),
    "benchmarks": (222, LAYERS_Y, 756, 52, "side-by-side measurements and their records"),
    "measure": (22, LAYERS_Y + 84, 380, 86, "load, record, report, sweep, tune, compare"),
    "clients": (22, LAYERS_Y + 202, 180, 86, "the SDK, validate"),
    "serving": (222, LAYERS_Y + 202, 180, 86, "Triton without Docker"),
    "builders": (422, LAYERS_Y + 202, 376, 86, "config.yaml → model_repository/"),
    "deploy": (818, LAYERS_Y + 202, 160, 86, "set-up, images, demo"),
    "planwright": (22, LAYERS_Y + 320, 956, 70, "shared vocabulary: errors, golden samples, tolerances, config.yaml"),
}


def draw() -> str:
    modules = module_graph(package_files())
    parts = [*_flow(), *_golden(), *_packages(modules), *_imports(child_graph(modules, ""))]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">'
    title = "<title>How data flows through Planwright, and which package imports which</title>"
    page = f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="8"/>'
    return "\n".join([head, title, f"<style>{STYLE}</style>", page, *parts, "</svg>\n"])


def _flow() -> Iterator[str]:
    yield _text(22, 34, "Data flow", "title")
    names = ["config.yaml", *NAMES, "repository"]
    for column, name in enumerate(names):
        x = 22 + STEP * column
        yield _box(x, FLOW_Y, BOX_W, BOX_H, "box" if name in NAMES else "file", name)
        yield from (
            _text(x + BOX_W / 2, FLOW_Y + BOX_H + 18 + 15 * row, line, "small", "middle")
            for row, line in enumerate(LEAVES[name] if name in NAMES else ())
        )
        if column:
            yield _arrow(x - STEP + BOX_W, FLOW_Y + BOX_H / 2, x, FLOW_Y + BOX_H / 2)
    for column, text in ((0, "zoo/, ONNX files"), (6, "model_repository/")):
        yield _text(22 + STEP * column + BOX_W / 2, FLOW_Y + BOX_H + 18, text, "small", "middle")
    yield from _serving()


def _serving() -> Iterator[str]:
    """Draw the way back, from right to left: Triton, its clients, what measures them, what comes out."""
    columns = {"Triton": 6, "clients": 4, "measure": 2, "runs/<id>/": 0}
    notes = {
        "Triton": "serving/ or Docker", "clients": "HTTP, gRPC, shared memory", "measure": "locust -f loadtest/",
        "runs/<id>/": "the report",
    }  # fmt: skip
    for name, column in columns.items():
        x = 22 + STEP * column
        yield _box(x, SERVE_Y, BOX_W, BOX_H, "file" if "/" in name else "box", name)
        yield _text(x + BOX_W / 2, SERVE_Y + BOX_H + 18, notes[name], "small", "middle")
    middle, right = SERVE_Y + BOX_H / 2, 22 + STEP * 6 + BOX_W / 2
    yield _arrow(right, FLOW_Y + BOX_H + 30, right, SERVE_Y)
    for column, text in ((4, "requests, answers"), (2, "calls")):
        yield _arrow(22 + STEP * column + BOX_W, middle, 22 + STEP * (column + 2), middle, both=True)
        yield _text(STEP * (column + 1) + 80, middle - 8, text, "small", "middle")
    yield _arrow(22 + STEP * 2, middle, 22 + BOX_W, middle)
    yield _text(STEP + 80, middle - 8, "verdict, figures", "small", "middle")
    left = 22 + BOX_W / 2
    yield _arrow(left, SERVE_Y, left, FLOW_Y + BOX_H + 30)
    yield _text(left + 10, GOLDEN_Y + 30, "tune --write", "small")


def _golden() -> Iterator[str]:
    """Draw the golden samples as one line from export to every place where answers are checked."""
    start, end = (22 + STEP * column + BOX_W / 2 for column in (1, 5))
    yield f'<path class="golden" d="M{start} {FLOW_Y + BOX_H + 40} V{GOLDEN_Y} H{end}"/>'
    for x in (22 + STEP * column + BOX_W / 2 for column in (4, 5)):
        yield _arrow(x, GOLDEN_Y, x, FLOW_Y + BOX_H + 40, "gold")
    for column in (2, 4):
        x = 22 + STEP * column + BOX_W / 2 - 20
        yield _arrow(x, GOLDEN_Y, x, SERVE_Y, "gold")
    yield _text(start + 10, GOLDEN_Y - 7, "golden samples: FP32 answers that every later step must match", "small gold")


def _packages(modules: Graph) -> Iterator[str]:
    yield _text(22, LAYERS_Y - 22, "Imports: an arrow leads from a package to one that it imports", "title")
    for name, (x, y, width, height, purpose) in PLACES.items():
        yield _box(x, y, width, height, "box")
        yield _text(x + 12, y + 22, f"{name}/", "name")
        yield _text(x + 12, y + 40, purpose, "small")
        inner = [module for module in modules if module.startswith(f"{name}.") and module.count(".") > 1]
        folders = sorted({module.split(".")[1] for module in inner})
        for row, line in enumerate(_wrapped([folder for folder in folders if not folder.startswith("_")], width - 24)):
            yield _text(x + 12, y + 58 + 15 * row, line, "small")


def _imports(packages: Graph) -> Iterator[str]:
    """Draw the imports that do not follow from others."""
    for name, targets in packages.items():
        for target in sorted(targets):
            if not any(target in _reached(packages, other) for other in targets - {target}):
                x, y, width, height, _ = PLACES[name]
                other_x, other_y, other_width, *_ = PLACES[target]
                middle = (max(x, other_x) + min(x + width, other_x + other_width)) / 2
                yield _arrow(middle, y + height, middle, other_y)


def _reached(graph: Graph, start: str) -> set[str]:
    direct = graph.get(start, set())
    return direct.union(*(_reached(graph, name) for name in direct))


def _wrapped(words: list[str], width: float) -> Iterator[str]:
    line = ""
    for word in words:
        longer = f"{line} · {word}" if line else word
        if line and len(longer) * 6.0 > width:
            yield line
            longer = word
        line = longer
    if line:
        yield line


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{style}" text-anchor="{anchor}">{escape(text)}</text>'


def _box(x: float, y: float, width: float, height: float, style: str, text: str = "") -> str:
    rect = f'<rect class="{style}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>'
    return rect + (_text(x + width / 2, y + height / 2 + 5, text, "name", "middle") if text else "")


def _arrow(x: float, y: float, to_x: float, to_y: float, kind: str = "", *, both: bool = False) -> str:
    """Draw a horizontal or vertical arrow; the head ends at (to_x, to_y)."""
    line, head = ("golden", "goldhead") if kind == "gold" else ("line", "head")
    dx, dy = (to_x > x) - (to_x < x), (to_y > y) - (to_y < y)
    heads = [(to_x, to_y, dx, dy)] + ([(x, y, -dx, -dy)] if both else [])
    shapes = [f'<path class="{line}" d="M{x:g} {y:g} L{to_x - 4 * dx:g} {to_y - 4 * dy:g}"/>']
    for tip_x, tip_y, right, down in heads:
        back_x, back_y = tip_x - 8 * right, tip_y - 8 * down
        corners = f"{back_x + 4 * down:g},{back_y + 4 * right:g} {back_x - 4 * down:g},{back_y - 4 * right:g}"
        shapes.append(f'<polygon class="{head}" points="{tip_x:g},{tip_y:g} {corners}"/>')
    return "".join(shapes)


if __name__ == "__main__":
    sys.stdout.write(draw())
