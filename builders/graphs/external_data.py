"""The files beside an ONNX graph that hold its weights.

In      the path of a graph.
Out     the files named by any of its tensors: initializers, sparse ones, attributes, subgraphs, functions.

The graph is read without its weights. A location is relative to the graph's folder and stays in it, as ONNX requires
(onnx/docs/ExternalData.md): a downloaded graph must not read this machine's files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from planwright.errors import Fault, StageError


def locations(path: Path) -> list[str]:
    """Return the locations inside the graph's folder, sorted; none if the graph cannot be read, which the export reports."""
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception:  # protobuf and onnx share no error class
        return []
    found = {location_of(tensor) for tensor in tensors(model)}
    return sorted(place for place in found if place and not _leaves(place))


def tensors(message: Any) -> Iterator[Any]:
    """Yield every TensorProto in a protobuf message, at any depth."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if hasattr(value, "__len__") else (value,):
                yield from tensors(item)


def location_of(tensor: Any) -> str:
    """Return the file of a tensor's data, relative to the graph; empty if the data is in the graph."""
    if tensor.data_location != tensor.EXTERNAL:
        return ""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def check(path: Path) -> None:
    """Refuse missing files and locations outside the graph's folder; raises StageError with one fault per location."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    first = {location_of(tensor): tensor.name for tensor in reversed(list(tensors(model)))}
    faults = [fault for place, name in sorted(first.items()) if place and (fault := _fault(path, place, name))]
    if faults:
        raise StageError("onnx", *faults)


def _fault(path: Path, place: str, tensor: str) -> Fault | None:
    why = f"the data of tensor '{tensor}' is in '{place}'"
    if _leaves(place):
        fix = "put the file beside the graph and write the graph again with its bare name as location"
        return Fault("a weights file is outside the graph's folder", str(path), f"{why}, which ONNX forbids", fix)
    file = path.parent / place
    if not file.is_file():
        return Fault(f"the weights file {file} is missing", str(path), why, "copy it beside the graph, under that name")
    if file.is_symlink():
        fix, why = "replace the link with a copy of the file", f"{why}, which ONNX does not follow"
        return Fault(f"the weights file {file} is a symbolic link", str(path), why, fix)
    return None


def _leaves(place: str) -> bool:
    return PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts


def load(model: Any, folder: Path) -> None:
    """Load the data of tensors that onnx itself does not load: those of sparse initializers and training graphs."""
    from onnx.external_data_helper import load_external_data_for_tensor

    for tensor in tensors(model):
        if location_of(tensor):
            load_external_data_for_tensor(tensor, str(folder))


def with_data(graph: Path) -> dict[str, Path]:
    """Return a graph that Planwright wrote and, if it is large, the file beside it with its weights, by name."""
    return {file.name: file for file in (graph, *sorted(graph.parent.glob("*.onnx.data")))}
