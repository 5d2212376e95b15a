"""config.yaml → spec: every fault at once, with its line; and what a good file means."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from planwright.config.load import load_scenarios, load_spec, server_version
from planwright.config.schema import schema
from planwright.config.spec import RepositorySpec
from planwright.errors import SpecError
from planwright.files import ROOT


def load(tmp_path: Path, text: str, target: str = "onnxruntime") -> RepositorySpec:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_spec(path, target)  # type: ignore[arg-type]


def faults(tmp_path: Path, text: str, target: str = "onnxruntime") -> str:
    with pytest.raises(SpecError) as caught:
        load(tmp_path, text, target)
    assert caught.value.exit_code == 2
    for fault in caught.value.faults:
        assert fault.what
        assert fault.where
        assert fault.fix or fault.why
    return str(caught.value)


def model(*lines: str) -> str:
    return "\n".join(
        ["version: 1", "models:", "  digits:", "    source: zoo/digits", *(f"    {line}" for line in lines), ""]
    )


# what is written → what the error must say, with the line
MISTAKES = [
    ("broken yaml", "version: 1\nmodels: {a: [}\n", "not valid YAML", 2),
    ("two keys", model("precision: fp32", "precision: fp32"), "'precision' is specified twice", 6),
    ("unknown key", model("precison: fp32"), "did you mean 'precision'?", 5),
    ("unknown top key", "version: 1\nmodles: {}\nmodels: {d: {source: zoo/digits}}\n", "did you mean 'models'?", 2),
    ("wrong type", model("export: {opset: '17'}"), "'opset' must be an integer between 11 and 24; got '17'", 5),
    ("wrong choice", model("precision: fp99"), "'fp32'", 5),
    ("no version", "models: {d: {source: zoo/digits}}\n", "version: 1", 1),
    ("no source", "version: 1\nmodels:\n  d: {precision: fp32}\n", "'source' is missing", 3),
    ("no such source", "version: 1\nmodels:\n  d: {source: zoo/digitz}\n", "did you mean 'zoo/digits'?", 3),
    ("batch order", model("batch: {min: 8, opt: 4, max: 16}"), "min 8 is above opt 4", 5),
    ("batch min above max", model("batch: {min: 8, max: 4}"), "raise max, or lower min", 5),
    ("batch of words", model("batch: many"), "'many' is not a batch", 5),
    ("batch sizes without an axis", model("batch: {axis: false, max: 4}"), "write only 'batch: none'", 5),
    ("none and batcher", model("batch: none", "serve:", "  dynamic_batching: {}"), "without a batch axis", 7),
    ("batch of a truth", model("batch: yes"), "'True' is not a batch", 5),
    ("a load test's key", model() + "loadtest: {p: {uesrs: 1}}\n", "did you mean 'users'?", 5),
    (
        "a load test's arrivals",
        model() + "loadtest: {p: {arrivals: poison}}\n",
        "use closed, poisson, constant or trace:FILE",
        5,
    ),
    ("slo of words", model("slo: fast"), "write 50ms", 5),
    ("slo without a unit", model("slo: 50"), "write 50ms", 5),
    ("batch both", model("batch: {fixed: 8, max: 16}"), "either 'fixed' or min/opt/max", 5),
    ("unsafe name", "version: 1\nmodels:\n  a b: {source: zoo/digits}\n", "is not a valid model name", 3),
    ("long name", f"version: 1\nmodels:\n  {'m' * 300}: {{source: zoo/digits}}\n", "at most 128", 3),
    ("empty target", model("targets: {onnxruntime: }"), "must be a mapping; got nothing", 5),
    ("target of a list", model("targets: {onnxruntime: [fp32]}"), "must be a mapping", 5),
    ("endless anchor", model("options: &o {x: [1, *o]}"), "a value contains itself", 5),
    ("huge batch", model("batch: 99999999999"), "2147483647", 5),
    ("sequences of a fixed batch", model("batch: {fixed: 4}", "serve: {sequence_batching: {}}"), "one sample", 6),
    ("extends a missing model", model("extends: absent"), "cannot extend 'absent'", 5),
    ("circle", "version: 1\nmodels:\n  a: {extends: b}\n  b: {extends: a}\n", "circular 'extends'", 4),
    ("serve field", model("serve:", "  dynamic_batchin: {}"), "unknown field 'dynamic_batchin'", 6),
    ("serve nested", model("serve:", "  dynamic_batching: {max_queue_delay_us: 3}"), "max_queue_delay_microseconds", 6),
    ("serve type", model("serve:", "  instance_group: [{count: many}]"), "does not fit Triton's ModelConfig", 6),
    ("serve refused", model("serve:", "  max_batch_size: 4"), "it is batch.max", 6),
    (
        "preferred too big",
        model("batch: {max: 4}", "serve:", "  dynamic_batching: {preferred_batch_size: [8]}"),
        "above max_batch_size 4",
        7,
    ),
    (
        "fixed and batcher",
        model("batch: {fixed: 4}", "serve:", "  dynamic_batching: {}"),
        "dynamic batching requested for a fixed batch",
        7,
    ),
    (
        "profile",
        model("batch: {max: 8}", "compile:", "  profiles: [{image: {min: [1], opt: [2], max: [4]}}]"),
        "contradict max_batch_size",
        7,
    ),
    ("gpu kind", model("serve:", "  instance_group: [{kind: KIND_GPU}]"), "runs on the CPU only", 6),
    ("gpu field", model("serve:", "  optimization: {cuda: {graphs: true}}"), "for the tensorrt target only", 6),
    ("fp16 on cpu", model("precision: fp16"), "onnxruntime: {precision: fp32}", 5),
    ("too new a field", model("serve:", "  model_metrics: {}"), "needs Triton 2.52", 6),
    (
        "bad server",
        "version: 1\nserver: here\nmodels: {d: {source: zoo/digits}}\n",
        "'embedded' or a mapping",
        2,
    ),
]


def test_a_key_that_is_given_twice_hides_no_other_mistake(tmp_path: Path) -> None:
    """Neither one after it, nor one in the first of the two, which YAML alone would drop."""
    text = "\n".join([
        "version: 1", "models:", "  a:", "    source: zoo/digits", "    precison: fp32", "    serve: {priority_level: 1}", "    serve: {}",
        "models:", "  b: {source: zoo/digitz}", "loadtest: {p: {rate: 5, rate: 6, uesrs: 1}}", "",
    ])  # fmt: skip
    said = faults(tmp_path, text)
    for line, words in (
        (5, "did you mean 'precision'?"), (7, "'serve' is specified twice"), (6, "priority_level"), (8, "'models' is specified twice"),
        (9, "did you mean 'zoo/digits'?"), (10, "'rate' is specified twice"), (10, "did you mean 'users'?"),
    ):  # fmt: skip
        assert words in said
        assert f"config.yaml:{line}" in said
    with pytest.raises(SpecError) as caught:
        load_scenarios(tmp_path / "config.yaml")
    assert {"twice" in fault.what for fault in caught.value.faults} == {True, False}


@pytest.mark.parametrize(("text", "words", "line"), [case[1:] for case in MISTAKES], ids=[case[0] for case in MISTAKES])
def test_a_mistake_is_reported_with_its_line_and_a_fix(tmp_path: Path, text: str, words: str, line: int) -> None:
    reported = faults(tmp_path, text)
    assert words in reported
    assert f"config.yaml:{line}" in reported


def test_all_mistakes_are_reported_in_one_pass_and_once(tmp_path: Path) -> None:
    text = "version: 1\ndefaults: {precison: fp32}\nmodels:\n" + "".join(
        f"  m{i}: {{source: zoo/digits, batch: {{min: 9, max: 3}}, serve: {{nonsense: 1}}}}\n" for i in range(3)
    )
    reported = faults(tmp_path, text)
    assert reported.count("unknown key 'precison'") == 1
    assert len(re.findall("min 9 is above max 3", reported)) == 3
    assert len(re.findall("unknown field 'nonsense'", reported)) == 3


def test_natural_spellings_mean_what_they_say(tmp_path: Path) -> None:
    (tmp_path / "half.onnx").touch()
    text = """\
