"""A network that its source builds with TensorRT's own API, for what ONNX cannot say.

In      where the model stands in config.yaml.
Out     a filled ``INetworkDefinition``; the model then goes through the same compile, verify and publish as any other.

A zoo file asks for it by a method ``fill_network(trt, network)``. Its export still writes golden samples: the original
model's answers judge the plan.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builders.source import Source, load_source
from planwright.spec import ModelSpec


def method_of(source: Source) -> Any:
    """Return the source's ``fill_network``, or None where it leaves the network to its ONNX file."""
    return getattr(source, "fill_network", None)


def wanted(spec: ModelSpec, root: Path, *, random_weights: bool) -> dict[str, Any] | None:
    """Return what the compiling child needs to fill the network; None where the ONNX file is parsed."""
    if method_of(load_source(spec, root, random_weights=random_weights)) is None:
        return None
    return {"spec": spec.model_dump(mode="json"), "root": str(root.resolve()), "random_weights": random_weights}


def fill(trt: Any, network: Any, request: dict[str, Any]) -> None:
    """Let the source fill `network`."""
    spec = ModelSpec.model_validate(request["spec"])
    method_of(load_source(spec, Path(request["root"]), random_weights=request["random_weights"]))(trt, network)
