"""torchvision beside a CPU-only torch.

In      nothing.
Out     `import_torchvision`, which returns the module, and `declare_operators` for libraries that import it themselves.

torchvision's wheel is built against the CUDA torch: beside a CPU one its ``_C`` library does not load and the import
stops at a missing operator schema (``torchvision::nms``). The two schemas are declared here, only where its own library
did not bring them, so a CUDA installation stays native. The Library object must live as long as the process.
"""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_library: list[Any] = []
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def import_torchvision() -> Any:
    """Import torchvision whichever torch is installed."""
    declare_operators()
    import torchvision

    return torchvision


def declare_operators() -> None:
    """Declare what a torchvision beside a CPU-only torch lacks; does nothing without torchvision, or beside its own torch."""
    import torch

    if find_spec("torchvision") and not _native() and not _library:
        library = torch.library.Library("torchvision", "DEF")
        for name, schema in _SCHEMAS.items():
            if not hasattr(torch.ops.torchvision, name):
                library.define(schema)
        _library.append(library)


def _native() -> bool:
    """Load torchvision's own operators, before its import would do so and stop."""
    spec = find_spec("torchvision")
    folders = spec.submodule_search_locations if spec else None
    for file in Path(next(iter(folders or []), "")).glob("_C*.so"):
        try:
            ctypes.CDLL(str(file))
        except OSError:
            return False
        return True
    return False
