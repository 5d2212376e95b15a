"""What an engine computes: its layers, their precision, their time.

In      a plan built with detailed verbosity.
Out     one row per layer, and `Realised`: the share of convolution and matrix time in the requested precision; `prove` refuses too little.

On 8.6 a graph that says FP16 may silently be built in FP32; this finds out. The precision of a layer is read
from its kernel's name where that has it, else from the type of its first input. Where TensorRT fuses a whole subgraph
into one layer (a transformer becomes one 'Myelin' layer) nothing inside can be read; such time is 'opaque', never proved.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from planwright.config.spec import ModelSpec
from planwright.errors import Fault, StageError

LEAST_SHARE = 0.9  # of convolution and matrix time in the requested precision
RUNS, WARM_UP = 20, 5
_WEIGHTED = re.compile(r"conv|gemm|matrixmultiply|matmul|fullyconnected|deconv", re.IGNORECASE)
_OPAQUE = re.compile(r"myelin|foreignnode", re.IGNORECASE)
# types in the names of NVIDIA's kernels, the computing type first: ..._i8i8_i8i32_f32_..., ..._f16f16_f16f32_...
_KERNELS = (
    ("int8", re.compile(r"i8i8|i8816|int8|imma|s8s8")),
    ("fp8", re.compile(r"e4m3|e5m2|fp8")),
    ("bf16", re.compile(r"bf16")),
    ("fp16", re.compile(r"f16f16|h16816|h884|h1688|hmma|_fp16|16816.*f16|hgemm|s16816")),
    ("tf32", re.compile(r"tf32|s1688")),
    ("fp32", re.compile(r"f32f32|sgemm|ffma|simt_s|scudnn")),
)
_FORMATS = {"int8": "int8", "fp8": "fp8", "bf16": "bf16", "bfloat": "bf16", "fp16": "fp16", "half": "fp16",
            "fp32": "fp32", "float": "fp32"}  # fmt: skip
# what counts as "not higher than requested"
_ACCEPTED = {"fp32": ("fp32",), "tf32": ("tf32",), "fp16": ("fp16", "int8"), "bf16": ("bf16", "int8"),
             "int8": ("int8",), "fp8": ("fp8", "int8")}  # fmt: skip


@dataclass(frozen=True)
class Realised:
    """How much of the engine is in the requested precision.

    Attributes:
        share: Of convolution and matrix time in the requested precision; None where there is none that can be read.
        opaque: Share of all time in layers that cannot be looked into.
        time_ms: Time of one run at the profile's opt.
        by_precision: Precision -> share of all time.
    """

    share: float | None
    opaque: float
    time_ms: float
    by_precision: dict[str, float]

    @property
    def proved(self) -> bool:
        """True where enough of what can be read is in the requested precision and there is something to read."""
        return self.share is not None and self.share >= LEAST_SHARE


def measure(data: bytes, job: Mapping[str, Any], log: Any) -> list[dict[str, Any]]:
    """Load the plan, time each layer at the opt shapes of profile 0, and return the rows."""
    import tensorrt as trt

    from planwright.trt.plan import Plan
    from planwright.trt.runner import Runner

    plan = Plan(data, host_code_allowed=job["options"]["version_compatible"], log=log)  # its plugins are loaded already
    runner = Runner(plan, slots=1)
    try:
        times = _times(trt, plan, runner)
        text = runner.describe(trt.LayerInformationFormat.JSON)
    finally:
        runner.free()
    return rows(json.loads(text, strict=False)["Layers"], times)  # 8.6 writes raw control characters


def rows(layers: Sequence[Any], times: Mapping[str, float]) -> list[dict[str, Any]]:
    """Join the inspector's layers with their times."""
    found = []
    for layer in layers:
        described = layer if isinstance(layer, dict) else {"Name": layer}
        name = str(described.get("Name", ""))
        found.append({
            "name": name, "kind": str(described.get("LayerType", "")), "precision": precision_of(described),
            "inputs": [format_of(tensor) for tensor in described.get("Inputs", [])],
            "outputs": [format_of(tensor) for tensor in described.get("Outputs", [])],
            "tactic": str(described.get("TacticName", "")), "weighted": is_weighted(described),
            "ms": round(times.get(name, 0.0), 5),
        })  # fmt: skip
    return found


