"""torchvision with a CPU-only torch.

In      nothing.
Out     `install`: afterwards ``import torchvision`` works in this process, also if another library such as transformers imports it.

torchvision's wheel is built against the CUDA torch: with a CPU one its ``_C`` library does not load, the import stops at
a missing operator schema (``torchvision::nms``), and detection models lack their kernels. Just before torchvision is
imported, the operators below take their place. torch is imported only then; where torchvision's own library loads, nothing is
replaced, so a CUDA installation is unchanged.

The operators follow torchvision/csrc/ops/cpu/{nms,roi_align}_kernel.cpp. RoIAlign is an average of bilinear samples on a grid, and
both the average and the interpolation are separable: one small matrix along each axis gives the same numbers.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

_library: list[Any] = []  # a torch Library object must live as long as the process
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
)


def install() -> None:
    """Make torchvision importable in this process; a second call does nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path) and "torchvision" not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds torchvision as Python does, and prepares its operators around its import."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == "torchvision" else None
        loader: Any = spec.loader if spec else None
        if loader is None:
            return None
        run = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            declared = _declare(spec)
            run(module)
            if declared:
                _enable()

        loader.exec_module = exec_module
        return spec


def _declare(spec: ModuleSpec | None) -> bool:
    """Declare the operators that torchvision lacks with a CPU-only torch; return False if its own load."""
    import torch

    if _native(spec) or _library:
        return bool(_library)
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    library.impl("nms", nms, "CPU")
    library.impl("roi_align", roi_align, "CPU")
    torch.library.register_fake("torchvision::roi_align", roi_align_shape, lib=library)
    _library.append(library)
    return True


def _enable() -> None:
    """Let torchvision call the declared operators; it still refuses the others."""
    boxes, roi_align = (importlib.import_module(f"torchvision.ops.{name}") for name in ("boxes", "roi_align"))
    for module in (boxes, roi_align):
        module._assert_has_ops = _allow  # type: ignore[attr-defined]
    roi_align._has_ops = _present  # type: ignore[attr-defined]


def _allow() -> None:
    """Stand in for the check that the compiled operators are there; TorchScript compiles both this and `_present`."""
    return


def _present() -> bool:
    return True


def _native(spec: ModuleSpec | None) -> bool:
    """Load torchvision's own operators, as its import does; return False if they do not load."""
    folders = (spec.submodule_search_locations if spec else None) or []
    for file in Path(next(iter(folders), "")).glob("_C*.so"):
        try:
            ctypes.CDLL(str(file))
        except OSError:
            return False
        return True
    return False


def nms(dets: Any, scores: Any, iou_threshold: float) -> Any:
    """Return the indices of the boxes to keep, best score first; boxes whose IoU with a better one exceeds the threshold are dropped.

    Args:
        dets: ``(boxes, 4)`` as x1, y1, x2, y2.
        scores: ``(boxes,)``.
        iou_threshold: A box with exactly this overlap is kept.
    """
    import torch

    order = torch.argsort(scores, descending=True, stable=True)
    x1, y1, x2, y2 = dets[order].detach().float().numpy().T
    area = (x2 - x1) * (y2 - y1)
    alive = np.ones(len(order), bool)
    for i in range(len(order)):
        if not alive[i]:
            continue
        later = slice(i + 1, None)
        width = np.minimum(x2[i], x2[later]) - np.maximum(x1[i], x1[later])
        height = np.minimum(y2[i], y2[later]) - np.maximum(y1[i], y1[later])
        both = np.maximum(width, 0) * np.maximum(height, 0)
        with np.errstate(divide="ignore", invalid="ignore"):  # two empty boxes: NaN, which is not above the threshold
            alive[later] &= ~(both / (area[i] + area[later] - both) > iou_threshold)
    return order[torch.from_numpy(alive)]


def roi_align(features: Any, rois: Any, scale: float, height: int, width: int, samples: int, aligned: bool) -> Any:
    """Return ``(rois, channels, height, width)``: each region averaged into a grid.

    Args:
        features: ``(batch, channels, rows, columns)``.
        rois: ``(rois, 5)``: index into the batch, then x1, y1, x2, y2 in the coordinates of the image.
        scale: From the image's coordinates to those of `features`.
        height: Rows of the grid.
        width: Columns of the grid.
        samples: Per cell and axis; if not positive, as many as the cell has rows or columns.
        aligned: True shifts coordinates by half a pixel.
    """
    regions = rois.detach().float().numpy()
    corners = regions[:, 1:] * np.float32(scale) - np.float32(0.5 if aligned else 0)
    inner = features.detach().permute(0, 2, 3, 1).contiguous()  # channels last: two matrix products per region
    found = inner.new_empty((len(regions), height, width, inner.shape[3]))
    for index, (x1, y1, x2, y2) in enumerate(corners):
        top, rows = _weights(y1, y2, height, inner.shape[1], samples, aligned)
        left, columns = _weights(x1, x2, width, inner.shape[2], samples, aligned)
        image = inner[int(regions[index, 0])]
        seen = image[top : top + rows.shape[1], left : left + columns.shape[1]]
        by_row = rows.to(inner) @ seen.flatten(1)
        found[index] = columns.to(inner) @ by_row.unflatten(1, (columns.shape[1], -1))
    return found.permute(0, 3, 1, 2).contiguous()


def roi_align_shape(features: Any, rois: Any, scale: float, height: int, width: int, *_: Any) -> Any:
    """Return an empty tensor of the shape that `roi_align` has."""
    return features.new_empty((rois.shape[0], features.shape[1], height, width))


def _weights(low: np.float32, high: np.float32, cells: int, size: int, ratio: int, aligned: bool) -> tuple[int, Any]:
    """Return the first of `size` positions along an axis that a region touches, and ``(cells, touched)``: what each adds to each cell.

    In FP32 like the original, because the number of samples is a rounded quotient.
    """
    import torch

    length = high - low if aligned else np.maximum(high - low, np.float32(1))
    cell = length / np.float32(cells)
    count = ratio if ratio > 0 else max(int(np.ceil(cell)), 0)
    steps = np.arange(cells * count)
    grid = low + (steps + np.float32(0.5)) * (cell / max(count, 1))
    inside = (grid >= -1.0) & (grid <= size)  # samples outside add nothing
    place = np.clip(grid, 0, size - 1)
    below = place.astype(int)
    weights = np.zeros((cells * count, size), np.float32)
    np.add.at(weights, (steps, below), (below + 1 - place) * inside)
    np.add.at(weights, (steps, np.minimum(below + 1, size - 1)), (place - below) * inside)
    first, last = (below.min(), below.max() + 2) if count else (0, 1)
    touched = weights[:, first:last].reshape(cells, count, -1) if count else np.zeros((cells, 1, 1), np.float32)
    return int(first), torch.from_numpy(touched.sum(1) / max(count, 1))
