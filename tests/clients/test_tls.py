"""TLS: gRPC by tritonserver itself, HTTPS by a terminator in front of it (Triton has none)."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients import AsyncTritonModel, ClientError, ConnectionFailed, Tls, TritonModel
from planwright.server_info import ServerInfo
from tests._server import running_server
from tests.clients import _golden
from tests.clients._golden import WEIGHTS, floats
from tests.clients.test_shared_client import burst

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with the openssl command")


@dataclass
class Papers:
    """Certificates of one authority."""

    root: Path
    server: tuple[Path, Path]
    client: tuple[Path, Path]

    @property
    def tls(self) -> Tls:
        """What a trusted client shows."""
        return Tls(str(self.root), str(self.client[0]), str(self.client[1]))


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    """A root, a server for localhost and 127.0.0.1, a client."""
    folder = tmp_path_factory.mktemp("papers")
    _openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "root.key", "-out", "root.pem", "-days", "2", "-subj", "/CN=root",
             "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for who in ("server", "client"):
        _openssl(
            folder,
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            f"{who}.key",
            "-out",
            f"{who}.csr",
            "-subj",
            f"/CN={who}",
        )
        _openssl(folder, "x509", "-req", "-in", f"{who}.csr", "-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial", "-out", f"{who}.pem",
                 "-days", "2", "-extfile", "names")  # fmt: skip
    return Papers(
        folder / "root.pem",
        (folder / "server.pem", folder / "server.key"),
        (folder / "client.pem", folder / "client.key"),
    )


@pytest.fixture(scope="module")
def secured(papers: Papers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerInfo]:
    """A server whose gRPC speaks TLS and requires client certificates."""
    repository = tmp_path_factory.mktemp("models")
    _golden.affine(repository)
    flags = ["--grpc-use-ssl=true", "--grpc-use-ssl-mutual=true", f"--grpc-server-cert={papers.server[0]}", f"--grpc-server-key={papers.server[1]}",
             f"--grpc-root-cert={papers.root}"]  # fmt: skip
    with running_server(repository, *flags) as info:
        yield info


@pytest.fixture(scope="module")
def doors(secured: ServerInfo, papers: Papers) -> Iterator[list[str]]:
    """Two HTTPS ports that hand on to the server's HTTP port; the certificate names the address of the first only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*papers.server)
    host, _, port = secured.http_url.rpartition(":")

    async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        with contextlib.suppress(OSError):
            await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))

    async def serve() -> None:
        servers = [await asyncio.start_server(hand_on, host, 0, ssl=context) for host in ("127.0.0.1", "127.0.0.2")]
        found.extend("{}:{}".format(*server.sockets[0].getsockname()) for server in servers)
        ready.set()
        await stop.wait()
        for server in servers:
            server.close()

    found: list[str] = []
    ready, stop, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(10)
    yield found
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0.05))
    loop.close()


@pytest.fixture
def terminator(doors: list[str]) -> str:
    """The HTTPS port that the certificate is for."""
    return doors[0]


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while block := await reader.read(1 << 16):
        writer.write(block)
        await writer.drain()
    writer.close()


def url_of(protocol: str, secured: ServerInfo, terminator: str) -> str:
    return secured.grpc_url if protocol == "grpc" else terminator


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_trusted_client_is_answered(secured: ServerInfo, terminator: str, papers: Papers, protocol: Any) -> None:
    x, url = floats(3, 4), url_of(protocol, secured, terminator)
    with TritonModel("affine", url, protocol=protocol, tls=papers.tls) as model:
        assert np.allclose(model.infer_batch(x=x)["y"], x @ WEIGHTS, atol=1e-5)
        assert np.allclose(model.prepare(x=x).infer()["y"], x @ WEIGHTS, atol=1e-5)

    async def use() -> Any:
        async with AsyncTritonModel("affine", url, protocol=protocol, tls=papers.tls) as model:
            return (await model.infer_batch(x=x))["y"]

    assert np.allclose(asyncio.run(use()), x @ WEIGHTS, atol=1e-5)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_threads_and_forked_children_of_a_trusted_client_get_their_own_answers(
    secured: ServerInfo, terminator: str, papers: Papers, protocol: str
) -> None:
    how = {"url": url_of(protocol, secured, terminator), "protocol": protocol, "timeout_s": 30}
    found = burst(Path(secured.repository), how, vars(papers.tls), children=3, threads=3, requests=20)
    assert found == {"right": 4 * 3 * 20, "children ended": 3, "right at the end": 2}


def test_a_client_without_a_certificate_is_refused_where_one_is_required(secured: ServerInfo, papers: Papers) -> None:
    tls = Tls(root_certificate=str(papers.root))
    with (
        TritonModel("affine", secured.grpc_url, protocol="grpc", tls=tls, retries=0, timeout_s=10) as model,
        pytest.raises(ConnectionFailed, match="no TLS connection"),
    ):
        _ = model.info


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_with_an_unknown_authority_is_not_trusted(secured: ServerInfo, terminator: str, protocol: Any) -> None:
    url = url_of(protocol, secured, terminator)
    with (
        TritonModel("affine", url, protocol=protocol, tls=Tls(), retries=0, timeout_s=10) as model,
        pytest.raises(ConnectionFailed) as caught,
    ):
        _ = model.info
    assert "no TLS connection" in caught.value.faults[0].what
    assert "root_certificate" in caught.value.faults[0].fix


def test_plain_text_to_a_tls_port_ends_in_an_error_and_tls_to_a_plain_port_says_so(
    secured: ServerInfo, terminator: str
) -> None:
    with TritonModel("affine", terminator, retries=0, timeout_s=10) as model, pytest.raises(ClientError):
        _ = model.info
    with (
        TritonModel("affine", f"https://{secured.http_url}", retries=0, timeout_s=10) as model,
        pytest.raises(ConnectionFailed, match="no TLS connection"),
    ):
        _ = model.info


def test_a_certificate_of_another_host_is_refused(papers: Papers, doors: list[str]) -> None:
    with (
        TritonModel("affine", doors[1], tls=papers.tls, retries=0, timeout_s=5) as model,
        pytest.raises(ConnectionFailed, match="127.0.0.2") as caught,
    ):
        _ = model.info
    assert "certificate" in caught.value.faults[0].why
