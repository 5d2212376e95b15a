"""From a status or an exception to an error of the tree; shared by all transports.

In      HTTP status and text, gRPC status, or an exception of the network.
Out     a `ClientError`.
"""

from __future__ import annotations

import json

from planwright.errors import Fault

from .errors import (
    ClientError,
    ConnectionFailed,
    InvalidRequest,
    ModelUnavailable,
    RequestTimeout,
    ServerError,
    SharedMemoryUnavailable,
)

_START = "start one with python -m serving, or name another address"
_NO_MODEL = ("unknown model", "is not found", "not ready", "has no available versions", "is at unavailable state")
_NO_SHM = ("restricted", "allow-client-shm", "shared memory", "This API is restricted")


def refused(address: str, error: BaseException) -> ConnectionFailed:
    """Nobody listens, or the connection broke."""
    return ConnectionFailed(Fault(f"cannot reach a server at {address}", why=_text(error), fix=_START, check=f"curl http://{address}/v2/health/ready"))


def timed_out(address: str, timeout_s: float) -> RequestTimeout:
    """No answer in time."""
    fix = "give a larger timeout_s, or see whether the server is overloaded"
    return RequestTimeout(Fault(f"no answer within {timeout_s:g} s", address, fix=fix))


def from_http(model: str, status: int, content: bytes) -> ClientError:
    """Turn an HTTP status and its body into an error."""
    try:
        text = str(json.loads(content).get("error", ""))
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        text = content.decode(errors="replace")[:300]
    return from_text(model, text, bad_request=status in (400, 413), unavailable=status in (404, 503), code=f"HTTP {status}")


def from_grpc(model: str, code: str, text: str) -> ClientError:
    """Turn a gRPC status into an error; the codes are grpc.StatusCode names."""
    bad = code in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "OUT_OF_RANGE", "UNKNOWN")
    return from_text(model, text, bad_request=bad, unavailable=code in ("NOT_FOUND", "UNAVAILABLE"), code=code)


def from_text(model: str, text: str, *, bad_request: bool, unavailable: bool, code: str) -> ClientError:
    """Sort the server's own words."""
    lowered = text.lower()
    if unavailable or any(part in lowered for part in _NO_MODEL):
        fix = "see the ready table of the server, or its log"
        return ModelUnavailable(Fault(f"the server does not answer for '{model}'", why=text, fix=fix, check="python -m clients validate"))
    if bad_request:
        return InvalidRequest(Fault(f"the server refused the request to '{model}'", why=text, fix="compare with the model's inputs: TritonModel(...).info"))
    return ServerError(Fault(f"the server failed while answering for '{model}'", why=f"{code}: {text}", fix="see the server's log"))


def no_shared_memory(text: str) -> SharedMemoryUnavailable:
    """The server refuses registration."""
    fix = "start the server with --allow-client-shm, on the same machine; or leave shared_memory out"
    return SharedMemoryUnavailable(Fault("the server does not let clients register shared memory", why=text, fix=fix))


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
