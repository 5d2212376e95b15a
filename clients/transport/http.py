"""HTTP, blocking: one keep-alive connection.

In      an address and options.
Out     JSON documents, answered inference bodies; errors of clients/errors.py.

A plain socket with geventhttpclient's parser, not its client: waiting through gevent's hub costs more CPU per small
request than all the rest, and binds a connection to its thread. Under locust the socket module is gevent's, so users
still take turns. The server drops idle connections, so one that was idle is checked before it is reused.

An answer that came in one piece with a plain head is split without the parser, which takes longer than the rest of the exchange.
Any other answer goes through the parser, from its first byte.
"""

from __future__ import annotations

import functools
import json
import re
import socket
import ssl
import time
from typing import Any, NamedTuple

from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError, HTTPSocketResponse

from .. import errors, fork_safety
from ..addresses import split_address
from ..errors import ClientError
from ..options import ClientOptions, checked_headers
from . import tcp
from .codec import HttpBody, header_lines

_BLOCK_BYTES = 1 << 16
_FRESH_S = 0.05  # a connection used so recently is not checked, which would be a system call per request
_JOIN_BYTES = 1 << 16  # up to here one copy is cheaper than a second system call
_HEAD_END = b"\r\n\r\n"
_HEAD_BYTES = 2048  # longer heads are not cached
_JSON_LENGTH = "inference-header-content-length"
_PLAIN_LINE = re.compile(rb"(?i)(content-type|content-length|inference-header-content-length): *([!-~][ -~]*)")


class _Answer(NamedTuple):
    """An answer: its status, the length of the JSON part, the body, and whether it ends the connection."""

    status: int
    json_length: str | None
    body: bytes
    last: bool


class HttpTransport:
    """One connection to one server; not for two threads at once. `context` for TLS."""

    def __init__(self, address: str, options: ClientOptions, context: ssl.SSLContext | None = None) -> None:
        self.address, self._options, self._context = address, options, context
        self._where = split_address(address)
        self._socket: socket.socket | None = None
        self._used = 0.0
        self._common = header_lines({"Host": address, **checked_headers(options.headers)})
        fork_safety.register(self)

    def json(self, path: str, model: str) -> Any:
        """GET a JSON document."""
        return json.loads(self._request("GET", path, b"", "", model)[0])

    def post_json(self, path: str, document: dict[str, Any], model: str) -> None:
        """POST a JSON document."""
        self._request("POST", path, json.dumps(document).encode(), "Content-Type: application/json\r\n", model)

    def infer(self, body: HttpBody, model: str) -> tuple[bytes, str | None]:
        """Send a prepared body; returns the answer's bytes and the length of its JSON part."""
        return self._request("POST", body.path, body.content, body.header_lines, model)

    def close(self) -> None:
        """Close the connection; an open one would hold up the server's shutdown."""
        kept, self._socket = self._socket, None
        if kept is not None:
            kept.close()

    def interrupt(self) -> None:
        """Make the request that waits for an answer fail; called from another thread."""
        tcp.interrupt(self._socket)

    def after_fork(self) -> None:
        """Close this copy of the parent's connection, in a forked child."""
        self.close()

    def _request(self, method: str, path: str, content: bytes, lines: str, model: str) -> tuple[bytes, str | None]:
        text = f"{method} {path} HTTP/1.1\r\n{self._common}{lines}Content-Length: {len(content)}\r\n\r\n"
        head = text.encode("latin-1")
        deadline = time.monotonic() + self._options.timeout_s
        try:
            answer = self._exchange(head, content, deadline)
        except ClientError:
            self.close()
            raise
        except TimeoutError:
            self.close()
            raise errors.request_timeout(self.address, self._options.timeout_s) from None
        except BaseException:  # also Ctrl-C and a killed greenlet: the rest of the answer would pass for the next one
            self.close()
            raise
        if answer.last:
            self.close()
        if answer.status != 200:
            raise errors.error_from_http(model, answer.status, answer.body)
        return answer.body, answer.json_length

    def _exchange(self, head: bytes, content: bytes, deadline: float) -> _Answer:
        connection = self._open(deadline)
        broken = _send(connection, head, content)
        timed: Any = _DeadlineSocket(connection, deadline)
        try:
            answer = _cut(timed.peek(_BLOCK_BYTES))
            if answer is None:
                response = HTTPSocketResponse(timed, block_size=_BLOCK_BYTES)
                body = response.read()
                answer = _Answer(response.status_code, response.get(_JSON_LENGTH), body, response.should_close())
            self._used = time.monotonic()
            return answer
        except HTTPConnectionClosed as error:
            raise errors.connection_lost(self.address, broken or error) from None
        except TimeoutError:
            raise
        except (HTTPParseError, OSError) as error:
            raise errors.connection_lost(self.address, broken or error, answered=timed.received) from None

    def _open(self, deadline: float) -> socket.socket:
        idle_s = time.monotonic() - self._used
        if self._socket is not None and idle_s > _FRESH_S and _is_stale(self._socket, self._context is not None):
            self.close()
        if self._socket is None:
            self._socket = tcp.connect(self._where, self.address, deadline - time.monotonic(), self._context)
        self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
        return self._socket


