"""A TCP connection for the transports that speak on a socket of their own.

In      where a server listens.
Out     a connected socket; errors of the tree.
"""

from __future__ import annotations

import socket

from . import failures


def connect(where: tuple[str, int], address: str, timeout_s: float) -> socket.socket:
    """Return a connected socket that sends small pieces at once.

    Args:
        where: Host and port.
        address: The same as the caller gave it, for the error.
        timeout_s: Limit of connecting.

    Raises:
        ConnectionFailed: Nobody listens there.
        TimeoutError: Nobody answers in time.
    """
    try:
        plain = socket.create_connection(where, timeout=max(timeout_s, 0.001))
    except TimeoutError:
        raise
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be one
        raise failures.refused(address, error) from None
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return plain
