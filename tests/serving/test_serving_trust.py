"""What is served is what was published: damaged models are refused by name, the others answer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from builders import notify, revisions
from planwright.errors import StageError
from planwright.files import HashCache
from planwright.integrity import damage
from planwright.server_info import ServerInfo
from serving.watchdog import stubs_of
from tests import _models
from tests._server import Launched, launch
from tests.serving._ask import over_http, row
from tests.serving._sealed import flip, sealed

Start = Callable[..., Launched]
BAD = {
    "flipped": "model.onnx",
    "relabelled": "labels.txt",
    "reconfigured": "config.pbtxt",
    "forged": "build.json",
    "torn": "build.json",
    "bare": "build.json",
    "short": "model.onnx",
    "stuffed": "libtriton_onnxruntime.so",
    "stubbed": "triton_python_backend_stub",
}


def damaged_repository(folder: Path) -> Path:
    """A whole model, one of another origin, and one for each way to damage a published one."""
    versions = {name: sealed(folder, name) for name in ("whole", *BAD)}
    flip(versions["flipped"] / "model.onnx")
    flip(versions["relabelled"] / "labels.txt")
    config = folder / "reconfigured" / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 8", "max_batch_size: 9"))
    record = json.loads((versions["forged"] / "build.json").read_text())
    (versions["forged"] / "build.json").write_text(json.dumps({**record, "model": "another"}))
    (versions["torn"] / "build.json").write_text("{")
    (versions["bare"] / "build.json").unlink()
    (versions["short"] / "model.onnx").unlink()
    (versions["stuffed"] / "libtriton_onnxruntime.so").touch()
    (folder / "stubbed" / "triton_python_backend_stub").touch()
    _models.adder(folder, "foreign")
    return folder


@pytest.fixture(scope="module", params=["none", "explicit"])
def screened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """A server on the damaged repository, in each mode."""
    folder = damaged_repository(tmp_path_factory.mktemp("models"))
    flags = [f"--model-control-mode={request.param}", *(["--load-model=*"] if request.param == "explicit" else [])]
    launched = launch(tmp_path_factory.mktemp("run"), folder, *flags).wait_ready()
    assert launched.document.get("mode") == request.param, launched.stderr
    yield launched
    launched.stop()


@pytest.mark.parametrize(("name", "file"), BAD.items())
def test_a_damaged_model_is_refused_by_name_with_the_file(screened: Launched, name: str, file: str) -> None:
    status = {model["name"]: model["status"] for model in screened.document["models"]}
    assert status[name].startswith("REFUSED: ")
    assert file in status[name]
    assert f"build_all.py {name} --verify-hashes" in screened.stderr
    assert f"loading: {name}:" not in screened.log


def test_the_others_are_served(screened: Launched) -> None:
    status = {model["name"]: model["status"] for model in screened.document["models"]}
    assert (status["whole"], status["foreign"]) == ("READY", "READY")
    for name in ("whole", "foreign"):
        np.testing.assert_array_equal(over_http(screened.info, name, x=row(1, 2, 3, 4))["y"], row(2, 3, 4, 5))


def test_trust_is_a_flag(start: Start, tmp_path: Path) -> None:
    version = sealed(tmp_path / "models", "relabelled")
    flip(version / "labels.txt")
    launched = start(tmp_path / "models", "--trust-repository").wait_ready()
    assert launched.document["models"] == [{"name": "relabelled", "version": "1", "status": "READY"}]


def test_nothing_is_started_where_every_model_is_damaged(start: Start, tmp_path: Path) -> None:
    flip(sealed(tmp_path / "models", "flipped") / "model.onnx")
    launched = start(tmp_path / "models").wait_ready()
    assert launched.process.wait(10) == 1
    [fault] = launched.document["errors"]
    assert fault["where"] == str(tmp_path / "models/flipped/1/model.onnx")
    assert "--trust-repository" in fault["fix"]
    assert not launched.log


def test_hashes_are_remembered_until_a_file_changes(tmp_path: Path) -> None:
    version = sealed(tmp_path / "models", "m")
    cache = HashCache(tmp_path / "hashes.json")
    assert damage(version.parent, [1], cache.of) == []
    cache.save()
    model, stat = version / "model.onnx", (version / "model.onnx").stat()
    flip(model)
    os.utime(model, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    remembered = HashCache(tmp_path / "hashes.json")
    assert damage(version.parent, [1], remembered.of) == [], "size, time and inode are as they were"
    os.utime(model, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert [str(each.path) for each in damage(version.parent, [1], remembered.of)] == [str(model)]


def test_what_our_own_code_loads_later_is_checked_too(tmp_path: Path) -> None:
    flip(sealed(tmp_path, "m") / "model.onnx")
    nowhere = ServerInfo(os.getpid(), "x", "127.0.0.1:9", "", "", "explicit", "", str(tmp_path / "log"), str(tmp_path))
    with pytest.raises(StageError, match=r"model\.onnx is not what was published"):
        notify.load(nowhere, "m")


def test_a_change_of_instances_alone_is_applied_in_place(start: Start, tmp_path: Path) -> None:
    """Triton reloads the whole model where any other file in its folder is new, so the past is kept in config.pbtxt."""
    version = sealed(tmp_path / "models", "m")
    launched = start(tmp_path / "models", "--model-control-mode=explicit", "--load-model=*").wait_ready()
    [first] = stubs_of(launched.document["server_pid"])
    before = revisions.read(version.parent)
    assert before is not None
    revisions.write(version.parent, before.after(before.body.replace("count: 1", "count: 2"), tried=True))
    notify.load(launched.info, "m")
    stubs = stubs_of(launched.document["server_pid"])
    assert len(stubs) == 2
    assert first in stubs, "the process of the first instance is the one from before"