version: 1
models:
  a: {source: half.onnx, batch: 8, slo: 50ms}
  b: {source: zoo/digits, batch: none, slo: 1.5s}
  c: {extends: a, batch: {max: 4}, slo: 200us}
  d: {extends: c, batch: none}
"""
    a, b, c, d = load(tmp_path, text).models
    assert (a.source, a.file) == ("zoo/onnx", "half.onnx")
    assert [m.batch.bounds for m in (a, b, c, d)] == [(1, 8, 8), (1, 1, 1), (1, 4, 4), (1, 1, 1)]
    assert [m.batch.axis for m in (a, b, c, d)] == [True, False, True, False]
    assert [m.slo.p99_ms for m in (a, b, c)] == [50, 1500, 0.2]
    assert a.where("batch", "max").startswith(f"{tmp_path}/config.yaml:3")


def test_a_missing_file_is_its_own_models_fault(tmp_path: Path) -> None:
    """The other models can still be built; the fault says where the file was looked for."""
    text = "version: 1\nmodels:\n  d: {source: zoo/digits}\n  gone: {source: nowhere.onnx, samples: gone.npz}\n"
    spec = load(tmp_path, text)
    digits, gone = spec.models
    assert digits.missing == ()
    assert [fault.what for fault in gone.missing] == ["there is no file nowhere.onnx", "there is no file gone.npz"]
    assert all("config.yaml:4" in fault.where and str(tmp_path) in fault.why for fault in gone.missing)
    assert "there is no file nowhere.onnx" in faults(tmp_path, text.replace("samples:", "sample:")), "all at once"


def test_defaults_extends_and_overlays(tmp_path: Path) -> None:
    text = """\
