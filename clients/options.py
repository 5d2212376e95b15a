"""Options of a client as objects.

In      nothing.
Out     `Tls`, `Options`, `ssl_context`; times in seconds.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from planwright.errors import Fault

from .errors import InvalidRequest

TIMEOUT_S, RETRIES, BACKOFF_S = 60.0, 2, 0.1
LONGEST_S = 1e6  # neither a lock nor a socket takes a longer time-out than its C type


@dataclass(frozen=True)
class Tls:
    """TLS files (PEM).

    Attributes:
        root_certificate: Who may have signed the server's certificate; the system's list when empty.
        certificate, key: The client's own, for mutual TLS.
    """

    root_certificate: str = ""
    certificate: str = ""
    key: str = ""


@dataclass(frozen=True)
class Options:
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
            yield BACKOFF_S * 2**attempt * random.uniform(0.5, 1.5)


def ssl_context(tls: Tls, *, http2: bool = False) -> ssl.SSLContext:
    """Return what sockets and aiohttp take; `http2` says in the handshake that HTTP/2 is spoken, as gRPC servers require.

    Raises:
        InvalidRequest: A file is missing or is no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=tls.root_certificate or None)
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.key or None)
        if http2:
            context.set_alpn_protocols(["h2"])
    except OSError as error:
        raise unreadable(tls, error) from None
    return context


def unreadable(tls: Tls, error: OSError) -> InvalidRequest:
    """A TLS file cannot be used."""
    files = ", ".join(name for name in (tls.root_certificate, tls.certificate, tls.key) if name)
    return InvalidRequest(Fault("a TLS file cannot be used", files, str(error), "give PEM files"))
