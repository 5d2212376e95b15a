"""The SLO of a tune: ``p99<20ms``, or the model's own.

In      text, or the published model.
Out     `Slo`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure.record.recorder import PERCENTILES
from measure.report.build import slo_of
from planwright.decimals import exact, scaled
from planwright.errors import Fault, SpecError

_UNITS_US = {"us": "1", "µs": "1", "ms": "1000", "s": "1000000"}
_FORM = re.compile(r"\s*(p\d+(?:\.\d+)?)\s*<=?\s*(\d+(?:\.\d+)?)\s*(us|µs|ms|s)\s*")


@dataclass(frozen=True)
class Slo:
    """`percentile` of the latency is at most `limit_us`."""

    percentile: str
    limit_us: float

    @property
    def text(self) -> str:
        """Return ``p99 < 20 ms``."""
        return f"{self.percentile} < {exact(scaled(self.limit_us, '0.001'))} ms"


def parse(text: str) -> Slo:
    """Parse ``p99<20ms``.

    Example:
        >>> parse("p99.9 < 1.5s")
        Slo(percentile='p99.9', limit_us=1500000.0)

    Raises:
        SpecError: It cannot be parsed (exit 2).
    """
    found = _FORM.fullmatch(text)
    if not found or found[1] not in PERCENTILES or not float(found[2]):
        why = f"an SLO is one of {', '.join(PERCENTILES)}, then <, then a time above 0 in us, ms or s"
        raise SpecError(Fault(f"invalid value for --slo: {text!r}", why=why, fix='--slo "p99<20ms"'))
    return Slo(found[1], scaled(found[2], _UNITS_US[found[3]]))


def of_model(folder: Path, build: Mapping[str, Any]) -> Slo:
    """Return the model's own SLO, from config.pbtxt: it is newer than build.json when only the SLO changed.

    Raises:
        SpecError: It has none (exit 2).
    """
    limit_ms = slo_of(folder, build).get("p99_ms")
    if not limit_ms:
        fix = 'give one with --slo "p99<20ms", or slo: {p99_ms: 20} in config.yaml'
        raise SpecError(Fault(f"{folder.name} has no SLO of its own", str(folder / "config.pbtxt"), fix=fix))
    return Slo("p99", scaled(limit_ms, "1000"))
