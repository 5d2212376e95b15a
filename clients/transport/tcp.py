"""A TCP connection, plain or with TLS, for the transports that speak on a socket of their own.

In      where a server listens.
Out     a connected socket; errors of the tree.
"""

from __future__ import annotations

import contextlib
import socket
import ssl

from .. import failures


def connect(where: tuple[str, int], address: str, timeout_s: float) -> socket.socket:
    """Return a connected socket that sends small pieces at once.

    Args:
        where: Host and port.
        address: The same as the caller gave it, for the error.
        timeout_s: Limit of connecting.

    Raises:
        ConnectionFailed: No server listens there.
        TimeoutError: No answer in time.
    """
    try:
        plain = socket.create_connection(where, timeout=max(timeout_s, 0.001))
    except TimeoutError:
        raise
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be one
        raise failures.refused(address, error) from None
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return plain


def secure(plain: socket.socket, context: ssl.SSLContext, host: str, address: str) -> ssl.SSLSocket:
    """Return the socket with TLS; closes it where that fails.

    Raises:
        ConnectionFailed: The other side speaks no TLS, or one does not trust the other.
        TimeoutError: It does not answer in time.
    """
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except TimeoutError:
        plain.close()
        raise
    except OSError as error:  # ssl.SSLError is one
        plain.close()
        raise failures.no_tls(address, error) from None


def interrupt(connection: socket.socket | None) -> None:
    """End what another thread waits for on this socket, which that thread then closes itself."""
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
