"""What can go wrong when a model is called, and which statuses and exceptions mean it.

    ClientError                      catch this for all of them
    ├── ConnectionFailed             no server at the address, or the connection broke
    ├── RequestTimeout               no answer within timeout_s
    ├── ModelUnavailable             unknown model or version, or not loaded
    ├── InvalidRequest               names, types or shapes do not fit; nothing was sent, or the server refused it
    ├── SharedMemoryUnavailable      the server cannot use the client's shared memory
    └── ServerError                  the server failed while answering

Every one carries what, why and a fix: ``error.faults[0].fix``.

In      an HTTP status and body, a gRPC status, or an exception of the network.
Out     a `ClientError`.

The server's text decides before its status does, because the status alone misleads: a shared-memory region that it does
not know is a 404 like an unknown model, and a restricted gRPC call is UNAVAILABLE like a model that is still loading.
"""

from __future__ import annotations

import json

from planwright.errors import Fault, PlanwrightError

_UNKNOWN_MODEL = ("unknown model", "not ready", "has no available versions", "is at unavailable state")
_UNKNOWN_REGION = "unable to find shared memory region"
_BAD_REQUEST = ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "OUT_OF_RANGE", "ALREADY_EXISTS")
# texts of the grpc package, which tell an unreachable server from one that answers "unavailable"
_TLS = ("handshake", "SSL", "TLS", "certificate")
_UNREACHABLE = ("failed to connect", "Connection refused", "errors resolving", "DNS resolution", "Name or service")
_BROKEN = (
    "Connection reset", "Socket closed", "recvmsg", "sendmsg", "GOAWAY", "End of TCP", "Broken pipe", "Stream removed",
)  # fmt: skip


class ClientError(PlanwrightError):
    """Base of the errors of this package.

    Attributes:
        retry_safe: True where the request may be sent again: no part of an answer came, or the server said that it is
            not available now. A model that keeps no state between requests may as well run twice.
        reached: False where it certainly reached no model, so that even a request of a sequence may be sent again.
    """

    def __init__(self, *faults: Fault | str, retry_safe: bool = False, reached: bool = True) -> None:
        self.retry_safe, self.reached = retry_safe, reached
        super().__init__(*faults)


class ConnectionFailed(ClientError):  # noqa: N818 - named after the event
    """No server listens at the address, or the connection broke before an answer."""


class RequestTimeout(ClientError):  # noqa: N818 - named after the event
    """The server did not answer within ``timeout_s``."""


class ModelUnavailable(ClientError):  # noqa: N818 - named after the event
    """The server has no such model or version, or it is not ready."""


class InvalidRequest(ClientError):  # noqa: N818 - named after the event
    """The request does not fit the model."""


class SharedMemoryUnavailable(ClientError):  # noqa: N818 - named after the event
    """The server cannot use the client's shared memory."""


class ServerError(ClientError):
    """The server failed while answering."""


def connection_refused(address: str, error: BaseException) -> ConnectionFailed:
    """No server listens there; the request was never sent."""
    fix = "start one with python -m serving, or give another address"
    check = f"curl http://{address}/v2/health/ready"
    fault = Fault(f"cannot reach a server at {address}", why=_text(error), fix=fix, check=check)
    return ConnectionFailed(fault, retry_safe=True, reached=False)


def connection_lost(address: str, error: BaseException, *, answered: bool = False) -> ConnectionFailed:
    """The connection broke during a request; `answered` when part of an answer had come."""
    what = f"the connection to {address} broke before the answer was complete"
    fix = "see the server's log, and check that no proxy on the way limits the size of a request"
    return ConnectionFailed(Fault(what, why=_text(error), fix=fix), retry_safe=not answered)


def tls_failed(address: str, error: BaseException, *, retry_safe: bool = False) -> ConnectionFailed:
    """A server listens there, but the TLS handshake fails."""
    fix = (
        "check that the server speaks TLS there; give Tls(root_certificate=...) of the authority that signed its certificate, "
        "and certificate= and key= where it requires yours"
    )
    return ConnectionFailed(Fault(f"no TLS connection to {address}", why=_text(error), fix=fix), retry_safe=retry_safe)


