"""What is served is what was published: damaged models are refused by name, the others answer."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from builders import reload
from builders.repository import revisions
from builders.repository.rollback import rollback
from planwright.config_pbtxt import served
from planwright.errors import PlanwrightError, StageError
from planwright.files import HashCache, sha256, write_json
from planwright.integrity import damage, unsealed
from planwright.server_info import ServerInfo
from serving.watchdog import stubs_of
from tests import _models
from tests._server import Launched, launch
from tests.serving._infer import over_http, row
from tests.serving._sealed import earlier, flip, sealed, swap, write_record

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
    "renamed": "build.json",
    "unsigned": "build.json",
    "emptied": "build.json",
    "unsealed": "config.pbtxt",
    "joined": "config.pbtxt",
    "boxed": "build.json",
    "looped": "build.json",
    "piped": "build.json",
    "streamed": "config.pbtxt",
    "linked": "extra",
    "crowded": "extra",
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
    damage_keys(folder, versions)
    replace_files(folder, versions)
    commented = _models.adder(folder, "foreign") / "config.pbtxt"
    commented.write_text(f"# weights:\n# {sha256(folder / 'foreign/1/model.onnx')}\n{commented.read_text()}")
    return folder


def damage_keys(folder: Path, versions: dict[str, Path]) -> None:
    """Change a byte of what says where a hash is, and then what the hash is of."""
    swap(versions["renamed"] / "build.json", '"hashes"', '"hasher"')
    flip(versions["renamed"] / "model.onnx")
    swap(versions["unsigned"] / "build.json", '"sha256"', '"sha257"')
    swap(versions["emptied"] / "build.json", '"hashes": {', '"hashes": null, "x": {')
    swap(folder / "unsealed" / "config.pbtxt", "# sha256 of", "# sha257 of")
    swap(folder / "unsealed" / "config.pbtxt", "max_batch_size: 8", "max_batch_size: 9")
    swap(folder / "joined" / "config.pbtxt", "\n# sha256 of", "\v# sha256 of")


def replace_files(folder: Path, versions: dict[str, Path]) -> None:
    """Put what is no file in a file's place, and a folder where there was none."""
    for name in ("boxed", "looped", "piped"):
        (versions[name] / "build.json").unlink()
    (versions["boxed"] / "build.json").mkdir()
    (versions["looped"] / "build.json").symlink_to("build.json")
    os.mkfifo(versions["piped"] / "build.json")
    (folder / "streamed" / "config.pbtxt").unlink()
    os.mkfifo(folder / "streamed" / "config.pbtxt")
    (folder.parent / "elsewhere").mkdir(exist_ok=True)
    (versions["linked"] / "extra").symlink_to(folder.parent / "elsewhere")
    (versions["crowded"] / "extra").mkdir()
    (versions["crowded"] / "extra" / "lib.so").touch()


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
    assert "Traceback" not in screened.stderr
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


def test_no_byte_of_what_holds_the_hashes_can_change_unseen(tmp_path: Path) -> None:
    version = sealed(tmp_path, "m")
    for path in (version / "build.json", version.parent / "config.pbtxt"):
        content = path.read_bytes()
        for at, byte in ((at, content[at] ^ bit) for at in range(len(content)) for bit in (1, 4, 32)):
            path.write_bytes(content[:at] + bytes([byte]) + content[at + 1 :])
            assert path in {each.path for each in damage(version.parent, [1])}, (path.name, at, byte)
        path.write_bytes(content)
    assert damage(version.parent, [1]) == []


def test_what_planwright_0_1_0_published_is_whole_beside_what_this_one_does(tmp_path: Path) -> None:
    """From the older version alone to a killed publish, the publish, and the rollback."""
    version = earlier(tmp_path, "m")
    model, text = version.parent, (version.parent / "config.pbtxt").read_text()
    assert damage(model, served(model)) == []
    (version / "config.pbtxt").write_text(text)
    record = {"model": "m", "version": 1}
    write_json(
        version / "build.json", {**record, "hashes": {path.name: sha256(path) for path in version.glob("[!b]*")}}
    )
    shutil.copytree(version, model / "2")
    write_record(model / "2", {**record, "version": 2, "trial_load": {}})
    assert damage(model, served(model)) == [], "a killed run left a version that nothing serves yet"
    now = revisions.read(model)
    assert now is not None
    assert now.whole
    revisions.write(model, now.after(text.replace("[1]", "[2]"), tried=True))
    assert (served(model), damage(model, [2])) == ([2], [])
    assert rollback(tmp_path, "m").now == 1
    assert (served(model), damage(model, [1])) == ([1], [])
    swap(model / "config.pbtxt", "# sha256 of", "# sha257 of")
    assert [str(each.path) for each in damage(model, [1])] == [str(model / "config.pbtxt")]


def test_a_version_of_planwright_0_1_0_that_lost_its_hashes_is_damaged(tmp_path: Path) -> None:
    version = earlier(tmp_path, "m")
    swap(version / "build.json", '"hashes"', '"hasher"')
    assert [(each.path, each.kind) for each in damage(version.parent, [1])] == [(version / "build.json", "changed")]


def test_an_edited_config_that_lost_its_hash_never_becomes_the_past(tmp_path: Path) -> None:
    version = sealed(tmp_path, "m")
    config = version.parent / "config.pbtxt"
    body = unsealed(config.read_text())[0]
    config.write_text(
        config.read_text().replace("# sha256 of", "# sha257 of").replace("max_batch_size: 8", "max_batch_size: 9")
    )
    edited = revisions.read(version.parent)
    assert edited is not None
    assert edited.after(body, tried=True).past == ()


def test_rollback_says_that_config_pbtxt_is_gone(tmp_path: Path) -> None:
    version = sealed(tmp_path, "m")
    (version.parent / "config.pbtxt").unlink()
    with pytest.raises(PlanwrightError, match=r"config\.pbtxt is not what was published: it is missing") as raised:
        rollback(tmp_path, "m")
    assert raised.value.exit_code == 1


def test_what_our_own_code_loads_later_is_checked_too(tmp_path: Path) -> None:
    flip(sealed(tmp_path, "m") / "model.onnx")
    nowhere = ServerInfo(os.getpid(), "x", "127.0.0.1:9", "", "", "explicit", "", str(tmp_path / "log"), str(tmp_path))
    with pytest.raises(StageError, match=r"model\.onnx is not what was published"):
        reload.load(nowhere, "m")


def test_a_change_of_instances_alone_is_applied_in_place(start: Start, tmp_path: Path) -> None:
    """Triton reloads the whole model where any other file in its folder is new, so the past is kept in config.pbtxt."""
    version = sealed(tmp_path / "models", "m")
    launched = start(tmp_path / "models", "--model-control-mode=explicit", "--load-model=*").wait_ready()
    [first] = stubs_of(launched.document["server_pid"])
    before = revisions.read(version.parent)
    assert before is not None
    revisions.write(version.parent, before.after(before.body.replace("count: 1", "count: 2"), tried=True))
    reload.load(launched.info, "m")
    stubs = stubs_of(launched.document["server_pid"])
    assert len(stubs) == 2
    assert first in stubs, "the process of the first instance is the one from before"
