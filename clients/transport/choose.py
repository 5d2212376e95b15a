"""Which blocking transport a client speaks.

In      an address, a protocol, options.
Out     a function that makes connections, all alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .. import preload
from ..addresses import Protocol
from ..options import Options, ssl_context


def maker(address: str, protocol: Protocol, options: Options) -> Callable[[], Any]:
    """Return what makes a transport; the TLS files are read once, for all of them.

    Raises:
        InvalidRequest: A TLS file cannot be used, or a package is missing.
    """
    preload.load(protocol)
    if protocol == "http":
        from .http import HttpTransport

        return functools.partial(HttpTransport, address, options, ssl_context(options.tls) if options.tls else None)
    from .grpc import GrpcTransport

    context = ssl_context(options.tls, http2=True) if options.tls else None
    return functools.partial(GrpcTransport, address, options, context)
