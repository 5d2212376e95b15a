"""FP16 or BF16 by NVIDIA's ModelOpt AutoCast, which keeps in FP32 what leaves the type's range on real data.

In      the export's ``model.onnx`` and golden samples, the nodes to keep in FP32.
Out     a ModelProto with FP32 inputs and outputs.

An optional extra (the package nvidia-modelopt, which imports torch), enabled by ``autocast: true``. AutoCast runs the model once
in ONNX Runtime, on golden inputs from an npz.
"""

from __future__ import annotations

import importlib
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from planwright.golden import Golden

PACKAGE = "nvidia-modelopt"
INSTALL = "pip install --no-deps -r constraints/autocast.txt"
DATA_MAX = 512.0  # AutoCast's own default: larger inputs or outputs keep a node in FP32


def convert(source: Path, precision: str, golden: Golden, keep: Sequence[str], size: int) -> Any:
    """Return the cast graph; nodes named in `keep` stay in FP32, `size` is the batch size that the graph takes."""
    library = importlib.import_module("modelopt.onnx.autocast")
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "inputs.npz"
        # numpy's types take the names of the inputs for its own arguments
        np.savez(data, **next(golden.feeds(size)))  # type: ignore[arg-type]
        return library.convert_to_mixed_precision(
            onnx_path=str(source),
            low_precision_type=precision,
            nodes_to_exclude=[f"^{re.escape(name)}$" for name in keep],
            data_max=DATA_MAX,
            keep_io_types=True,
            calibration_data=str(data),
            providers=["cpu"],
        )
