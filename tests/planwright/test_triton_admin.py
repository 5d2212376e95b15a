"""The client of the management API: the real server, servers that are none, and proxies."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from planwright.own_server import free_ports
from planwright.triton_admin import RefusedError, TritonAdmin, UnreachableError
from tests import _models
from tests._server import running_server


@contextmanager
def speaker(status: int, body: bytes) -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a server that answers everything so, and what it was sent."""
    heard: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.requestline)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}", heard
        finally:
            server.shutdown()


def test_a_real_server(tmp_path: Path) -> None:
    _models.adder(tmp_path, "first")
    _models.adder(tmp_path, "second")
    with running_server(tmp_path, "--model-control-mode=explicit", "--load-model=first") as server:
        admin = TritonAdmin.of(server)
        assert admin.metadata()["name"] == server.id
        assert admin.ready()
        assert [stats["name"] for stats in admin.statistics()["model_stats"]] == ["first"]
        admin.load("second", timeout_s=60)
        assert {row["name"]: row["state"] for row in admin.index()} == {"first": "READY", "second": "READY"}
        config = admin.config("second", "1")
        admin.load("second", {**config, "instance_group": [{"kind": "KIND_CPU", "count": 2}]}, timeout_s=60)
        assert admin.config("second")["instance_group"][0]["count"] == 2
        admin.unload("second")
        with pytest.raises(RefusedError) as absent:
            admin.load("absent", timeout_s=60)
        assert absent.value.status >= 400
        with pytest.raises(RefusedError) as shut:
            TritonAdmin(server.http_url).index()
        assert shut.value.status == 403
        assert not isinstance(shut.value, UnreachableError)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_proxy_never_captures_calls_to_this_machine(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.delenv("REQUEST_METHOD", raising=False)
    with (
        speaker(200, b'{"name": "server"}') as (server, called),
        speaker(200, b'{"name": "proxy"}') as (proxy, captured),
    ):
        monkeypatch.setenv(variable, f"http://{proxy}")
        for address in (server, f"http://{server}", server.replace("127.0.0.1", "localhost")):
            assert TritonAdmin(address).metadata() == {"name": "server"}
        assert (len(called), captured) == (3, [])
        if variable != "all_proxy":
            assert TritonAdmin("server.example:8000").metadata() == {"name": "proxy"}, "a server elsewhere goes by it"


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>"), (200, b"[1]"), (200, b"[" * 100_000)])
def test_what_is_not_triton_is_unreachable(status: int, body: bytes) -> None:
    with speaker(status, body) as (address, _), pytest.raises(UnreachableError):
        TritonAdmin(address).metadata()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": "no such model"}', "no such model"),
        (b"", "404 Not Found"),
        (b"lost", "404 lost"),
        (b"[]", "404 []"),
    ],
)
def test_a_refusal_has_its_status_and_words(body: bytes, words: str) -> None:
    with speaker(404, body) as (address, _), pytest.raises(RefusedError) as refused:
        TritonAdmin(address).config("m")
    assert (str(refused.value), refused.value.status) == (words, 404)


def test_nothing_there_and_nothing_http(tmp_path: Path) -> None:
    [port] = free_ports(1)
    with pytest.raises(UnreachableError):
        TritonAdmin(f"127.0.0.1:{port}").metadata()
    assert not TritonAdmin(f"127.0.0.1:{port}").ready()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.sendall(b"220 mail ready\r\n")

        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(UnreachableError):
            TritonAdmin(f"127.0.0.1:{listener.getsockname()[1]}", timeout_s=5).metadata()