def realised(table: Sequence[Mapping[str, Any]], precision: str, high: Sequence[str] = ()) -> Realised:
    """Sum up the rows for one precision; layers of nodes that match a pattern of `high` do not count."""
    total = sum(row["ms"] for row in table) or 1.0
    weighted = [row for row in table if counts(row, high)]
    weighted_ms = sum(row["ms"] for row in weighted)
    right_ms = sum(row["ms"] for row in weighted if row["precision"] in _ACCEPTED[precision])
    by: dict[str, float] = {}
    for row in table:
        by[row["precision"]] = by.get(row["precision"], 0.0) + row["ms"] / total
    share = right_ms / weighted_ms if weighted_ms else None
    rounded = {name: round(value, 4) for name, value in sorted(by.items())}
    return Realised(share, by.get("opaque", 0.0), sum(row["ms"] for row in table), rounded)


def prove(table: Sequence[Mapping[str, Any]], spec: ModelSpec, kept_high: Sequence[str] = ()) -> dict[str, Any]:
    """Return what the engine realised; `kept_high` names the nodes that the graph stage left in FP32.

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


def counts(row: Mapping[str, Any], high: Sequence[str]) -> bool:
    """Return whether the precision of a row counts: it is weighted, and contains no node kept in FP32.

    TensorRT joins the names of what it fuses by ' + '.
    """
    kept = any(fnmatch.fnmatch(part, pattern) for part in row["name"].split(" + ") for pattern in high)
    return bool(row["weighted"]) and not kept


def is_weighted(layer: Mapping[str, Any]) -> bool:
    """Return whether the layer is a convolution or a matrix product that can be looked into."""
    if _opaque(layer):
        return False
    kinds = f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}"
    return bool(_WEIGHTED.search(kinds) or layer.get("Weights", {}).get("Count"))


def precision_of(layer: Mapping[str, Any]) -> str:
    if _opaque(layer):
        return "opaque"
    tactic = str(layer.get("TacticName", "")).lower()
    if is_weighted(layer):
        for name, pattern in _KERNELS:
            if pattern.search(tactic):
                return name
    for tensor in (*layer.get("Inputs", []), *layer.get("Outputs", [])):
        text = format_of(tensor).lower()
        for word, name in _FORMATS.items():
            if word in text:
                return name
    return "other"


def format_of(tensor: Mapping[str, Any]) -> str:
    """Return type and layout of a tensor; 11 split what was one field."""
    return str(tensor.get("Format/Datatype") or f"{tensor.get('Format', '')} {tensor.get('Datatype', '')}").strip()


def _opaque(layer: Mapping[str, Any]) -> bool:
    return bool(_OPAQUE.search(f"{layer.get('LayerType', '')} {layer.get('Name', '')}"))


def _times(trt: Any, plan: Any, runner: Any) -> dict[str, float]:
    """Return layer name -> mean milliseconds."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.sums: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.sums[layer_name] = self.sums.get(layer_name, 0.0) + ms

    profiler = Profiler()
    feeds = example(plan)
    for _ in range(WARM_UP):
        runner.run(feeds)
    runner.profile_layers(profiler)
    for _ in range(RUNS):
        runner.run(feeds)
    return {name: total / RUNS for name, total in profiler.sums.items()}


def example(plan: Any, seed: int = 0) -> dict[str, Any]:
    known = plan.profiles[0] if plan.profiles else {}
    shapes = {t.name: known[t.name][1] if t.name in known else t.shape for t in plan.inputs}
    return random_inputs(plan.inputs, shapes, seed)


def random_inputs(tensors: Any, shapes: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return random pixels and floats, and zeros and ones elsewhere: a larger id could be outside a vocabulary."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for tensor in tensors:
        shape = shapes[tensor.name]
        if tensor.dtype.kind == "f":
            values: Any = rng.standard_normal(shape, dtype=np.float32)
        else:
            values = rng.integers(0, 256 if tensor.datatype == "UINT8" else 2, shape, np.int16)
        feeds[tensor.name] = values.astype(tensor.dtype)
    return feeds
