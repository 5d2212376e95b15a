"""torchvision beside a CPU-only torch.

In      nothing.
Out     `install`: from then on ``import torchvision`` works in this process, whoever imports it (transformers does).

torchvision's wheel is built against the CUDA torch: beside a CPU one its ``_C`` library does not load, the import stops at
a missing operator schema (``torchvision::nms``), and detection models lack their kernels. Just before torchvision is
imported, the operators of `builders.sources.torchvision_ops` take their place. torch is imported only then; where torchvision's own
library loads, nothing is replaced, so a CUDA installation stays native.
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

_library: list[Any] = []  # a torch Library object must live as long as the process
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align": "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
}


def install() -> None:
    """Make torchvision importable in this process; a second call does nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path) and "torchvision" not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds torchvision where Python would, and runs our preparations around its import."""

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
    """Declare what a torchvision beside a CPU-only torch lacks; return False where its own operators load."""
    import torch

    if _native(spec) or _library:
        return bool(_library)
    from builders.sources import torchvision_ops

    library = torch.library.Library("torchvision", "DEF")
    for name, schema in _SCHEMAS.items():
        library.define(schema)
        if hasattr(torchvision_ops, name):
            library.impl(name, getattr(torchvision_ops, name), "CPU")
    torch.library.register_fake("torchvision::roi_align", torchvision_ops.roi_align_shape, lib=library)
    _library.append(library)
    return True


def _enable() -> None:
    """Let torchvision call the operators that are declared; it still refuses the others by itself."""
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
    """Load torchvision's own operators, before its import would do so and stop."""
    folders = (spec.submodule_search_locations if spec else None) or []
    for file in Path(next(iter(folders), "")).glob("_C*.so"):
        try:
            ctypes.CDLL(str(file))
        except OSError:
            return False
        return True
    return False
