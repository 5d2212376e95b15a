"""The onnxruntime target: the engine is the graph itself, run on the CPU.

In      an ONNX graph.
Out     ``model.onnx`` and an `OrtEngine` over it.

The graph is loaded once with full checks before it is accepted, so a truncated file or an unknown operator stops here
and not in the server.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from builders.error_log import reason
from builders.graphs.check import command
from builders.graphs.external_data import with_data
from planwright.config.spec import ModelSpec
from planwright.errors import Fault, StageError
from planwright.golden import Arrays
from planwright.tensors import TensorSpec, datatype_from_ort, decode_text, is_text


class OrtEngine:
    def __init__(self, path: Path, *, threads: int = 0, level: str = "all") -> None:
        self._session = open_session(path, threads=threads, level=level)
        self.inputs = tuple(_tensor(item, path) for item in self._session.get_inputs())
        self.outputs = tuple(_tensor(item, path) for item in self._session.get_outputs())

    def run(self, inputs: Arrays) -> Arrays:
        """Answer one batch; text goes in and comes out as objects."""
        feeds = {name: _text(array) for name, array in inputs.items()}
        names = [tensor.name for tensor in self.outputs]
        return {name: np.asarray(array) for name, array in zip(names, self._session.run(names, feeds), strict=True)}

    def close(self) -> None:
        self._session = None


class OnnxRuntimeTarget:
    name = "onnxruntime"
    platform = "onnxruntime_onnx"
    backend = "onnxruntime"
    filename = "model.onnx"
    kind = "KIND_CPU"

    @property
    def max_opset(self) -> int:
        return 24

    def key(self) -> str:
        return "onnxruntime"

    def versions(self) -> dict[str, str]:
        return {"onnxruntime": version("onnxruntime")}

    def compile(self, graph: Path, folder: Path, spec: ModelSpec) -> Mapping[str, Any]:
        """Accept the graph and copy it, external data included."""
        open_session(graph)
        for name, part in with_data(graph).items():
            shutil.copyfile(part, folder / (self.filename if part == graph else name))
        return {}

    def load(self, folder: Path) -> OrtEngine:
        return OrtEngine(folder / self.filename)


def open_session(path: Path, *, threads: int = 0, stage: str = "engine", level: str = "all") -> Any:
    """Return an InferenceSession on the CPU, optimised up to `level`; raises StageError that says why ONNX Runtime refuses the file."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    levels = {"basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL"}
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, levels[level])
    options.log_severity_level = 4  # its errors come back as exceptions; the log would repeat them
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen unrelated classes, all from one C++ status
        raise StageError(stage, _refused(path, error)) from None


def _refused(path: Path, error: Exception) -> Fault:
    text, why = str(error), reason(error)
    if "INVALID_PROTOBUF" in text or "Protobuf parsing failed" in text:
        return Fault("not a complete ONNX file", str(path), why, "the file is truncated or not ONNX: re-export it")
    if "is not a registered function/op" in text or "NOT_IMPLEMENTED" in text:
        fix = "export with operators of the standard ONNX domain, or with an older opset"
        return Fault("the graph has an operator that ONNX Runtime lacks", str(path), why, fix)
    if "construct locale" in text:
        fix = "install the locale, also where the server runs; or give the StringNormalizer node locale 'C.UTF-8', which every machine has"
        return Fault("the graph needs a locale that is not installed here", str(path), why, fix)
    fix = "export it again, with another opset or exporter"
    return Fault("ONNX Runtime cannot load the graph", str(path), why, fix, command(path))


def _tensor(item: Any, path: Path) -> TensorSpec:
    shape = tuple(dim if isinstance(dim, int) else -1 for dim in item.shape or ())
    try:
        return TensorSpec(item.name, datatype_from_ort(item.type), shape)
    except KeyError:
        fix = "cast it in the graph"
        if "map(" in item.type:  # what skl2onnx makes of a classifier's probabilities
            fix = "re-export it without ZipMap: skl2onnx.to_onnx(model, X, options={id(model): {'zipmap': False}})"
        fault = Fault(f"'{item.name}' has the type {item.type}", str(path), "Triton has no such tensor type", fix)
        raise StageError("engine", fault) from None


def _text(array: Any) -> Any:
    """Return what onnxruntime takes: str for text, because bytes would silently become ``b'...'``."""
    array = np.asarray(array)  # numpy makes a bare number of an array without axes
    return decode_text(array) if is_text(array) else array
