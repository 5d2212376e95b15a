"""What an application sees: names, the error tree, and what importing costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import clients
from clients import errors
from planwright.errors import PlanwrightError
from tests._server import ROOT

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "tensorrt",
    "pydantic",
    "grpc",
    "gevent",
    "geventhttpclient",
    "aiohttp",
    "tritonclient.grpc",
    "PIL",
    "rich",
)


def test_the_public_names_are_these() -> None:
    assert sorted(clients.__all__) == [
        "AsyncPreparedRequest", "AsyncTritonModel", "ClientError", "ConnectionFailed", "InvalidRequest", "ModelInfo", "ModelUnavailable",
        "PreparedRequest", "RequestTimeout", "ServerError", "SharedMemoryUnavailable", "Tls", "TritonModel",
    ]  # fmt: skip
    assert all(hasattr(clients, name) for name in clients.__all__)


def loaded_after(code: str) -> set[str]:
    """Return which heavy modules a fresh Python has loaded after `code`."""
    script = f"{code}\nimport sys, json; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_loads_nothing_heavy() -> None:
    assert loaded_after("import clients, clients.validate, clients.infer_command, clients.__main__") == set()


def test_a_client_loads_grpc_only_when_it_speaks_it() -> None:
    http = loaded_after("from clients import TritonModel; TritonModel('m', 'localhost:1')")
    assert http == {"gevent", "geventhttpclient"}, "which tritonclient.http imports, and requests must not import"
    assert {"grpc", "tritonclient.grpc"} <= loaded_after(
        "from clients import TritonModel; TritonModel('m', 'localhost:1', protocol='grpc')"
    )


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ClientError)]
)
def test_every_error_is_shown_without_a_stack_trace_and_listed_in_the_tree(kind: type[errors.ClientError]) -> None:
    assert issubclass(kind, PlanwrightError)
    assert kind.__name__ in (errors.__doc__ or "")
    assert kind.exit_code == 1
