"""gRPC as the client itself writes it: a real gRPC server, and frames that a real one seldom sends."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent import futures
from contextlib import closing, contextmanager
from typing import Any

import grpc
import pytest
from hpack import Encoder, HeaderTuple, NeverIndexedHeaderTuple
from tritonclient.grpc import service_pb2 as pb

from clients import ClientError, ConnectionFailed, InvalidRequest, ModelUnavailable, RequestTimeout, ServerError
from clients.options import ClientOptions
from clients.transport.grpc import GrpcTransport
from clients.transport.http2 import Connection
from clients.transport.http2 import _frame as frame
from clients.transport.idle_connections import MONITOR
from planwright.own_server import free_ports
from tests._server import ROOT
from tests.clients._speaker import speaker

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, PADDED, PRIORITY = 0x1, 0x4, 0x8, 0x20
HELLO = frame(SETTINGS, 0, 0, b"")
WIDE = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, (1 << 31) - 1)) + frame(
    WINDOW_UPDATE, 0, 0, (1 << 30).to_bytes(4, "big")
)
NO_LIMIT = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


def echo(request: Any, context: Any) -> Any:
    """Repeat the request's id and content."""
    if request.model_name == "bad":
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "größer, 100%")
    if request.model_name == "slow":
        time.sleep(1)
    return pb.ModelInferResponse(id=request.id, raw_output_contents=request.raw_input_contents)


def service() -> grpc.GenericRpcHandler:
    method = grpc.unary_unary_rpc_method_handler(
        echo, pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
    )
    return grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": method})


