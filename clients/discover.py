"""Where the server is, when the caller does not say.

In      an address or nothing.
Out     ``host:port``: the caller's, else that of the server that `python -m serving` started here, else Triton's default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from planwright.errors import Fault
from planwright.server_info import SERVER_FILE, ServerInfo

from .errors import InvalidRequest

Protocol = Literal["http", "grpc"]
PROTOCOLS: tuple[Protocol, ...] = ("http", "grpc")
DEFAULT_PORTS = {"http": 8000, "grpc": 8001}


def address(url: str | None, protocol: Protocol, server_file: Path = SERVER_FILE) -> str:
    """Return ``host:port`` without a scheme.

    Raises:
        InvalidRequest: The address has a port that is no number.

    Example:
        >>> address("http://gpu-box", "http"), address("gpu-box:9001", "grpc")
        ('gpu-box:8000', 'gpu-box:9001')
    """
    if url is None:
        info = ServerInfo.read(server_file)
        if info is None:
            return f"localhost:{DEFAULT_PORTS[protocol]}"
        return info.http_url if protocol == "http" else info.grpc_url
    bare = url.partition("://")[2] or url
    host, separator, port = bare.rstrip("/").rpartition(":")
    if not separator:
        return f"{bare.rstrip('/')}:{DEFAULT_PORTS[protocol]}"
    if not port.isdigit() or not host:
        raise InvalidRequest(Fault(f"'{url}' is not an address", fix="write host:port, such as localhost:8000"))
    return f"{host}:{port}"
