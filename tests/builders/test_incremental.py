"""What is skipped, what is not, and what a change touches."""

from __future__ import annotations

import json
import os
import shutil

from tests._project import Project


def stages(project: Project, *flags: str) -> dict[str, str]:
    done = project.build("--plan", "--json", *flags)
    assert done.code == 0, done.err
    return {stage: text.split(":")[0] for stage, text in json.loads(done.out)["models"][0]["stages"].items()}


def test_a_second_build_does_nothing_and_fast(project: Project) -> None:
    before = project.state()
    done = project.build("--json")
    report = json.loads(done.out)
    assert [model["status"] for model in report["models"]] == ["kept"]
    assert project.state() == before
    assert report["own_seconds"] <= 0.5, "the figure of the contract; measured 0.02 s here"


def test_changing_the_batcher_rewrites_config_pbtxt_alone(project: Project) -> None:
    before = project.state()
    project.edit("max_queue_delay_microseconds: 500", "max_queue_delay_microseconds: 900")
    assert stages(project) == {"export": "keep", "graph": "keep", "compile": "keep", "verify": "keep", "publish": "run"}
    assert project.build().code == 0
    changed = {name for name, content in project.state().items() if before.get(name) != content}
    assert changed == {"digits/config.pbtxt"}
    assert "max_queue_delay_microseconds: 900" in (project.repository / "digits/config.pbtxt").read_text()


def test_a_touched_output_is_built_again_and_nothing_else(project: Project) -> None:
    (project.folder / "build/digits/graph/fp32/model.fp32.onnx").write_bytes(b"broken")
    found = stages(project)
    assert found["export"] == "keep"
    assert found["graph"] == "run"
    before = project.state()
    assert project.build().code == 0
    assert project.state() == before, "the same bytes come out, so nothing is published"


def test_hashes_are_read_again_on_request(project: Project) -> None:
    assert project.build().code == 0  # this copy's own hashes are remembered now
    path = project.folder / "build/digits/compile/fp32/onnxruntime/model.onnx"
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert stages(project)["compile"] == "keep", "size, time and inode are those of the remembered hash"
    assert stages(project, "--verify-hashes")["compile"] == "run"


def test_the_plan_says_why(project: Project) -> None:
    project.edit("score: {accuracy: 0.97}", "score: {accuracy: 0.9}")
    done = project.build("--plan", "--json")
    assert "score changed" in json.loads(done.out)["models"][0]["stages"]["verify"]


def test_a_record_with_the_former_name_of_a_setting_is_current(project: Project) -> None:
    path = project.folder / "build/digits/graph/fp32/stage.json"
    record = json.loads(path.read_text())
    record["spec"]["keep_high"] = record["spec"].pop("keep_fp32")
    path.write_text(json.dumps(record))
    assert set(stages(project).values()) == {"keep"}


def test_until_and_from(project: Project) -> None:
    shutil.rmtree(project.repository)
    assert project.build("--until", "verify").code == 0
    assert not project.repository.exists()
    shutil.rmtree(project.folder / "build/digits/export")
    done = project.build("--from", "graph")
    assert done.code == 1
    assert "needs the output of export" in done.out


def test_a_failing_model_does_not_stop_the_others(project: Project) -> None:
    project.config.write_text(project.config.read_text() + "  broken: {extends: digits, score: {accuracy: 0.9999}}\n")
    done = project.build("--json")
    assert done.code == 1
    by_name = {model["model"]: model for model in json.loads(done.out)["models"]}
    assert by_name["digits"]["status"] == "kept"
    assert by_name["broken"]["status"] == "failed"
    assert by_name["broken"]["failed_stage"] == "engine"
    assert not (project.repository / "broken").exists()
