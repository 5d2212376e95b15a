"""Requests to the tiny models, by HTTP and gRPC, with errors as values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from planwright.server_info import ServerInfo

Answer = dict[str, Any]
BUSY = 1_000_000  # turns of the sleeper: about a second
DATATYPES = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"]


def _inputs(kind: Any, arrays: Mapping[str, Any]) -> list[Any]:
    made = []
    for name, array in arrays.items():
        item = kind(name, list(array.shape), np_to_triton_dtype(array.dtype))
        item.set_data_from_numpy(array)
        made.append(item)
    return made


def over_http(server: ServerInfo, model: str, outputs: list[str] | None = None, **arrays: Any) -> Answer:
    """Answer one request over HTTP."""
    wanted = [httpclient.InferRequestedOutput(name) for name in outputs] if outputs else None
    with httpclient.InferenceServerClient(server.http_url) as client:
        result = client.infer(model, _inputs(httpclient.InferInput, arrays), outputs=wanted)
        return {item["name"]: result.as_numpy(item["name"]) for item in result.get_response()["outputs"]}


def over_grpc(server: ServerInfo, model: str, priority: int = 0, **arrays: Any) -> Answer:
    """Answer one request over gRPC."""
    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        result = client.infer(model, _inputs(grpcclient.InferInput, arrays), priority=priority)
        return {item.name: result.as_numpy(item.name) for item in result.get_response().outputs}


def refusal(server: ServerInfo, model: str, **arrays: Any) -> tuple[str, str]:
    """Return (status, message) of a request that must fail, by HTTP and gRPC alike."""
    replies = []
    for infer in (over_http, over_grpc):
        try:
            infer(server, model, **arrays)
        except InferenceServerException as error:
            replies.append((str(error.status()), str(error.message())))
        else:
            raise AssertionError(f"{infer.__name__} answered")
    (http_status, http_text), (grpc_status, grpc_text) = replies
    assert http_text in grpc_text or grpc_text in http_text, replies
    return f"{http_status} {grpc_status.removeprefix('StatusCode.')}", http_text


def statistics(server: ServerInfo, model: str) -> Any:
    """Return the server's statistics of a model."""
    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        return client.get_inference_statistics(model).model_stats[0]


def row(*values: float) -> Any:
    """Return one FP32 row for the adder."""
    return np.array([values], np.float32)


def turns(count: int) -> Any:
    """Return a request for the sleeper."""
    return np.array([[count]], np.int64)
