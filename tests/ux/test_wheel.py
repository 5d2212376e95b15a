"""The SDK as an application installs it: a wheel and its dependencies in an empty environment, calling a real server."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import planwright
from planwright.server_info import ServerInfo
from tests import _models
from tests._server import running_server
from tests.ux._checkout import ROOT, copy_to

LOCK = ROOT / "constraints" / ("py311.txt" if sys.version_info >= (3, 11) else "py310.txt")
CALL = """
import sys
import numpy as np
import planwright.clients as sdk

with sdk.TritonModel("adder", url=sys.argv[1], protocol=sys.argv[2]) as model:
    answer = model.infer_sample(x=np.arange(4, dtype=np.float32))
assert answer["y"].tolist() == [1, 2, 3, 4], answer
heavy = {"torch", "onnxruntime", "onnx", "yaml", "pydantic", "locust"} & {name.split(".")[0] for name in sys.modules}
assert not heavy, heavy
print("correct")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = copy_to(tmp_path_factory.mktemp("source"))
    folder = tmp_path_factory.mktemp("wheel")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        str(source),
    ]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def application(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with only the wheel and its dependencies."""
    folder = tmp_path_factory.mktemp("application")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--prefer-binary", "-c", str(LOCK), str(wheel)]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return python


@pytest.fixture(scope="module")
def adder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerInfo]:
    repository = tmp_path_factory.mktemp("repository")
    _models.adder(repository)
    with running_server(repository) as server:
        yield server


def test_the_wheel_contains_the_sdk_and_nothing_that_collides(wheel: Path) -> None:
    assert wheel.name == f"planwright-{planwright.__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert "planwright/clients/model.py" in names
    assert "planwright/clients/py.typed" in names
    assert "planwright/clients/transport/http.py" in names
    assert "planwright/clients/shared_memory/system.py" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names} == {"planwright", f"planwright-{planwright.__version__}.dist-info"}


@pytest.mark.network
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_application_calls_a_server(application: Path, adder: ServerInfo, tmp_path: Path, protocol: str) -> None:
    url = adder.http_url if protocol == "http" else adder.grpc_url
    done = subprocess.run(
        [str(application), "-c", CALL, url, protocol], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "correct", done.stdout + done.stderr


@pytest.mark.network
def test_its_commands_need_no_other_package(application: Path, adder: ServerInfo, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"x": [0, 1, 2, 3]}')
    command = [str(application), "-m", "planwright.clients", "infer", "adder", "x.json", "--url", adder.http_url]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
