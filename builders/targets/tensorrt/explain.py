"""TensorRT's error lines -> what a person can do about them.

In      the ``failed`` event of a build, or the text of a `PlanError`.
Out     a `Fault` with cause and fix. The twelve ways in which builds and loads fail, each known by its text; anything else is
        reported with TensorRT's message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from planwright.errors import Fault

CHECK = "python -m builders doctor"
# (text of the log, what, fix, place in config.yaml); the first match is reported
_KNOWN: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    (r"not compatible with this version of TensorRT|Version tag does not match|[Mm]agic ?[Tt]ag",
     "the plan was built with a different TensorRT version", "build it again here, or with the server's TensorRT version", ("server",)),
    (r"incompatible device|not compatible with this hardware-compatible engine|generated on an incompatible",
     "the plan was built for another GPU", "build it on this GPU, or set compile.hardware_compatibility: ampere_plus", ("compile",)),
    (r"no optimization profile has been defined|MIN<=OPT<=MAX|missing dimensions in profile|profile.*(invalid|failed)",
     "the optimization profile does not fit the graph", "give compile.profiles with min, opt and max for every input that varies", ("compile", "profiles")),
    (r"does not satisfy any optimization profile",
     "a shape is outside the optimization profile", "widen batch or compile.profiles and build again", ("batch",)),
    (r"No importer registered for op|Plugin not found|no importer|UNSUPPORTED_NODE|[Uu]nsupported operat",
     "the graph has an operator that TensorRT lacks", "use standard operators, a plugin under compile.plugins, or --target onnxruntime", ("source",)),
    (r"Failed to open file",
     "the weights beside the graph are missing", "build again from the export: --from export --force", ("source",)),
    (r"outside the range of INT32 was clamped",
     "an INT64 constant is outside the INT32 range (this TensorRT has no INT64)", "use TensorRT 10 or later, or smaller constants", ("source",)),
    (r"Could not find any implementation|sufficient workspace",
     "TensorRT found no kernel for a layer", "raise compile.workspace_mib, or choose another precision", ("compile", "workspace_mib")),
    (r"CUDA initialization failure with error: 2\b|out of memory|OutOfMemory|insufficient memory|cudaMalloc|CUDA_ERROR_OUT_OF_MEMORY",
     "too little GPU memory", "free GPU memory, lower batch.max or compile.workspace_mib", ("batch", "max")),
    (r"zero point|activation types allowed|[Cc]alibration failure|no scaling factors|symmetric quantization|operation: dequantize|precision has been set for",
     "TensorRT does not take the graph's quantization", "zero points must be 0 and biases FP32: let Planwright quantize the FP32 model", ("precision",)),
    (r"has no fast|has no (bf16|fp8|fp16|int8)|hardware does not support|requires compute capability",
     "this GPU or TensorRT version does not support the precision", "choose another precision, or another GPU or TensorRT", ("precision",)),
    (r"CUDA initialization failure|driver version is insufficient|no CUDA-capable device",
     "CUDA cannot be used", "install a driver that fits this TensorRT's CUDA, and check that the GPU is visible", ()),
    (r"calibrator of its own|calibration profile|no sample of the shape",
     "TensorRT cannot find the INT8 ranges itself", "remove calibration.native: the graph then contains Q/DQ nodes", ("calibration", "native")),
    (r"hardware_compatibility|cannot strip",
     "this TensorRT lacks a compile option", "remove the option, or use a newer TensorRT", ("compile",)),
    (r"lean runtime|getEngineHostCodeAllowed",
     "a version-compatible plan may not run its code here", "allow it: PLANWRIGHT_TENSORRT_VERSION_COMPATIBLE=1", ("compile", "version_compatible")),
    (r"cannot open shared object file",
     "a plugin cannot be loaded", "correct the path under compile.plugins, and check it with ldd", ("compile", "plugins")),
)  # fmt: skip


def explain(event: Mapping[str, Any], job: Mapping[str, Any], where: Callable[..., str]) -> Fault:
    lines = list(dict.fromkeys(event["lines"]))
    text = "; ".join(lines) or f"TensorRT gave no reason at step '{event['step']}'"
    nodes = [f"{operator} {node}".strip() for operator, node, _ in event.get("nodes", [])]
    return explain_text(text, where, job["check"], f" ({', '.join(nodes[:3])})" if nodes else "")


def explain_text(text: str, where: Callable[..., str], check: str = CHECK, nodes: str = "") -> Fault:
    for pattern, what, fix, loc in _KNOWN:
        if re.search(pattern, text):
            return Fault(what + nodes, where(*loc), _short(text), fix, check)
    fix = "see its whole log beside the engine: tensorrt.log"
    return Fault("TensorRT refused" + nodes, where(), _short(text), fix, check)


def _short(text: str, limit: int = 600) -> str:
    plain = re.sub(r"\s+", " ", text)
    return plain if len(plain) <= limit else plain[: limit - 3] + "..."