version: 1
defaults: {precision: fp16, samples: {golden: 8}, targets: {onnxruntime: {precision: fp32}}}
models:
  a: {source: zoo/digits, enabled: false, batch: {max: 4}, serve: {instance_group: [{count: 2}]}}
  b: {extends: a, samples: {calibration: 5}, serve: {response_cache: {enable: true}}}
"""
    cpu, gpu = ({m.name: m for m in load(tmp_path, text, target).models} for target in ("onnxruntime", "tensorrt"))
    assert cpu["b"].precision == "fp32"
    assert gpu["b"].precision == "fp16"
    assert (cpu["b"].samples.golden, cpu["b"].samples.calibration) == (8, 5)
    assert set(cpu["b"].serve) == {"instance_group", "response_cache"}
    assert cpu["b"].enabled, "enabled is not inherited: a disabled base may have enabled children"
    assert cpu["b"].where("batch", "max").startswith(f"{tmp_path}/config.yaml:4")


def test_every_modelconfig_field_is_known_to_the_schema() -> None:
    from tritonclient.grpc import model_config_pb2

    serve = schema()["$defs"]["ModelEntry"]["properties"]["serve"]["properties"]
    fields = {field.name for field in model_config_pb2.ModelConfig.DESCRIPTOR.fields}
    assert set(serve) < fields
    assert fields - set(serve) == {
        "name", "platform", "backend", "runtime", "input", "output", "max_batch_size", "version_policy", "default_model_filename",
        "cc_model_filenames", "batch_input", "batch_output", "ensemble_scheduling", "model_repository_agents", "model_operations",
    }  # fmt: skip


def test_the_published_schema_is_current() -> None:
    stored = json.loads((ROOT / "docs/config.schema.json").read_text())
    assert stored == schema(), "run: python -m planwright.config.schema > docs/config.schema.json"


def test_the_committed_config_fits_its_schema() -> None:
    import jsonschema
    import yaml

    jsonschema.validate(yaml.safe_load((ROOT / "config.yaml").read_text()), schema())
    assert load_spec(ROOT / "config.yaml", "onnxruntime").names() == ["digits", "minilm", "resnet50"]


@pytest.mark.parametrize(
    ("tag", "version"),
    [("24.10", 51), ("24.12", 53), ("25.06", 59), ("25.08", 60), ("25.12", 64), ("26.06", 70), ("26.08", 72)],
)
def test_release_tags_are_mapped_to_server_versions(tmp_path: Path, tag: str, version: int) -> None:
    text = f"version: 1\nserver: {{image: 'nvcr.io/nvidia/tritonserver:{tag}-py3'}}\nmodels: {{d: {{source: zoo/digits}}}}\n"
    assert server_version(load(tmp_path, text).server) == (2, version)


def test_keep_high_is_read_as_keep_fp32_with_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (
        "precision: int8",
        "keep_high: [Conv]",
        "targets: {tensorrt: {keep_high: [Gemm]}}",
        "options: {keep_high: 1}",
    )
    for target, nodes in (("onnxruntime", ["Conv"]), ("tensorrt", ["Gemm"])):
        [found] = load(tmp_path, model(*lines), target).models
        assert found.keep_fp32 == nodes
        assert found.options == {"keep_high": 1}
        notes = capsys.readouterr().err.splitlines()
        assert [int(re.findall(r":(\d+)", note)[0]) for note in notes] == [6, 7]
        assert all("'keep_fp32'" in note for note in notes)
    assert "'keep_high'" in faults(tmp_path, model("keep_high: [Conv]", "keep_fp32: [Gemm]"))
