"""Prove that the engine is in the requested precision.

In      the layer table of a plan and the model's part of config.yaml.
Out     figures for the record; a `StageError` where the precision is not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from builders.targets.tensorrt.layers import LEAST_SHARE, counts, realised
from planwright.config.spec import ModelSpec
from planwright.errors import Fault, StageError


def check(table: Sequence[Mapping[str, Any]], spec: ModelSpec, kept_high: Sequence[str] = ()) -> dict[str, Any]:
    """Return what the engine realised; `kept_high` names the nodes that the graph stage left high.

    A plan whose weighted layers are all fused into opaque ones is recorded as 'opaque' and not refused: nothing in it can
    be read, and its evidence is size and speed against fp32 (``python -m builders bench``).

    Raises:
        StageError: Layers can be read, and too little of their time is in the requested precision.
    """
    patterns = [*spec.keep_fp32, *kept_high]
    found = realised(table, spec.precision, patterns)
    verdict = "proved" if found.proved else "opaque" if found.share is None else "absent"
    if verdict == "absent":
        assert found.share is not None
        high = [row for row in table if counts(row, patterns) and row["precision"] not in (spec.precision, "int8")]
        worst = sorted(high, key=lambda row: -row["ms"])[:3]
        why = (f"{found.share:.0%} of the convolution and matrix time is in {spec.precision}, {LEAST_SHARE:.0%} is required; "
               + ", ".join(f"{row['name']} runs in {row['precision']} ({row['ms']:.3f} ms)" for row in worst))  # fmt: skip
        raise StageError("engine", Fault(f"the engine is not in {spec.precision}", spec.where("precision"), why,
                                         "set `precision` to the one actually used, or raise compile.optimization_level",
                                         f"python -m builders layers {spec.name}"))  # fmt: skip
    return {"realised": {"verdict": verdict, **asdict(found)}}
