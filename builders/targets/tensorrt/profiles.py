"""Optimization profiles: given in config.yaml, or derived from the batch and the samples.

In      the model's part of config.yaml, the shapes of the export's samples.
Out     profiles as JSON: input -> {min, opt, max}.

The batch axis, where there is one, follows ``batch``; any other axis that varies follows the real samples: from 1 to the largest seen, tuned for
the one seen most often. Profiles are only used for inputs that the graph leaves open.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from planwright.config.spec import ModelSpec
from planwright.files import read_json
from planwright.golden import Golden

SAMPLES = ("golden.npz", "calibration.npz", "test.npz")


def derive(graph: Path, spec: ModelSpec) -> list[dict[str, Any]]:
    """Return the profiles of a model whose graph lies in ``build/<model>/graph/<precision>/``."""
    if spec.compile.profiles:
        return [{name: shape.model_dump() for name, shape in profile.items()} for profile in spec.compile.profiles]
    return [from_samples(graph.parents[2] / "export", spec)]


def from_samples(export: Path, spec: ModelSpec) -> dict[str, Any]:
    stored = [Golden.load(path) for path in (export / name for name in SAMPLES) if path.exists()]
    shapes: dict[str, list[list[int]]] = read_json(export / "shapes.json") or _of(stored)
    low, opt, high = ([size] if stored[0].batched else [] for size in spec.batch.bounds)
    return {
        name: {
            "min": low + [min(1, *column) if len(set(column)) > 1 else column[0] for column in zip(*seen, strict=True)],
            "opt": opt + [Counter(column).most_common(1)[0][0] for column in zip(*seen, strict=True)],
            "max": high + [max(column) for column in zip(*seen, strict=True)],
        }
        for name, seen in shapes.items()
    }


def _of(stored: list[Golden]) -> dict[str, list[list[int]]]:
    """Return input -> the shape of every sample that was kept, for an export that says no more."""
    shapes: dict[str, list[list[int]]] = {}
    for group in (group for golden in stored for group in golden.groups):
        for name, array in group.inputs.items():
            shapes.setdefault(name, []).extend([list(array.shape[1:])] * len(array))
    return shapes
