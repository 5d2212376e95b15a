"""Zoo files of tests: written into builders/zoo/ for as long as a test needs them.

In      the text of a zoo file, in which ``# HERE`` marks the line that an error must name.
Out     its source, or the line.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from builders.sources.base import load_source
from planwright.config.spec import ModelSpec
from tests._project import ROOT

NAME = "tests_own"  # one at a time
FILE = ROOT / "builders" / "zoo" / f"{NAME}.py"
HEAD = """\
import numpy as np
import torch
from builders.source import Samples, Source
from builders.torch_source import TorchSource
from torch import nn

"""
PLAIN = """
class Model(TorchSource):
    input_names = ("x",)
    output_names = ("y",)

    def build_model(self):
        torch.manual_seed(0)
        return nn.Linear(4, 2)

    def samples(self):
        rng = np.random.default_rng(0)
        rows = [{"x": row} for row in rng.normal(size=(16, 4)).astype(np.float32)]
        return Samples(calibration=rows[8:], golden=rows[:8])
"""


@contextlib.contextmanager
def zoo_file(text: str) -> Iterator[Path]:
    """Write the file, remove it and its module afterwards."""
    FILE.write_text(text)
    importlib.invalidate_caches()
    try:
        yield FILE
    finally:
        FILE.unlink()
        sys.modules.pop(f"builders.zoo.{NAME}", None)


def load(folder: Path, **settings: Any) -> Any:
    """Return the source of the present zoo file; its log is ``error.log`` in `folder`."""
    spec = ModelSpec.model_validate({"name": "mine", "source": f"zoo/{NAME}", **settings})
    return load_source(spec, folder, log=folder / "error.log")


def marked(text: str) -> int:
    """Return the number of the line that holds ``# HERE``."""
    return next(number for number, line in enumerate(text.splitlines(), 1) if "# HERE" in line)
