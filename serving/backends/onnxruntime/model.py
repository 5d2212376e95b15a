"""Triton's ``onnxruntime`` backend in Python, for a server that has no C++ one.

In      batches of requests from the server, the model's config.pbtxt as JSON.
Out     responses; a bad request gets its own TritonError and does not affect the others.

Runs in the stub's own environment (numpy 1.26, onnxruntime) and imports nothing from the project. For Python backends the
server checks neither config.pbtxt against the model nor an answer against config.pbtxt, so both happen here.
``execute`` never raises: a raise fails the whole batch, leaks file paths and can leave the model un-unloadable. There is
no ``auto_complete_config``: the launcher turns that off, because a published config.pbtxt is complete.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from ort_checks import check_config, check_numpy, control_inputs, tensor_dtype
from ort_session import CancelWatch, open_session

_SOURCE_LOCATION = re.compile(r"\S*/\S+\.(?:cc|h|cpp):\d+\s*")


class RequestError(Exception):
    """The request cannot be answered; its text is for the client."""


class CancelledError(Exception):
    """Every client of this run has cancelled."""


class _PendingRequest:
    """One request of a batch: its position, its input arrays, its batch size (0 where the model has no batch axis)."""

    __slots__ = ("feeds", "place", "request", "rows")

    def __init__(self, place: int, request: Any, feeds: dict[str, Any], rows: int) -> None:
        self.place, self.request, self.feeds, self.rows = place, request, feeds, rows


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        """Load the model; refuse a config.pbtxt that does not fit it and a numpy that the stub misreads."""
        check_numpy(pb_utils)
        config = json.loads(args["model_config"])
        self._session = open_session(config, args)
        check_config(config, self._session)
        self._batching = config["max_batch_size"] > 0
        self._inputs = [(item["name"], bool(item.get("optional"))) for item in config["input"]]
        self._inputs += [(name, False) for name in control_inputs(config)]
        self._text = {item["name"] for item in config["input"] if item["data_type"] == "TYPE_STRING"}
        self._scalars = {item.name for item in self._session.get_inputs() if len(item.shape) == 0}
        self._outputs = {item["name"]: item for item in config["output"]}
        self._watch = CancelWatch()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch: requests of the same shape run in one call."""
        responses: list[Any] = [None] * len(requests)
        groups: dict[tuple[Any, ...], list[_PendingRequest]] = {}
        for place, request in enumerate(requests):
            try:
                work = self._read(place, request)
            except Exception as error:
                responses[place] = _failure(error)
                continue
            key = tuple((name, array.shape[1:]) for name, array in work.feeds.items()) if self._batching else (place,)
            groups.setdefault(key, []).append(work)
        for group in groups.values():
            self._answer(group, responses)
        # without an answer the client would wait forever
        return [_failure(RuntimeError("the backend gave no answer")) if each is None else each for each in responses]

    def finalize(self) -> None:
        self._watch.stop()
        del self._session

    def _read(self, place: int, request: Any) -> _PendingRequest:
        feeds = {}
        for name, optional in self._inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is None and optional:
                continue
            if tensor is None:
                raise RequestError(f"expected input '{name}' is missing")
            array = _decoded(name, tensor.as_numpy()) if name in self._text else tensor.as_numpy()
            feeds[name] = array.reshape(()) if name in self._scalars else array
        if not self._batching:
            return _PendingRequest(place, request, feeds, 0)
        sizes = {name: array.shape[0] for name, array in feeds.items()}
        rows = next(iter(sizes.values()))
        if any(size != rows for size in sizes.values()):
            raise RequestError(f"inputs disagree about the batch: {sizes}")
        return _PendingRequest(place, request, feeds, rows)

    def _answer(self, group: list[_PendingRequest], responses: list[Any]) -> None:
        """Run a group; if that fails, run each request alone, so that only the bad ones fail."""
        try:
            results = self._run(group)
            start = 0
            for work in group:
                responses[work.place] = self._response(work, results, start, alone=len(group) == 1)
                start += work.rows
        except Exception as error:
            for work in group:
                if len(group) == 1 or isinstance(error, CancelledError):
                    responses[work.place] = _failure(error)
                else:
                    self._answer([work], responses)

    def _run(self, group: list[_PendingRequest]) -> dict[str, Any]:
        """Return the outputs that any request of the group wants, checked against config.pbtxt."""
        wanted = {name for work in group for name in work.request.requested_output_names()}
        names = [name for name in self._outputs if name in wanted]
        feeds = group[0].feeds
        if len(group) > 1:
            feeds = {name: np.concatenate([work.feeds[name] for work in group]) for name in feeds}
        options = self._watch.begin([work.request for work in group])
        try:
            arrays = self._session.run(names, feeds, options) if names else []
        finally:
            if self._watch.end():
                raise CancelledError("the client cancelled the request")
        rows = sum(work.rows for work in group)
        return {name: self._checked(name, array, rows) for name, array in zip(names, arrays, strict=True)}

    def _checked(self, name: str, array: Any, rows: int) -> Any:
        """Return an output as config.pbtxt declares it; the server itself checks nothing.

        Where config.pbtxt reshapes an output, the server does that, with the sizes of open dims from the model's own shape.
        """
        item = self._outputs[name]
        dims = item["reshape"].get("shape", []) if item.get("reshape") else item["dims"]
        dims = [rows, *dims] if self._batching else dims
        if array.ndim == 0:
            array = array.reshape(dims)
        if array.ndim != len(dims) or any(d not in (-1, size) for d, size in zip(dims, array.shape, strict=True)):
            what = f"the model answered output '{name}' with shape {list(array.shape)}"
            raise RuntimeError(f"{what}, config.pbtxt says {dims}")
        dtype = tensor_dtype(item["data_type"])
        return _encoded(array) if dtype is np.object_ else np.ascontiguousarray(array, dtype=dtype)

    def _response(self, work: _PendingRequest, results: dict[str, Any], start: int, *, alone: bool) -> Any:
        wanted = set(work.request.requested_output_names())
        tensors = []
        for name, array in results.items():
            if name in wanted:
                tensors.append(pb_utils.Tensor(name, array if alone else array[start : start + work.rows]))
        return pb_utils.InferenceResponse(tensors)


def _decoded(name: str, array: Any) -> Any:
    """Turn the bytes of a BYTES tensor into the str objects that onnxruntime takes."""
    try:
        flat = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel()]
    except UnicodeDecodeError:
        raise RequestError(f"input '{name}' holds bytes that are not UTF-8 text") from None
    return np.array(flat, dtype=np.object_).reshape(array.shape)


def _encoded(array: Any) -> Any:
    flat = [item.encode() if isinstance(item, str) else item for item in array.ravel()]
    return np.array(flat, dtype=np.object_).reshape(array.shape)


def _failure(error: Exception) -> Any:
    """Return the error response: an invalid request unless the fault is clearly on this side."""
    text = str(error).strip() or type(error).__name__
    ours = isinstance(error, (MemoryError, RuntimeError)) and "ONNXRuntimeError" not in text
    out_of_memory = "Failed to allocate memory" in text or "bad_alloc" in text
    if isinstance(error, CancelledError):
        return _error(text, pb_utils.TritonError.CANCELLED)
    code = pb_utils.TritonError.INTERNAL if ours or out_of_memory else pb_utils.TritonError.INVALID_ARG
    return _error(_plain(text), code)


def _plain(text: str) -> str:
    """Return onnxruntime's message, without status prefix, source locations and line breaks."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    return " ".join(_SOURCE_LOCATION.sub("", text).split())


def _error(text: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))
