"""Options of a client: which transports there are, the defaults, and the checks of what a caller gives.

In      what a caller gave.
Out     `Tls`, `ClientOptions`, `ssl_context`; times in seconds. A value that cannot be used is an `InvalidRequest` that names the option.
"""

from __future__ import annotations

import os
import random
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from planwright.errors import Fault

from .errors import InvalidRequest

Protocol = Literal["http", "grpc"]
SharedMemory = Literal["system", "cuda"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
SHARED_MEMORIES: tuple[SharedMemory, ...] = get_args(SharedMemory)
# every way to hand tensors to a server, by its name on command lines -> the shared memory that it uses
TRANSPORTS: dict[str, SharedMemory | None] = {"http": None, "grpc": None, "shm": "system", "cuda": "cuda"}
TIMEOUT_S, READY_TIMEOUT_S, RETRIES, BACKOFF_S = 60.0, 60.0, 2, 0.1
LONGEST_S = 1e6  # neither a lock nor a socket takes a longer time-out than its C type
_MAX_RETRIES, _MAX_DOUBLINGS, _SHOWN_CHARACTERS = 1000, 7, 80
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2


@dataclass(frozen=True)
class Tls:
    """TLS files (PEM).

    Attributes:
        root_certificate: The authorities that may have signed the server's certificate; the system's list when empty.
        certificate, key: The client's own, for mutual TLS.
    """

    root_certificate: str = ""
    certificate: str = ""
    key: str = ""


@dataclass(frozen=True)
class ClientOptions:
    """How requests are sent.

    Attributes:
        timeout_s: Limit of one request.
        retries: How often a request is sent again where that is safe, see `ClientError.retry_safe`.
        headers: Sent with each request.
        tls: None for plain text.
    """

    timeout_s: float = TIMEOUT_S
    retries: int = RETRIES
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: Tls | None = None

    def pauses_s(self) -> Iterator[float]:
        """Yield the pause before each retry: doubling, with jitter so that clients do not retry in step."""
        for attempt in range(self.retries):
            yield BACKOFF_S * 2 ** min(attempt, _MAX_DOUBLINGS) * random.uniform(0.5, 1.5)


def checked_options(timeout_s: Any, retries: Any, headers: Any, tls: Any) -> ClientOptions:
    """Return the options.

    Raises:
        InvalidRequest: One of them is invalid.
    """
    if not (_is_number(retries) and 0 <= retries <= _MAX_RETRIES and retries == int(retries)):
        raise invalid_argument("retries", retries, f"give a whole number from 0 to {_MAX_RETRIES}")
    if not isinstance(tls, (Tls, type(None))):
        raise invalid_argument("tls", tls, "give Tls(...)")
    for name, value in vars(tls).items() if tls else ():
        if not isinstance(value, (str, os.PathLike, type(None))):
            raise invalid_argument(f"tls.{name}", value, "give the path of a PEM file")
    return ClientOptions(checked_seconds(timeout_s), int(retries), _mapping(headers), tls)


def _mapping(headers: Any) -> dict[Any, Any]:
    if headers is not None and not isinstance(headers, Mapping):
        raise invalid_argument("headers", headers, "give a mapping from names to values")
    try:
        return {} if headers is None else dict(headers)
    except Exception as error:  # a mapping of another library may raise anything
        raise unreadable_mapping("headers", error) from None


def checked_flag(what: str, value: Any) -> bool:
    """Return a bool; numpy's bools and the numbers 0 and 1 count as one.

    Raises:
        InvalidRequest: It is anything else, such as an array, or text, which would count as true.
    """
    if isinstance(value, (bool, np.bool_)) or (_is_number(value) and value in (0, 1)):
        return bool(value)
    raise invalid_argument(what, value, "give True or False")


def checked_seconds(timeout_s: Any, *, zero: bool = False) -> float:
    """Return a time limit, at most `LONGEST_S`; `zero` where 0 is allowed.

    Raises:
        InvalidRequest: It is not a number of seconds.
    """
    if not _is_number(timeout_s) or not (timeout_s > 0 or (zero and timeout_s == 0)):
        raise invalid_argument("timeout_s", timeout_s, "give seconds greater than 0")
    try:
        return min(float(timeout_s), LONGEST_S)
    except OverflowError:  # an int above all floats
        return LONGEST_S


def checked_headers(headers: Mapping[Any, Any]) -> Mapping[str, str]:
    """Return the headers, which both HTTP and gRPC can send.

    Raises:
        InvalidRequest: A character is not allowed in headers; a line break would inject another one.
    """
    for name, value in headers.items():
        is_text = isinstance(name, str) and isinstance(value, str)
        if not (is_text and _HEADER_NAME.fullmatch(name) and value.isascii() and value.isprintable()):
            why, fix = "a name may hold letters, digits and -, a value one line of ASCII", "remove other characters"
            raise InvalidRequest(Fault(f"header {printable(name)} cannot be sent", why=why, fix=fix))
    return headers


def checked_version(version: Any) -> str:
    """Return a version as text; empty for the newest.

    Raises:
        InvalidRequest: It is not a whole number.
    """
    try:
        text = "" if version is None else str(version)
    except Exception:  # such as a number with more digits than Python converts
        text = "unknown"
    if text and not (text.isascii() and text.isdecimal()):  # over gRPC the server would read 1.5 as 1
        raise invalid_argument("version", version, "give a whole number, or none for the newest")
    return text


def check_choices(*, model: Any, url: Any, protocol: Any, shared_memory: Any) -> None:
    """Check the arguments that select a model and a transport.

    Raises:
        InvalidRequest: One of them is invalid.
    """
    if not isinstance(model, str) or not model:
        raise invalid_argument("model name", model, "name a model that the server serves")
    if not _is_utf8(model):
        raise invalid_argument("model name", model, "give text that UTF-8 can encode")
    if url is not None and not isinstance(url, str):
        raise invalid_argument("url", url, "write host:port, such as localhost:8000")
    if not isinstance(protocol, str) or protocol not in PROTOCOLS:
        raise InvalidRequest(Fault(f"unknown protocol {printable(protocol)}", fix="use http or grpc"))
    if shared_memory is not None and (not isinstance(shared_memory, str) or shared_memory not in SHARED_MEMORIES):
        what, fix = f"unknown shared_memory value {printable(shared_memory)}", "use system, cuda, or None"
        raise InvalidRequest(Fault(what, fix=fix))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def printable(value: Any) -> str:
    """Return a short text for a message, of any value: ``repr`` runs foreign code, and fails for a huge number."""
    try:
        text = repr(value)
    except Exception:
        return f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def invalid_argument(what: str, value: Any, fix: str) -> InvalidRequest:
    """An argument is invalid."""
    return InvalidRequest(Fault(f"invalid {what}: {printable(value)}", fix=fix))


def unreadable_mapping(what: str, error: Exception) -> InvalidRequest:
    """A mapping that raises while it is read, such as a file that is closed."""
    why = str(error) or type(error).__name__
    return InvalidRequest(Fault(f"{what} cannot be read", why=why, fix="give a dict"))


def ssl_context(tls: Tls, *, http2: bool = False) -> ssl.SSLContext:
    """Return the context for sockets and aiohttp; `http2` negotiates HTTP/2 in the handshake, as gRPC servers require.

    Raises:
        InvalidRequest: A file is missing or is not a certificate.
    """
    try:
        context = ssl.create_default_context(cafile=tls.root_certificate or None)
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.key or None)
        if http2:
            context.set_alpn_protocols(["h2"])
    except (OSError, TypeError, ValueError) as error:
        raise tls_file_error(tls, error) from None
    return context


def tls_file_error(tls: Tls, error: Exception) -> InvalidRequest:
    """A TLS file cannot be used."""
    files = ", ".join(str(name) for name in (tls.root_certificate, tls.certificate, tls.key) if name)
    return InvalidRequest(Fault("a TLS file cannot be used", files, str(error), "give PEM files"))
