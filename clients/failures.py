"""From a status or an exception to an error of the tree; shared by all transports.

In      HTTP status and text, gRPC status, or an exception of the network.
Out     a `ClientError`.

The server's words decide before its status does, because the status alone misleads: a shared memory region that it does
not know is a 404 like an unknown model, and a restricted gRPC call is UNAVAILABLE like a model that still loads.
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
_NO_MODEL = ("unknown model", "not ready", "has no available versions", "is at unavailable state")
_NOT_REGISTERED = "unable to find shared memory region"


def refused(address: str, error: BaseException) -> ConnectionFailed:
    """No server listens there; the request was never sent."""
    fault = Fault(
        f"cannot reach a server at {address}",
        why=_text(error),
        fix=_START,
        check=f"curl http://{address}/v2/health/ready",
    )
    return ConnectionFailed(fault, retry_safe=True, reached=False)


def lost(address: str, error: BaseException, *, answered: bool = False) -> ConnectionFailed:
    """The connection broke while a request was under way; `answered` when part of an answer had come."""
    what = f"the connection to {address} broke before the answer was complete"
    fix = "see the server's log, and that nothing between here and there limits the size of a request"
    return ConnectionFailed(Fault(what, why=_text(error), fix=fix), retry_safe=not answered)


def no_tls(address: str, error: BaseException, *, retry_safe: bool = False) -> ConnectionFailed:
    """A server listens, but TLS with it fails."""
    fix = (
        "see whether the server speaks TLS there, and give Tls(root_certificate=...) of who signed its certificate, "
        "and certificate= and key= where it requires yours"
    )
    return ConnectionFailed(Fault(f"no TLS connection to {address}", why=_text(error), fix=fix), retry_safe=retry_safe)


def timed_out(address: str, timeout_s: float) -> RequestTimeout:
    """No answer in time."""
    fix = "give a larger timeout_s, or see whether the server is overloaded"
    return RequestTimeout(
        Fault(f"no answer within {timeout_s:g} s", address, "the server may still be working on it", fix)
    )


def not_ready(model: str, timeout_s: float, where: str, last: str) -> RequestTimeout:
    """The model did not become ready; `last` is the last answer."""
    return RequestTimeout(
        Fault(f"'{model}' was not ready within {timeout_s:g} s", where, last, "see the server's ready table")
    )


def from_http(model: str, status: int, content: bytes) -> ClientError:
    """Turn an HTTP status and its body into an error."""
    try:
        text = str(json.loads(content).get("error", ""))
    except (ValueError, AttributeError, RecursionError):
        text = content.decode(errors="replace")[:300]
    if status == 413:
        fix = "send smaller batches, or raise the server's --http-max-input-size"
        return InvalidRequest(Fault(f"the request to '{model}' is larger than the server takes", why=text, fix=fix))
    return from_text(
        model, text, bad_request=status in (400, 409), unavailable=status in (404, 503), code=f"HTTP {status}"
    )


def from_grpc(model: str, code: str, text: str) -> ClientError:
    """Turn a gRPC status into an error; the codes are grpc.StatusCode names."""
    bad = code in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "OUT_OF_RANGE", "ALREADY_EXISTS")
    return from_text(model, text, bad_request=bad, unavailable=code in ("NOT_FOUND", "UNAVAILABLE"), code=code)


def from_text(model: str, text: str, *, bad_request: bool, unavailable: bool, code: str) -> ClientError:
    """Sort the server's own words."""
    lowered = text.lower()
    if _NOT_REGISTERED in lowered:
        return no_shared_memory(text)
    if "is restricted" in lowered:
        fix = "send the request from the machine that runs the server, or with its admin key in headers="
        return InvalidRequest(Fault("this API is restricted to administrators", why=text, fix=fix))
    if unavailable or any(part in lowered for part in _NO_MODEL):
        fix = "see the ready table of the server, or its log"
        fault = Fault(
            f"the server does not answer for '{model}'", why=text or code, fix=fix, check="python -m clients validate"
        )
        return ModelUnavailable(fault, retry_safe=code in ("HTTP 503", "UNAVAILABLE"), reached=False)
    if bad_request:
        fix = "compare with the model's inputs: TritonModel(...).info"
        return InvalidRequest(Fault(f"the server refused the request to '{model}'", why=text or code, fix=fix))
    return ServerError(
        Fault(f"the server failed while answering for '{model}'", why=f"{code}: {text}", fix="see the server's log")
    )


def unreadable(model: str, error: BaseException) -> ServerError:
    """An answer came, but it does not hold what an answer must."""
    fix = "see whether a Triton server listens there, or a proxy that changes answers"
    return ServerError(
        Fault(f"the answer for '{model}' cannot be read", why=f"{type(error).__name__}: {error}", fix=fix)
    )


def no_shared_memory(text: str) -> SharedMemoryUnavailable:
    """The server refuses a region, cannot open it, or no longer knows it."""
    if "unable to open" in text.lower():
        what = "the server cannot open the client's shared memory"
        fix = "run the client on the server's machine, in the same IPC namespace, or leave shared_memory out"
    elif _NOT_REGISTERED in text.lower():
        what, fix = (
            "the shared-memory region is no longer registered",
            "send the request again; the server may have restarted",
        )
    else:
        what = "the server does not let clients register shared memory"
        fix = "start the server with --allow-client-shm, on the same machine; or leave shared_memory out"
    # a client sends it again in other memory
    return SharedMemoryUnavailable(
        Fault(what, why=text, fix=fix), retry_safe=_NOT_REGISTERED in text.lower(), reached=False
    )


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