class _DeadlineSocket:
    """A socket for the parser with one deadline for all its reads, so that a server that drips bytes times out too."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection, self._deadline, self.received = connection, deadline, False
        self._peeked: bytes | None = None

    def peek(self, size: int) -> bytes:
        """Return what was received; the next `recv` returns it again."""
        self._peeked = self.recv(size)
        return self._peeked

    def recv(self, size: int) -> bytes:
        if self._peeked is not None:
            block, self._peeked = self._peeked, None
            return block
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._connection.settimeout(left_s)
        block = self._connection.recv(size)
        self.received = self.received or bool(block)
        return block

    def close(self) -> None:
        """Nothing: the transport closes its connection itself."""


def _cut(block: bytes) -> _Answer | None:
    """Return the answer if `block` is exactly one with a plain head, else None."""
    end = block.find(_HEAD_END)
    lengths = _plain(block[:end]) if 0 < end <= _HEAD_BYTES else None
    begin = end + len(_HEAD_END)
    if lengths is None or len(block) - begin != lengths[0]:
        return None
    return _Answer(200, lengths[1], block[begin:], last=False)


@functools.lru_cache(maxsize=64)  # answers of one shape have the same head
def _plain(head: bytes) -> tuple[int, str | None] | None:
    """Return the lengths of the body and of its JSON part if the head holds nothing else of note, else None."""
    status, *lines = head.split(b"\r\n")
    found = [_PLAIN_LINE.fullmatch(line) for line in lines]
    if status != b"HTTP/1.1 200 OK" or not all(found):
        return None
    named = {match[1].decode().lower(): match[2].decode() for match in found if match}
    length, json_length = named.get("content-length", ""), named.get(_JSON_LENGTH)
    plain = length.isdecimal() and (json_length or "0").isdecimal() and len(named) == len(lines)
    return (int(length), json_length) if plain else None


def _send(connection: socket.socket, head: bytes, content: bytes) -> BaseException | None:
    """Send; returns the error where sending broke, since a server that refuses a large body may have answered before that."""
    try:
        if len(content) <= _JOIN_BYTES:
            whole = head + content
            sent = connection.send(whole)  # sendall queries its buffer's size first
            if sent < len(whole):
                connection.sendall(whole[sent:])
        else:
            connection.sendall(head)
            connection.sendall(content)
    except TimeoutError:
        raise
    except OSError as error:
        return error
    return None


def _is_stale(connection: socket.socket, encrypted: bool) -> bool:
    """True where the server has closed the connection, or has sent something unrequested."""
    if encrypted:
        return False  # TLS has no peek; a closed connection fails before an answer, so the request can safely be sent again
    try:
        connection.settimeout(0)
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
