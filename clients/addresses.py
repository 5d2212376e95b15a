"""Find the server when the caller does not name it.

In      an address or nothing.
Out     ``host:port``: the caller's, else that of the server that `python -m serving` started here, else Triton's default.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from planwright.errors import Fault
from planwright.server_info import SERVER_FILE, ServerInfo

from .errors import InvalidRequest
from .options import Protocol

DEFAULT_PORTS = {"http": 8000, "grpc": 8001}
_SCHEMES = {"": False, "http": False, "grpc": False, "https": True, "grpcs": True}  # scheme -> is it TLS


class Addresses(NamedTuple):
    """Where HTTP and gRPC are; None means: find the server that runs here."""

    http: str | None = None
    grpc: str | None = None


def address(url: str | None, protocol: Protocol, server_file: Path = SERVER_FILE) -> str:
    """Return ``host:port`` without a scheme.

    Raises:
        InvalidRequest: The address has a port that is not a number, a path, or a scheme that is not http or grpc.

    Example:
        >>> address("http://gpu-box", "http"), address("gpu-box:9001", "grpc"), address("[::1]", "http")
        ('gpu-box:8000', 'gpu-box:9001', '[::1]:8000')
    """
    if url is None:
        info = ServerInfo.read(server_file)
        if info is None:
            return f"localhost:{DEFAULT_PORTS[protocol]}"
        return info.http_url if protocol == "http" else info.grpc_url
    bare = _without_scheme(url)
    host, separator, port = bare.rpartition(":")
    if not separator or bare.endswith("]"):
        host, port = bare, str(DEFAULT_PORTS[protocol])
    good_host = host and not set(host) & set("/ ?#@") and (":" not in host or (host[0], host[-1]) == ("[", "]"))
    if not good_host or not (port.isascii() and port.isdecimal() and len(port) < 6) or not 0 < int(port) < 65536:
        raise _invalid_address(url)
    return f"{_idna(host, url)}:{port}"


def _idna(host: str, url: str) -> str:
    """Return a host as DNS and request headers need it: non-ASCII letters in IDNA encoding."""
    try:
        found = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        found = ""
    if not found.isprintable() or not found:
        raise _invalid_address(url)
    return found


def _invalid_address(url: str) -> InvalidRequest:
    printable = url.encode("utf-8", "backslashreplace").decode()
    return InvalidRequest(Fault(f"'{printable}' is not an address", fix="write host:port, such as localhost:8000"))


def is_encrypted(url: str | None) -> bool:
    """Return whether the address means TLS by its scheme."""
    return url is not None and _SCHEMES.get(url.partition("://")[0] if "://" in url else "", False)


def split_address(where: str) -> tuple[str, int]:
    """Return host and port for a socket.

    Example:
        >>> split_address("[::1]:8000")
        ('::1', 8000)
    """
    host, _, port = where.rpartition(":")
    return host.strip("[]"), int(port)


def addresses(url: str | None, grpc_url: str | None, server_file: Path = SERVER_FILE) -> Addresses:
    """Return the HTTP and the gRPC address of one and the same server.

    A caller that gives only the HTTP address of another machine must not get the gRPC port of the local server.

    Raises:
        InvalidRequest: As `address`.
    """
    http = url or address(None, "http", server_file)
    if grpc_url is not None:
        return Addresses(http, grpc_url)
    info = ServerInfo.read(server_file)
    if info is not None and address(http, "http") == info.http_url:
        return Addresses(http, info.grpc_url)
    scheme = "grpcs://" if is_encrypted(http) else ""
    host = address(http, "http").rpartition(":")[0]
    return Addresses(http, f"{scheme}{host}:{DEFAULT_PORTS['grpc']}")


def _without_scheme(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if separator and scheme not in _SCHEMES:
        fix = "use http, https, grpc, grpcs, or host:port alone"
        raise InvalidRequest(Fault(f"unsupported scheme '{scheme}' in '{url}'", fix=fix))
    return (rest if separator else url).rstrip("/")
