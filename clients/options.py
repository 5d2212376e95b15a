"""Options of a client as objects.

In      nothing.
Out     `Tls`, `Options`; times in seconds.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

TIMEOUT_S, RETRIES, BACKOFF_S = 60.0, 2, 0.1


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
        retries: How often a request is sent again where that is safe: it never reached the server, or the server
            answered that it is not available (503).
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
            yield BACKOFF_S * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311 - not a secret
