"""Triton's ``onnxruntime`` backend in Python, for a server that has no C++ one.

In      batches of requests from the server, the model's config.pbtxt as JSON.
Out     responses; a bad request gets its own TritonError and never hurts its neighbours.

Runs in the stub's own environment (numpy 1.26, onnxruntime) and imports nothing of the project. Nothing in the server
checks config.pbtxt against the model or an answer against config.pbtxt for Python backends, so both happen here, with
the texts of NVIDIA's C++ backend. ``execute`` never raises: a raise fails the whole batch, leaks file paths and can leave
the model un-unloadable.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from checks import check_config, check_numpy, tensor_dtype

_RUN_ERRORS = (Exception,)  # onnxruntime raises a dozen unrelated classes from one C++ status


class BadRequest(Exception):
    """The request cannot be answered; its text is for the client."""


class TritonPythonModel:
    """One instance of one model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model and refuse a config.pbtxt that does not fit it."""
        check_numpy(pb_utils)
        config = json.loads(args["model_config"])
        filename = config.get("default_model_filename") or "model.onnx"
        path = os.path.join(args["model_repository"], args["model_version"], filename)
        self._session = ort.InferenceSession(path, _options(config), providers=["CPUExecutionProvider"])
        check_config(config, self._session)
        self._batching = config["max_batch_size"] > 0
        self._inputs = [item["name"] for item in config["input"]]
        self._outputs = [item["name"] for item in config["output"]]
        self._dtypes = {item["name"]: tensor_dtype(item["data_type"]) for item in config["output"]}
        self._text = {item["name"] for item in config["input"] if item["data_type"] == "TYPE_STRING"}

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch: requests of one shape run together in one call."""
        responses: list[Any] = [None] * len(requests)
        groups: dict[tuple[Any, ...], list[tuple[int, dict[str, Any]]]] = {}
        for position, request in enumerate(requests):
            if request.is_cancelled():
                responses[position] = _error("the client cancelled the request", pb_utils.TritonError.CANCELLED)
                continue
            try:
                feeds = self._feeds(request)
            except BadRequest as error:
                responses[position] = _error(str(error), pb_utils.TritonError.INVALID_ARG)
                continue
            key = tuple(array.shape[1:] if self._batching else position for array in feeds.values())
            groups.setdefault(key, []).append((position, feeds))
        for members in groups.values():
            self._answer(members, requests, responses)
        return responses

    def _feeds(self, request: Any) -> dict[str, Any]:
        feeds = {}
        for name in self._inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is None:
                raise BadRequest(f"expected input '{name}' is missing")
            array = tensor.as_numpy()
            feeds[name] = _decode(name, array) if name in self._text else array
        rows = {array.shape[0] for array in feeds.values()} if self._batching else {1}
        if len(rows) > 1:
            raise BadRequest(f"inputs disagree about the batch: {sorted(rows)}")
        return feeds

    def _answer(self, members: list[tuple[int, dict[str, Any]]], requests: list[Any], responses: list[Any]) -> None:
        """Run one group; where the joined run fails, run each request alone, so that only the bad ones fail."""
        try:
            results = self._run(_joined([feeds for _, feeds in members]))
        except _RUN_ERRORS as error:
            if len(members) > 1:
                for member in members:
                    self._answer([member], requests, responses)
            else:
                responses[members[0][0]] = _error(_plain(error), pb_utils.TritonError.INVALID_ARG)
            return
        start = 0
        for position, feeds in members:
            rows = len(next(iter(feeds.values()))) if self._batching else 0
            part = {n: a[start : start + rows] for n, a in results.items()} if len(members) > 1 else results
            start += rows
            responses[position] = self._response(requests[position], part, rows)

    def _run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(self._outputs, self._session.run(self._outputs, feeds)))  # noqa: B905 - onnxruntime answers all

    def _response(self, request: Any, results: dict[str, Any], rows: int) -> Any:
        wanted = set(request.requested_output_names())
        tensors = []
        for name, array in results.items():
            if name not in wanted:
                continue
            if rows and (not array.ndim or array.shape[0] != rows):
                text = f"output '{name}' has shape {list(array.shape)} for a batch of {rows}"
                return _error(text, pb_utils.TritonError.INTERNAL)
            tensors.append(pb_utils.Tensor(name, _encode(array, self._dtypes[name])))
        return pb_utils.InferenceResponse(tensors)


def _options(config: dict[str, Any]) -> ort.SessionOptions:
    """Share the cores among the instances; NVIDIA's parameter names override."""
    options = ort.SessionOptions()
    instances = sum(group.get("count", 1) for group in config.get("instance_group", [])) or 1
    cores = len(os.sched_getaffinity(0))
    options.intra_op_num_threads = int(_parameter(config, "intra_op_thread_count", max(1, cores // instances)))
    options.inter_op_num_threads = int(_parameter(config, "inter_op_thread_count", 1))
    # spinning threads would take the cores from the server's own threads and from other instances
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _parameter(config: dict[str, Any], name: str, default: int) -> Any:
    return config.get("parameters", {}).get(name, {}).get("string_value", default)


def _joined(feeds: list[dict[str, Any]]) -> dict[str, Any]:
    if len(feeds) == 1:
        return feeds[0]
    return {name: np.concatenate([item[name] for item in feeds]) for name in feeds[0]}


def _decode(name: str, array: Any) -> Any:
    """Turn the bytes of a BYTES tensor into the str objects that onnxruntime takes."""
    try:
        flat = [item.decode("utf-8") if isinstance(item, bytes) else str(item) for item in array.ravel()]
    except UnicodeDecodeError:
        raise BadRequest(f"input '{name}' holds bytes that are not UTF-8 text") from None
    return np.array(flat, dtype=object).reshape(array.shape)


def _encode(array: Any, dtype: Any) -> Any:
    if dtype == np.object_:
        flat = [item.encode("utf-8") if isinstance(item, str) else bytes(item) for item in array.ravel()]
        return np.array(flat, dtype=object).reshape(array.shape)
    return np.ascontiguousarray(array, dtype=dtype)


def _plain(error: Exception) -> str:
    """Return onnxruntime's own sentence, without its status prefix and source paths."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return text.split(" : ")[-1]


def _error(text: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))
