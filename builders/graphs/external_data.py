"""The files beside an ONNX graph that hold its weights.

In      the path of a graph.
Out     the files that it names, wherever in the graph a tensor is: initializers, sparse ones, attributes, subgraphs, functions.

The graph is read without its weights. A location is relative to the graph's folder and stays in it, as ONNX demands
(onnx/docs/ExternalData.md): a graph from elsewhere must not read this machine's files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from planwright.errors import Fault, StageError


def locations(path: Path) -> list[str]:
    """Return the locations inside the graph's folder, sorted; none where the graph cannot be read, which the export reports."""
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
    """Return where a tensor's data lies, relative to the graph; empty where it is in the graph."""
    if tensor.data_location != tensor.EXTERNAL:
        return ""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def check(path: Path) -> None:
    """Refuse locations that leave the graph's folder and name files that are missing.

    Raises:
        StageError: stage 'onnx', with one fault per location.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    first = {location_of(tensor): tensor.name for tensor in reversed(list(tensors(model)))}
    faults = [_fault(path, place, name) for place, name in sorted(first.items()) if place]
    if any(faults):
        raise StageError("onnx", *(fault for fault in faults if fault))


def _fault(path: Path, place: str, tensor: str) -> Fault | None:
    why = f"the data of tensor '{tensor}' is in '{place}'"
    if _leaves(place):
        fix = "put the file beside the graph and write the graph again with its bare name as location"
        return Fault("a weights file lies outside the graph's folder", str(path), f"{why}, which ONNX forbids", fix)
    file = path.parent / place
    if not file.is_file():
        return Fault(f"the weights file {file} is missing", str(path), why, "copy it beside the graph, under that name")
    if file.is_symlink():
        fix = "put a copy of the file in its place"
        return Fault(f"the weights file {file} is a link", str(path), f"{why}, and ONNX follows no links", fix)
    return None


def _leaves(place: str) -> bool:
    return PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts


def load(model: Any, folder: Path) -> None:
    """Load the data of tensors that onnx itself leaves outside: those of sparse initializers and training graphs."""
    from onnx.external_data_helper import load_external_data_for_tensor

    for tensor in tensors(model):
        if location_of(tensor):
            load_external_data_for_tensor(tensor, str(folder))


def with_data(graph: Path) -> dict[str, Path]:
    """Return a graph that Planwright wrote and the file beside it that holds its weights where it is large, by name."""
    return {file.name: file for file in (graph, *sorted(graph.parent.glob("*.onnx.data")))}