def request_timeout(address: str, timeout_s: float) -> RequestTimeout:
    """No answer in time."""
    why, fix = "the server may still be working on it", "give a larger timeout_s, or check the load of the server"
    return RequestTimeout(Fault(f"no answer within {timeout_s:g} s", address, why, fix))


def not_ready(model: str, timeout_s: float, address: str, last: str) -> RequestTimeout:
    """The model did not become ready; `last` is the last answer."""
    what = f"'{model}' was not ready within {timeout_s:g} s"
    return RequestTimeout(Fault(what, address, last, "see the server's ready table"))


def unreadable_answer(model: str, error: BaseException) -> ServerError:
    """An answer came, but it does not hold what an answer must."""
    what, why = f"the answer for '{model}' cannot be read", f"{type(error).__name__}: {error}"
    fix = "check that the address is a Triton server's, with no proxy in between that changes answers"
    return ServerError(Fault(what, why=why, fix=fix))


def shared_memory_error(text: str) -> SharedMemoryUnavailable:
    """The server refuses a region, cannot open it, or no longer knows it; only then the request is worth sending again."""
    lost = _UNKNOWN_REGION in text.lower()
    if "unable to open" in text.lower():
        what = "the server cannot open the client's shared memory"
        fix = "run the client on the server's machine, in the same IPC namespace, or leave shared_memory out"
    elif lost:
        what = "the shared-memory region is no longer registered"
        fix = "send the request again; the server may have restarted"
    else:
        what = "the server does not let clients register shared memory"
        fix = "start the server with --allow-client-shm, on the same machine; or leave shared_memory out"
    return SharedMemoryUnavailable(Fault(what, why=text, fix=fix), retry_safe=lost, reached=False)


def error_from_http(model: str, status: int, content: bytes) -> ClientError:
    """Return the error that an HTTP status and its body mean."""
    try:
        text = str(json.loads(content).get("error", ""))
    except (ValueError, AttributeError, RecursionError):
        text = content.decode(errors="replace")[:300]
    if status == 413:
        fix = "send smaller batches, or raise the server's --http-max-input-size"
        return InvalidRequest(Fault(f"the request to '{model}' exceeds the server's size limit", why=text, fix=fix))
    bad_request, unavailable = status in (400, 409), status in (404, 503)
    return _error_from_text(model, text, f"HTTP {status}", bad_request=bad_request, unavailable=unavailable)


def error_from_grpc(code: str, text: str, model: str, address: str, timeout_s: float) -> ClientError:
    """Return the error that a gRPC status and its text mean; `code` is a name of grpc.StatusCode."""
    if code == "DEADLINE_EXCEEDED":
        return request_timeout(address, timeout_s)
    if code == "UNAVAILABLE":
        for texts, failure in (
            (_TLS, tls_failed), (_UNREACHABLE, connection_refused), (_BROKEN, connection_lost)
        ):  # fmt: skip
            if any(part in text for part in texts):
                return failure(address, ConnectionError(text))
    bad_request, unavailable = code in _BAD_REQUEST, code in ("NOT_FOUND", "UNAVAILABLE")
    return _error_from_text(model, text, code, bad_request=bad_request, unavailable=unavailable)


def _error_from_text(model: str, text: str, code: str, *, bad_request: bool, unavailable: bool) -> ClientError:
    lowered = text.lower()
    if _UNKNOWN_REGION in lowered:
        return shared_memory_error(text)
    if "is restricted" in lowered:
        fix = "send the request from the machine that runs the server, or with its admin key in headers="
        return InvalidRequest(Fault("this API is restricted to administrators", why=text, fix=fix))
    if unavailable or any(part in lowered for part in _UNKNOWN_MODEL):
        what, fix = f"the server does not answer for '{model}'", "see the ready table of the server, or its log"
        fault = Fault(what, why=text or code, fix=fix, check="python -m clients validate")
        return ModelUnavailable(fault, retry_safe=code in ("HTTP 503", "UNAVAILABLE"), reached=False)
    if bad_request:
        fix = "compare with the model's inputs: TritonModel(...).info"
        return InvalidRequest(Fault(f"the server refused the request to '{model}'", why=text or code, fix=fix))
    what = f"the server failed while answering for '{model}'"
    return ServerError(Fault(what, why=f"{code}: {text}", fix="see the server's log"))


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
