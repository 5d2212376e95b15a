"""Open a TCP connection, plain or with TLS, for the transports that own their socket.

In      where a server listens.
Out     a connected socket; errors of clients/errors.py.
"""

from __future__ import annotations

import contextlib
import socket
import ssl

from .. import errors


def connect(
    where: tuple[str, int], address: str, timeout_s: float, context: ssl.SSLContext | None = None
) -> socket.socket:
    """Return a connected socket without Nagle's delay.

    Args:
        where: Host and port.
        address: The same as the caller wrote it, for the error.
        timeout_s: Limit of connecting, and of each step of the TLS handshake.
        context: For TLS.

    Raises:
        ConnectionFailed: No server listens there, it does not speak TLS, or a certificate is not trusted.
        TimeoutError: No answer in time.
    """
    try:
        plain = socket.create_connection(where, timeout=max(timeout_s, 0.001))
    except TimeoutError:
        raise
    except (OSError, UnicodeError) as error:  # UnicodeError: an invalid host name
        raise errors.connection_refused(address, error) from None
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is None:
        return plain
    try:
        return context.wrap_socket(plain, server_hostname=where[0])
    except OSError as error:  # ssl.SSLError is one
        plain.close()
        if isinstance(error, TimeoutError):
            raise
        raise errors.tls_failed(address, error) from None


def interrupt(connection: socket.socket | None) -> None:
    """Wake the thread that waits on this socket; that thread then closes it."""
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