@contextmanager
def grpc_server(*options: tuple[str, int], port: int = 0) -> Iterator[str]:
    """The gRPC package's own server."""
    server = grpc.server(futures.ThreadPoolExecutor(2), options=options)
    server.add_generic_rpc_handlers((service(),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


@contextmanager
def connected(url: str, **options: Any) -> Iterator[GrpcTransport]:
    with closing(GrpcTransport(url, ClientOptions(**{"timeout_s": 5.0, **options}))) as transport:
        yield transport


def call(transport: GrpcTransport, word: str = "", content: bytes = b"", model: str = "m") -> Any:
    return transport.call(
        "ModelInfer", pb.ModelInferRequest(id=word, model_name=model, raw_input_contents=[content]), model
    )


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 65_536, 3_000_001])
def test_messages_of_any_size_come_back_as_they_went(size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    with grpc_server(*NO_LIMIT) as url, connected(url) as transport:
        for word in ("first", "second"):
            answer = call(transport, word, content[:size])
            assert (answer.id, answer.raw_output_contents[0]) == (word, content[:size])


def test_a_refusal_keeps_its_words_and_the_connection_goes_on() -> None:
    with grpc_server() as url, connected(url) as transport:
        with pytest.raises(InvalidRequest, match="größer, 100%"):
            call(transport, model="bad")
        assert call(transport, "next").id == "next"


def test_a_message_that_the_server_does_not_take_is_refused_while_it_is_sent() -> None:
    with grpc_server() as url, connected(url) as transport:
        with pytest.raises(ClientError) as caught:
            call(transport, content=bytes(30_000_000))
        assert isinstance(caught.value, InvalidRequest | ConnectionFailed)
        assert call(transport, "next").id == "next"


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next() -> None:
    with grpc_server() as url, connected(url, timeout_s=0.3) as transport:
        with pytest.raises(RequestTimeout):
            call(transport, "late", model="slow")
        assert call(transport, "next").id == "next"


def test_a_server_that_closes_its_connections_gets_requests_on_a_new_one() -> None:
    with (
        grpc_server(("grpc.max_connection_age_ms", 300), ("grpc.max_connection_age_grace_ms", 1000)) as url,
        connected(url) as transport,
    ):
        seen, until = set(), time.monotonic() + 1.5
        while time.monotonic() < until:
            assert call(transport, "x").id == "x"
            seen.add(id(transport._connection))
            time.sleep(0.002)
    assert len(seen) > 1


def test_a_server_that_looks_whether_the_client_lives_is_answered_or_left() -> None:
    with (
        grpc_server(("grpc.keepalive_time_ms", 200), ("grpc.keepalive_timeout_ms", 200)) as url,
        connected(url) as transport,
    ):
        for pause_s in (0.0, 0.3, 0.8):
            time.sleep(pause_s)
            assert call(transport, "x").id == "x"


def test_a_server_that_stops_need_not_wait_for_an_idle_client() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((service(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with connected(f"127.0.0.1:{port}") as transport:
        call(transport)
        assert server.stop(60).wait(15), "without an answer to its farewell, gRPC's own limit is 20 s"
        assert not transport.connected


def test_clients_that_are_gone_are_no_longer_monitored() -> None:
    with grpc_server() as url, connected(url) as transport:
        call(transport)
        assert MONITOR.at_work
    until = time.monotonic() + 10
    while MONITOR.at_work and time.monotonic() < until:
        time.sleep(0.05)
    assert not MONITOR.at_work


def test_a_server_that_restarts_between_requests_is_found_again() -> None:
    port = free_ports(1)[0]
    with connected(f"127.0.0.1:{port}") as transport:
        for word in ("before", "after"):
            with grpc_server(port=port):
                assert call(transport, word).id == word
            time.sleep(0.1)
        with pytest.raises(ConnectionFailed, match="cannot reach a server"):
            call(transport)


FIELDS = ((":status", "200"), ("content-type", "application/grpc"))
MESSAGE = pb.ModelInferResponse(id="it").SerializeToString()
BODY = b"\0" + len(MESSAGE).to_bytes(4, "big") + MESSAGE


def block(fields: Sequence[tuple[str, str]]) -> bytes:
    return bytes(Encoder().encode([NeverIndexedHeaderTuple(*each) for each in fields]))


HEAD, TRAILERS = block(FIELDS), block((("grpc-status", "0"),))
END = frame(HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS)
ODD = {
    "padded": frame(HEADERS, END_HEADERS | PADDED | PRIORITY, 1, b"\x03" + bytes(5) + HEAD + bytes(3))
    + frame(DATA, PADDED, 1, b"\x02" + BODY + bytes(2))
    + END,
    "in pieces": frame(HEADERS, 0, 1, HEAD[:1])
    + frame(CONTINUATION, END_HEADERS, 1, HEAD[1:])
    + b"".join(frame(DATA, 0, 1, BODY[i : i + 1]) for i in range(len(BODY)))
    + frame(HEADERS, END_STREAM, 1, TRAILERS[:2])
    + frame(CONTINUATION, END_HEADERS, 1, TRAILERS[2:]),
    "other streams": frame(HEADERS, END_HEADERS, 7, HEAD)
    + frame(DATA, END_STREAM, 7, b"not yours")
    + frame(0xBE, 0, 0, b"an extension")
    + frame(HEADERS, END_HEADERS, 1, HEAD)
    + frame(DATA, 0, 1, BODY)
    + END,
}


@pytest.mark.parametrize("drip_s", [0.0, 0.0005], ids=["at once", "in drops"])
@pytest.mark.parametrize("said", ODD.values(), ids=ODD)
def test_a_message_is_read_however_it_is_framed(said: bytes, drip_s: float) -> None:
    with speaker(HELLO + said, drip_s=drip_s) as (url, _), connected(url) as transport:
        assert call(transport).id == "it"


def test_a_server_that_keeps_a_table_of_headers_after_all_is_understood() -> None:
    encoder = Encoder()
    heads = [bytes(encoder.encode([HeaderTuple(*each) for each in FIELDS])) for _ in range(3)]
    ends = [bytes(encoder.encode([HeaderTuple("grpc-status", "0")])) for _ in range(3)]
    assert heads[0] != heads[1] == heads[2]
    said = b"".join(
        frame(HEADERS, END_HEADERS, stream, head) + frame(DATA, 0, stream, BODY)
        for stream, head in zip((1, 3, 5), heads, strict=True)
    )
    with (
        speaker(HELLO + said + frame(HEADERS, END_HEADERS | END_STREAM, 1, ends[0])) as (url, _),
        connected(url) as transport,
    ):
        assert call(transport).id == "it"
        assert transport._connection is not None
        assert not transport._connection._known


BROKEN = {
    "something else": (b"HTTP/1.1 400 Bad Request\r\n\r\n", ConnectionFailed, "no gRPC server"),
    "hung up": (HELLO, ConnectionFailed, "broke before"),
    "hung up amid the answer": (HELLO + frame(HEADERS, END_HEADERS, 1, HEAD), ConnectionFailed, "broke before"),
    "sent away": (HELLO + frame(GOAWAY, 0, 0, bytes(8) + b"too_many_pings"), ConnectionFailed, "too_many_pings"),
    "reset": (HELLO + frame(RST_STREAM, 0, 1, (2).to_bytes(4, "big")), ServerError, "HTTP/2 error 2"),
    "a proxy's page": (
        HELLO + frame(HEADERS, END_HEADERS | END_STREAM, 1, block(((":status", "302"), ("server", "someone's proxy")))),
        ServerError,
        "no gRPC status",
    ),
    "a proxy without a server": (
        HELLO + frame(HEADERS, END_HEADERS | END_STREAM, 1, block(((":status", "502"),))),
        ModelUnavailable,
        "HTTP status 502",
    ),
    "another first frame": (frame(HEADERS, END_HEADERS, 1, HEAD), ConnectionFailed, "no gRPC server"),
    "an alert of TLS": (b"\x15\x03\x01\0\x02\x02\x46", ConnectionFailed, "no gRPC server"),
    "half a setting": (frame(SETTINGS, 0, 0, b"\0\1\0"), ConnectionFailed, "no gRPC server"),
    "padding without an end": (HELLO + frame(DATA, PADDED, 1, b""), ConnectionFailed, "malformed"),
    "compressed": (
        HELLO + frame(HEADERS, END_HEADERS, 1, HEAD) + frame(DATA, 0, 1, b"\1" + BODY[1:]) + END,
        ServerError,
        "cannot be read",
    ),
    "no message": (
        HELLO + frame(HEADERS, END_HEADERS, 1, HEAD) + frame(DATA, 0, 1, BODY[:4] + b"\2\xff\xff") + END,
        ServerError,
        "cannot be read",
    ),
    "unreadable headers": (
        HELLO + frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff"),
        ConnectionFailed,
        "cannot be read",
    ),
}


@pytest.mark.parametrize(("said", "kind", "words"), BROKEN.values(), ids=BROKEN)
def test_an_invalid_answer_is_reported_as_such(said: bytes, kind: type[ClientError], words: str) -> None:
    with speaker(said) as (url, _), connected(url) as transport, pytest.raises(kind, match=words):
        call(transport)


def test_only_what_was_not_answered_may_be_sent_again() -> None:
    for part, safe in ((HELLO, True), (HELLO + frame(HEADERS, END_HEADERS, 1, HEAD), False)):
        with speaker(part) as (url, _), connected(url) as transport, pytest.raises(ConnectionFailed) as caught:
            call(transport)
        assert caught.value.retry_safe is safe


@pytest.mark.parametrize(
    ("name", "value"), [("x", "a\nb"), ("x", "ü"), ("x", "a\0b"), ("a b", "c"), (":path", "/"), ("", "a")]
)
def test_a_header_that_cannot_be_sent_is_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest, match=f"header '{name}'"):
        GrpcTransport("127.0.0.1:1", ClientOptions(headers={name: value}))
    with pytest.raises(InvalidRequest, match="too long"):
        GrpcTransport("127.0.0.1:1", ClientOptions(headers={"x": "a" * 20_000}))


def test_threads_that_share_a_client_take_turns_and_get_their_own_answers() -> None:
    with grpc_server() as url, connected(url) as transport:

        def call_often(name: str) -> bool:
            return all(call(transport, f"{name} {turn}").id == f"{name} {turn}" for turn in range(50))

        with futures.ThreadPoolExecutor(4) as threads:
            assert all(threads.map(call_often, "abcd"))


FORKED = """\
import os, sys
from clients.transport.grpc import GrpcTransport
from clients.options import ClientOptions
transport = GrpcTransport(sys.argv[1], ClientOptions(timeout_s=30))
request = transport.message("ModelInferRequest", model_name="m")
assert transport.call("ModelInfer", request, "m").id == "it"
child = os.fork()
assert transport.call("ModelInfer", request, "m").id == "it" if not child else True
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else 0)
"""


def test_a_forked_process_opens_its_own_connection() -> None:
    said = HELLO + ODD["in pieces"]
    with speaker(said, said) as (url, seen):
        done = subprocess.run([sys.executable, "-c", FORKED, url], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(seen) == 2


def test_a_refusal_is_read_although_the_server_closed_the_connection_during_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refusal = block((*FIELDS, ("grpc-status", "8"), ("grpc-message", "too large")))
    looked: list[OSError] = []
    look = Connection._look_for_refusal

    def counted(connection: Connection, broken: OSError, deadline: float) -> None:
        looked.append(broken)
        look(connection, broken, deadline)

    monkeypatch.setattr(Connection, "_look_for_refusal", counted)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(WIDE)
                received = 0
                while received < 1_000_000:
                    received += len(connection.recv(1 << 16))
                connection.sendall(frame(PING, 0, 0, bytes(8)))
                connection.sendall(frame(HEADERS, END_HEADERS | END_STREAM, 1, refusal))
                connection.shutdown(socket.SHUT_WR)
                time.sleep(0.3)

        thread = threading.Thread(target=refuse)
        thread.start()
        with (
            connected(f"127.0.0.1:{listener.getsockname()[1]}") as transport,
            pytest.raises(InvalidRequest, match="too large"),
        ):
            call(transport, content=bytes(100_000_000))
        thread.join(5)
    assert looked


def test_an_answer_is_given_back_and_not_kept() -> None:
    with grpc_server() as url, connected(url) as transport:
        call(transport, content=bytes(1_000_000))
        assert transport._connection is not None
        assert transport._connection._reply.parts == []
        kept = weakref.ref(transport)
        connection = transport._connection
    del transport
    assert kept() is None, "an open socket must not wait for the garbage collector"
    connection.close()
