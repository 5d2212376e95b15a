"""One HTTP/2 connection that answers one request at a time, on a socket.

In      a connected socket; a block of header fields, a body.
Out     `Reply`: header fields, body, how the stream ended; `OSError` where the connection breaks, `NotHttp2Error` among them.

For gRPC's unary calls, which need little of RFC 9113: the library that covers all of it spends more CPU per small request than locust, the
checks and the histogram together. Header blocks are read by hpack. The server is instructed to keep no table of headers, so equal blocks mean
equal fields and are read once. It is also given the largest windows, so answers never wait for the client.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple

from ..options import LONGEST_S

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD = struct.Struct(">IBI")  # RFC 9113, 4.1: length (3 bytes) and type, flags, stream
_SETTING = struct.Struct(">HI")
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM = _ACK = 0x1
_END_HEADERS, _PADDED, _PRIORITY = 0x4, 0x8, 0x20
_PLAIN_END = _END_HEADERS | _END_STREAM
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 1, 2, 4, 5
_WINDOW, _FRAME_BYTES = 65_535, 16_384  # defaults until the peer changes them
_LARGEST = (1 << 31) - 1  # of windows and of stream numbers
_BLOCK_BYTES = 1 << 16  # for a larger one the system maps memory at each call
_MAX_KNOWN = 64  # header blocks remembered
_MAX_HEADER_BYTES = 1 << 20
_NOTHING_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)  # of a non-blocking socket


class NotHttp2Error(ConnectionError):
    """The peer does not speak HTTP/2."""


@dataclass(slots=True)
class Reply:
    """What came for one request; `reset` is the error code where the server broke the stream off."""

    blocks: list[dict[str, str]] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    ended: bool = False
    reset: int | None = None

    @property
    def fields(self) -> dict[str, str]:
        """All header fields; trailers override headers."""
        return {name: value for block in self.blocks for name, value in block.items()}


class Connection:
    """A connection; `last` once it accepts no more requests."""

    def __init__(self, plain: socket.socket) -> None:
        self._socket, self._decoder, self._pid = plain, Decoder(), os.getpid()
        self._known: dict[bytes, dict[str, str]] = {}
        self._rest, self._block = b"", b""  # of a frame and of a header block that are still incomplete
        self._ends = False  # whether that header block is the last of its stream
        self._idle, self._greeted = Reply(ended=True), False
        self._stream, self._reply, self.last = -1, self._idle, False
        self._window = self._stream_window = self._initial = _WINDOW
        self._frame_bytes, self._taken = _FRAME_BYTES, 0
        self._unsent = _PREFACE + _greeting()

    def exchange(self, block: bytes, body: bytes, deadline: float) -> Reply:
        """Send one request and wait for the end of its answer.

        Args:
            block: What `encode` made.
            body: At once or in pieces, as the server's windows allow.
            deadline: On the clock ``time.monotonic``.

        Raises:
            TimeoutError: The answer is not complete in time.
            OSError: The connection broke, or what came is not HTTP/2.
        """
        self._stream += 2
        self.last = self.last or self._stream + 2 > _LARGEST
        self._reply, self._stream_window = Reply(), self._initial
        self._unsent += _frame(_HEADERS, _END_HEADERS, self._stream, block)
        try:
            self._send_body(body, deadline)
        except TimeoutError:
            raise
        except OSError as broken:
            self._look_for_refusal(broken, deadline)
        while not self._reply.ended:
            self._receive(deadline)
        reply, self._reply = self._reply, self._idle
        return reply

    @property
    def answered(self) -> bool:
        """True where some of the answer has come."""
        return bool(self._reply.blocks)

    @property
    def greeted(self) -> bool:
        """True where the peer has begun to speak HTTP/2."""
        return self._greeted

    def interrupt(self) -> None:
        """Make the thread that waits for an answer fail."""
        if self._pid == os.getpid():
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def alive(self) -> bool:
        """Read what came while the connection was idle, and answer it; False where the connection accepts no more requests."""
        try:
            self._socket.settimeout(0)
            while not self.last and (block := self._socket.recv(_BLOCK_BYTES)):
                self._take(block)
        except _NOTHING_YET:
            return not self.last and self._answer_idle()
        except OSError:
            pass
        return False

    def _answer_idle(self) -> bool:
        try:
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except _NOTHING_YET:
            pass  # with the next request
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the socket; the server drops what it still works on, and a thread that waits for it fails.

        A forked child closes its copy only: the connection is its parent's.
        """
        self.interrupt()
        self._socket.close()

    def _look_for_refusal(self, broken: OSError, deadline: float) -> None:
        """Read the answer of a server that refused a large body before it closed the connection."""
        self.last = True
        try:
            while not self._reply.ended:
                self._receive(deadline)
        except TimeoutError:
            raise
        except OSError:
            raise broken from None

    def _send_body(self, body: bytes, deadline: float) -> None:
        """Send the body, in frames and windows of the server's size."""
        size = len(body)
        if size <= self._frame_bytes and size <= self._window and size <= self._stream_window:
            self._spend(size)
            self._flush(deadline, _HEAD.pack(size << 8 | _DATA, _END_STREAM, self._stream), body)
            return
        rest = memoryview(body)
        while len(rest) and not self._reply.ended:  # an answer may come before the server has read all
            free = min(self._window, self._stream_window, len(rest))
            if free <= 0:
                self._flush(deadline)
                self._receive(deadline)
                continue
            self._spend(free)
            self._flush(deadline, *self._pieces(rest[:free], whole=free == len(rest)))
            rest = rest[free:]
        self.last = self.last or bool(len(rest))  # a stream left half open

    def _pieces(self, data: memoryview, *, whole: bool) -> Iterable[bytes | memoryview]:
        for start in range(0, len(data), self._frame_bytes):
            piece = data[start : start + self._frame_bytes]
            last = whole and start + len(piece) == len(data)
            yield _HEAD.pack(len(piece) << 8 | _DATA, _END_STREAM if last else 0, self._stream)
            yield piece

    def _spend(self, count: int) -> None:
        self._window -= count
        self._stream_window -= count

    def _flush(self, deadline: float, *pieces: bytes | memoryview) -> None:
        waiting, self._unsent = self._unsent, b""
        whole = b"".join((waiting, *pieces))
        self._socket.settimeout(_remaining_s(deadline))
        sent = self._socket.send(whole)  # sendall queries its buffer's size first
        if sent < len(whole):
            self._socket.settimeout(_remaining_s(deadline))
            self._socket.sendall(memoryview(whole)[sent:])

    def _receive(self, deadline: float) -> None:
        self._socket.settimeout(_remaining_s(deadline))
        block = self._socket.recv(_BLOCK_BYTES)
        if not block:
            sent = self._rest if not self._greeted else b""  # such as a TLS alert
            if sent:
                raise NotHttp2Error(f"the peer sent {sent!r}")
            raise ConnectionResetError("the server closed the connection")
        self._take(block)
        if self._unsent:
            self._acknowledge(deadline)

    def _acknowledge(self, deadline: float) -> None:
        try:
            self._flush(deadline)
        except TimeoutError:
            raise
        except OSError:
            self.last = True  # it closed the connection; what it sent before is still to be read

    def _take(self, block: bytes) -> None:
        """Handle the frames in `block`; the start of one that is cut waits for its end.

        The frames of a small answer, known header blocks and plain data, are handled here; the rest by `_take_other`.
        """
        if self._rest:
            block = self._rest + block
        at, end, mine, reply, known = 0, len(block), self._stream, self._reply, self._known
        while end - at >= _HEAD.size:
            word, flags, stream = _HEAD.unpack_from(block, at)
            kind, size, start = word & 0xFF, word >> 8, at + _HEAD.size
            if size > _FRAME_BYTES:
                raise NotHttp2Error(f"the peer sent {block[at : at + 40]!r}")
            if start + size > end:
                break
            at = start + size
            payload = block[start:at]
            if kind == _HEADERS and stream == mine and flags | _END_STREAM == _PLAIN_END and payload in known:
                reply.blocks.append(known[payload])
                reply.ended = flags != _END_HEADERS
            elif kind == _DATA and stream == mine and not flags:
                self._count_received(size)
                reply.parts.append(payload)
            elif kind == _WINDOW_UPDATE and not stream:
                self._window += int.from_bytes(payload, "big") & _LARGEST
            else:
                self._take_other(kind, flags, stream & _LARGEST, payload)
        self._rest = block[at:]

    def _take_other(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if not self._greeted and kind != _SETTINGS:  # RFC 9113, 3.4
            raise NotHttp2Error(f"the peer's first frame is of type {kind}")
        self._greeted = True
        try:
            self._handle(kind, flags, stream, payload)
        except (struct.error, IndexError, ValueError) as error:
            raise NotHttp2Error(f"a frame of type {kind} is malformed: {error}") from None

    def _handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        mine = stream == self._stream
        if kind in (_HEADERS, _CONTINUATION):
            self._headers(kind, flags, payload, mine=mine)
        elif kind == _DATA:
            self._count_received(len(payload))
            if mine:
                self._reply.parts.append(_strip_padding(payload, flags & _PADDED))
                self._reply.ended = bool(flags & _END_STREAM)
        else:
            self._control(kind, flags, stream, payload)

    def _headers(self, kind: int, flags: int, payload: bytes, *, mine: bool) -> None:
        if kind == _HEADERS:
            self._block, self._ends = _strip_padding(payload, flags), bool(flags & _END_STREAM)
        else:
            self._block += payload
        if len(self._block) > _MAX_HEADER_BYTES:
            raise ConnectionError(f"header fields of more than {_MAX_HEADER_BYTES} bytes")
        if flags & _END_HEADERS:
            fields = self._read(self._block)
            if mine:
                self._reply.blocks.append(fields)
                self._reply.ended = self._ends

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._apply(payload)
            self._unsent += _frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self._unsent += _frame(_PING, _ACK, 0, payload)
        elif kind == _WINDOW_UPDATE and stream == self._stream:
            self._stream_window += int.from_bytes(payload, "big") & _LARGEST
        elif kind == _RST_STREAM and stream == self._stream:
            self._reply.ended, self._reply.reset = True, int.from_bytes(payload, "big")
        elif kind == _GOAWAY:
            self.last = True
            if int.from_bytes(payload[:4], "big") & _LARGEST < self._stream and not self._reply.ended:
                raise ConnectionResetError(f"the server went away: {payload[8:].decode(errors='replace')}")

    def _apply(self, payload: bytes) -> None:
        for name, value in _SETTING.iter_unpack(payload):
            if name == _INITIAL_WINDOW_SIZE:
                self._stream_window += value - self._initial
                self._initial = value
            elif name == _MAX_FRAME_SIZE and value >= _FRAME_BYTES:
                self._frame_bytes = value

    def _count_received(self, count: int) -> None:
        """Reopen the connection's window once half of it is used."""
        self._taken += count
        if self._taken > _LARGEST // 2:
            self._unsent += _frame(_WINDOW_UPDATE, 0, 0, self._taken.to_bytes(4, "big"))
            self._taken = 0

    def _read(self, block: bytes) -> dict[str, str]:
        found = self._known.get(block)
        if found is None:
            found = self._decode(block)
            if not self._decoder.header_table.dynamic_entries and len(self._known) < _MAX_KNOWN:
                self._known[block] = found
        return found

    def _decode(self, block: bytes) -> dict[str, str]:
        try:
            fields = {str(name): str(value) for name, value in self._decoder.decode(block)}
        except (HPACKError, UnicodeDecodeError) as error:
            raise ConnectionError(f"header fields cannot be read: {error}") from None
        if self._decoder.header_table.dynamic_entries:
            self._known.clear()  # the server uses its table after all: equal blocks no longer mean equal fields
        return fields


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """Return a block of header fields that leaves no trace in the server's table, so that it can be sent any number of times.

    Raises:
        ValueError: They are more than goes into one frame.
    """
    made: Any = Encoder().encode([NeverIndexedHeaderTuple(name, value) for name, value in fields], huffman=False)
    if len(made) > _FRAME_BYTES:
        raise ValueError(f"header fields of {len(made)} bytes")
    return bytes(made)


def _greeting() -> bytes:
    values = ((_HEADER_TABLE_SIZE, 0), (_ENABLE_PUSH, 0), (_INITIAL_WINDOW_SIZE, _LARGEST))
    settings = _frame(_SETTINGS, 0, 0, b"".join(_SETTING.pack(*each) for each in values))
    return settings + _frame(_WINDOW_UPDATE, 0, 0, (_LARGEST - _WINDOW).to_bytes(4, "big"))


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def _strip_padding(payload: bytes, flags: int) -> bytes:
    """Return a payload without padding and priority."""
    padding = 0
    if flags & _PADDED:
        padding, payload = payload[0], payload[1:]
    if flags & _PRIORITY:
        payload = payload[5:]
    return payload[: len(payload) - padding]


def _remaining_s(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return min(left_s, LONGEST_S)
