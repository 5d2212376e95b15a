"""tune --write: the setting gets into config.yaml, and nothing else in it changes."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
import yaml

from measure.operating_point.setting import ServingSetting
from measure.tune import write_config, yaml_edit
from planwright.config.load import load_spec
from planwright.errors import PlanwrightError, SpecError

HEAD = "# a remark\nversion: 1\nmodels:\n"
FLOW = """\
  digits:                      # the first
    source:   zoo/digits       # oddly spaced
    batch: {min: 1, opt: 16, max: 32}
    serve:
      instance_group: [{count: 1}]   # one
      # about the batcher
      dynamic_batching: {max_queue_delay_microseconds: 500}   # half a millisecond

    slo: {p99_ms: 250}
"""
OTHER = """\
  other: {source: 'zoo/digits', serve: {instance_group: [{count: 1}]}}  # stays
# the end, without a line break"""
SETTING = ServingSetting(4, 32, 2000)


def written(tmp_path: Path, text: str, setting: ServingSetting, target: str = "onnxruntime") -> tuple[str, list[str]]:
    """Write the setting of `digits`; returns the new text and the lines that differ."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert write_config.write(path, "digits", target, setting) is True  # type: ignore[arg-type]
    new = path.read_text()
    lines = [line for line in difflib.ndiff(text.splitlines(), new.splitlines()) if line[0] in "+-"]
    model = next(m for m in load_spec(path, "onnxruntime").models if m.name == "digits")
    assert write_config._count(model.serve) == setting.instances
    assert (model.serve.get("dynamic_batching") is None) == (setting.delay_us is None)
    return new, lines


def test_only_the_two_values_change(tmp_path: Path) -> None:
    new, lines = written(tmp_path, HEAD + FLOW + OTHER, SETTING)
    assert lines == [
        "-       instance_group: [{count: 1}]   # one",
        "+       instance_group: [{count: 4}]   # one",
        "-       dynamic_batching: {max_queue_delay_microseconds: 500}   # half a millisecond",
        "+       dynamic_batching: {max_queue_delay_microseconds: 2000}   # half a millisecond",
    ]
    assert new == (HEAD + FLOW + OTHER).replace("count: 1}]   #", "count: 4}]   #").replace(": 500", ": 2000")


def test_no_batcher_overrides_an_inherited_one(tmp_path: Path) -> None:
    text = HEAD.replace("models:", "defaults: {serve: {dynamic_batching: {max_queue_delay_microseconds: 9}}}\nmodels:")
    text += "  digits:\n    source: zoo/digits  # last\n"
    new, lines = written(tmp_path, text, ServingSetting(1, 8, None))
    assert lines == ["+     serve: {dynamic_batching: null}"]
    assert new.startswith(text.rstrip("\n"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("  digits: {source: zoo/digits}\n", "  digits: {source: zoo/digits, serve: {instance_group: [{count: 2}]}}\n"),
        (
            "  digits:\n    source: zoo/digits\n    serve: {}\n",
            "  digits:\n    source: zoo/digits\n    serve: {instance_group: [{count: 2}]}\n",
        ),
        (
            "  digits:\n    source: zoo/digits\n    serve:\n      instance_group:\n        - count: 1 # a\n          kind: KIND_CPU\n  # b\n",
            "  digits:\n    source: zoo/digits\n    serve:\n      instance_group:\n        - count: 2 # a\n          kind: KIND_CPU\n  # b\n",
        ),
        (
            "  digits:\n    source: zoo/digits\n    targets: {onnxruntime: {serve: {instance_group: [{count: 3}]}}}\n",
            "  digits:\n    source: zoo/digits\n    targets: {onnxruntime: {serve: {instance_group: [{count: 2}]}}}\n",
        ),
        (
            "  digits:\n    source: zoo/digits",
            "  digits:\n    source: zoo/digits\n    serve: {instance_group: [{count: 2}]}\n",
        ),
    ],
    ids=["flow model", "empty serve", "block list", "overlay", "no line break at the end"],
)
def test_every_yaml_style_is_edited(tmp_path: Path, before: str, after: str) -> None:
    new, _ = written(tmp_path, HEAD + before, ServingSetting(2, 8, None))
    assert new == HEAD + after


def test_batcher_settings_beside_the_delay_stay_and_preferred_sizes_go(tmp_path: Path) -> None:
    text = HEAD + FLOW.replace(": 500}", ": 500, preserve_ordering: true}") + OTHER
    new, _ = written(tmp_path, text, SETTING)
    assert "dynamic_batching: {max_queue_delay_microseconds: 2000, preserve_ordering: true}" in new
    text = HEAD + FLOW.replace(": 500}", ": 500, preferred_batch_size: [4]}") + OTHER
    new, _ = written(tmp_path, text, SETTING)
    assert "dynamic_batching: {max_queue_delay_microseconds: 2000}   # half" in new


def test_a_smaller_batch_limit_becomes_batch_max_and_takes_opt_along(tmp_path: Path) -> None:
    new, _ = written(tmp_path, HEAD + FLOW + OTHER, ServingSetting(1, 8, 500))
    assert "    batch: {min: 1, opt: 8, max: 8}\n" in new


def test_models_that_extend_it_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _ = written(tmp_path, HEAD + FLOW + "  child: {extends: digits}\n", SETTING)
    said = capsys.readouterr().out
    assert "extend digits: child" in said
    assert "+      instance_group: [{count: 4}]   # one" in said
    assert "build_all.py digits child" in said


def test_a_setting_already_in_the_file_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(HEAD + FLOW)
    before = path.stat().st_mtime_ns
    assert write_config.write(path, "digits", "onnxruntime", ServingSetting(1, 32, 500)) is False
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("common: &s {instance_group: [{count: 1}]}\n", "alias"),
        ("", "would change other too"),
    ],
    ids=["alias", "anchor"],
)
def test_a_shared_value_is_not_changed(tmp_path: Path, text: str, words: str) -> None:
    shared = "  {first}: {{source: zoo/digits, serve: &s {{instance_group: [{{count: 1}}]}}}}\n  {second}: {{source: zoo/digits, serve: *s}}\n"
    first, second = ("other", "digits") if text else ("digits", "other")
    path = tmp_path / "config.yaml"
    path.write_text(HEAD + shared.format(first=first, second=second))
    before = path.read_bytes()
    with pytest.raises(PlanwrightError, match=words) as caught:
        write_config.write(path, "digits", "onnxruntime", ServingSetting(2, 8, None))
    assert path.read_bytes() == before
    assert caught.value.faults[0].fix


@pytest.mark.parametrize(("name", "words"), [("digitz", "did you mean 'digits'"), ("digits", "")])
def test_the_file_is_checked_before_anything_is_measured(tmp_path: Path, name: str, words: str) -> None:
    path = tmp_path / "config.yaml"
    with pytest.raises(SpecError, match="cannot read"):
        write_config.check(path, name, "onnxruntime")
    path.write_text(HEAD + FLOW)
    if words:
        with pytest.raises(SpecError, match=words):
            write_config.check(path, name, "onnxruntime")
    else:
        write_config.check(path, name, "onnxruntime")


@pytest.mark.parametrize("value", [1, None, "a: b", [1, 2], {"x": [{"y": 1}]}, True, "null"])
def test_a_written_value_is_read_back(value: object) -> None:
    for text in ("a: {b: 1}\n", "a:\n  b: 1\n", "a:\n  c: old # kept\n  d: 1\n"):
        new = yaml_edit.put(text, ("a", "c"), value)
        assert yaml.safe_load(new)["a"]["c"] == value
        assert ("# kept" in new) == ("# kept" in text)
