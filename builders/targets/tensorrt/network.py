"""A network that its source builds with TensorRT's API, for what ONNX cannot express.

In      the zoo file's name and the graph whose weights it uses.
Out     a filled ``INetworkDefinition``; the model then goes through the same compile, verify and publish as any other.

A zoo file provides it as a static method ``fill_network(trt, network, weights)``; see builders/zoo/digits_api.py. Weights come
by name from the exported ONNX file, so that the GPU machine needs neither PyTorch nor the model's own loader, and the export's
golden samples check the plan as they check every other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from builders.sources.base import source_class
from planwright.config.spec import ModelSpec

Fill = Callable[[Any, Any, Mapping[str, Any]], None]


def method_of(source: str) -> Fill | None:
    """Return the source's ``fill_network``, or None where it leaves the network to its ONNX file."""
    return getattr(source_class(source), "fill_network", None)


def wanted(spec: ModelSpec) -> str | None:
    """Return the source that fills the network itself; None where the ONNX file is parsed."""
    return spec.code if method_of(spec.code) else None


def fill(trt: Any, network: Any, source: str, graph: Path) -> Mapping[str, Any]:
    """Let the source fill `network`; returns the weights, which must live as long as the network.

    TensorRT does not copy them before it builds.
    """
    import onnx

    method = method_of(source)
    assert method is not None
    weights = {item.name: onnx.numpy_helper.to_array(item).copy() for item in onnx.load(str(graph)).graph.initializer}
    method(trt, network, weights)
    return weights
