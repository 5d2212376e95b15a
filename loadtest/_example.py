"""A scenario to copy: ``cp loadtest/_example.py loadtest/equal_rows.py``, then make it yours; see docs/write-a-scenario.md.

Locust leaves this file out because its name begins with ``_``, and loads every other file of this folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from clients import TritonModel
from measure.load.user import Infer, task


class EqualRows(Infer):
    """The same picture four times in one request: every row must get the same answer."""

    transport = "grpc"  # or http, shm, cuda
    models = ("digits",)  # among the run's models; leave this out for all of them

    def inputs(self, model: TritonModel) -> Iterator[dict[str, Any]]:
        """Return 64 requests, made once; without this method golden samples are sent, and their answers checked."""
        random = np.random.default_rng(seed=7)
        for _ in range(64):
            picture = random.integers(0, 17, (1, 8, 8), dtype=np.uint8)
            yield {"image": np.repeat(picture, 4, axis=0)}

    def check(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
        """Return what is wrong with an answer, or an empty text."""
        spread = float(np.ptp(outputs["scores"], axis=0).max())
        return f"equal rows differ by {spread:g}" if spread > 1e-4 else ""

    @task
    def infer(self) -> None:
        """Send until this user rests or ends."""
        self.send()
