"""The parts of the TensorRT half that only compute: reading the layer table, judging it, explaining, pairing, profiles.

In      layers as TensorRT writes them, error texts as it logs them, samples made here.
Out     proof of what each part makes of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.repository import tensorrt_match
from builders.targets.tensorrt import layers, profiles
from builders.targets.tensorrt.explain import explain, explain_text
from builders.targets.tensorrt.layers import precision_of, realised, rows
from planwright.config.spec import ModelSpec
from planwright.errors import StageError
from planwright.golden import Golden, Group
from tests.tensorrt.conftest import MakeJob

FP32 = "sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nchwkcrs_nchw_tilesize"
TF32 = "sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nchwkcrs_nchw_tilesize128x64"
FP16 = "sm90_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc"
BF16 = "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64"
INT8 = "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32"
FP8 = "sm89_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize128x128x64"
OPAQUE = {"Name": "{ForeignNode[/Cast]}", "LayerType": "Myelin"}
WHERE = "config.yaml:1"


def conv(tactic: str, name: str = "/layers/layers.0/Conv + /layers/layers.1/Relu") -> dict[str, Any]:
    return {"Name": name, "LayerType": "CaskConvolution", "TacticName": tactic}


def reformat(**tensor: str) -> dict[str, Any]:
    return {"Name": "Reformatting CopyNode", "LayerType": "Reformat", "Inputs": [tensor], "Outputs": []}


def table(precisions: dict[str, float]) -> list[dict[str, Any]]:
    """One convolution per tactic, with its time."""
    layers = [conv(tactic, name=f"/conv{index}") for index, tactic in enumerate(precisions)]
    return rows(layers, {f"/conv{index}": ms for index, ms in enumerate(precisions.values())})


def spec(precision: str, **more: Any) -> ModelSpec:
    return ModelSpec.model_validate({"name": "m", "source": "zoo/digits", "precision": precision, **more})


@pytest.mark.parametrize(
    ("layer", "precision"),
    [
        (conv(FP32), "fp32"),
        (conv(TF32), "tf32"),
        (conv(FP16), "fp16"),
        (conv(BF16), "bf16"),
        (conv(INT8), "int8"),
        (conv(FP8), "fp8"),
        (conv("ampere_scudnn_128x64_relu_medium_nn_v1"), "fp32"),
        (conv("ampere_h16816gemm_128x64_ldg8_stages_64x3_nn_v1"), "fp16"),
        (OPAQUE, "opaque"),
        # a copy has no computing type of its own: the type that it reads counts, however a version writes it
        (reformat(**{"Format/Datatype": "Row major linear FP16 format"}), "fp16"),
        (reformat(**{"Format": "Row Major Linear", "Datatype": "Half"}), "fp16"),
        (reformat(**{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}), "int8"),
        ({"Name": "shuffle", "LayerType": "Shuffle"}, "other"),
    ],
)
def test_the_precision_of_a_layer(layer: dict[str, Any], precision: str) -> None:
    assert precision_of(layer) == precision


def test_rows_join_layers_and_times() -> None:
    layer = {**conv(FP16), "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP16 format"}]}
    first, second, third = rows([layer, OPAQUE, "named only"], {layer["Name"]: 0.25, OPAQUE["Name"]: 0.75})
    assert (first["precision"], first["weighted"], first["ms"]) == ("fp16", True, 0.25)
    assert first["inputs"] == ["Row major linear FP16 format"]
    assert (second["precision"], second["weighted"], second["ms"]) == ("opaque", False, 0.75)
    # with NAMES_ONLY verbosity a layer is but a text
    assert (third["name"], third["precision"], third["ms"]) == ("named only", "other", 0.0)


def test_shares_are_of_the_weighted_time() -> None:
    found = realised([*table({FP16: 3.0, FP32: 1.0}), *rows([OPAQUE], {OPAQUE["Name"]: 4.0})], "fp16")
    assert found.share == pytest.approx(0.75)
    assert found.opaque == pytest.approx(0.5)
    assert found.time_ms == pytest.approx(8.0)
    assert found.by_precision == {"fp16": 0.375, "fp32": 0.125, "opaque": 0.5}
    assert not found.proved


@pytest.mark.parametrize(
    ("precision", "tactic", "proved"),
    [("fp16", INT8, True), ("int8", FP16, False), ("fp32", TF32, False), ("tf32", TF32, True), ("fp8", FP8, True)],
)
def test_lower_than_asked_counts_and_higher_does_not(precision: str, tactic: str, proved: bool) -> None:
    assert realised(table({tactic: 1.0}), precision).proved is proved


def test_layers_that_are_kept_high_are_not_asked() -> None:
    layers = table({FP16: 1.0, FP32: 5.0})
    assert realised(layers, "fp16").share == pytest.approx(1 / 6)
    assert realised(layers, "fp16", ["/conv1*"]).share == 1.0


def test_a_share_that_is_too_low_is_refused() -> None:
    with pytest.raises(StageError, match="the engine is not in fp16") as caught:
        layers.prove(table({FP16: 1.0, FP32: 1.0}), spec("fp16"))
    assert caught.value.stage == "engine"
    assert "/conv1 runs in fp32 (1.000 ms)" in str(caught.value)
    assert "50% of the convolution and matrix time is in fp16, 90% is required" in str(caught.value)


def test_what_is_proved_and_what_cannot_be_seen_passes() -> None:
    proved = layers.prove(table({FP16: 9.5, FP32: 0.5}), spec("fp16"))["realised"]
    assert (proved["verdict"], proved["share"]) == ("proved", pytest.approx(0.95))
    opaque = layers.prove(rows([OPAQUE], {OPAQUE["Name"]: 1.0}), spec("fp16"))["realised"]
    assert (opaque["verdict"], opaque["share"], opaque["opaque"]) == ("opaque", None, 1.0)


# the text as TensorRT 8.6 to 11.4 write it -> the words of the fault, the setting that it names
FAILURES = [
    ("The engine plan file is not compatible with this version of TensorRT, expecting library version 8.6.1.2 got 8.6.1.6, "
     "please rebuild.", "different TensorRT", "server"),
    ("Version tag does not match. Note: Current Version: 236, Serialized Engine Version: 239", "different TensorRT", "server"),
    ("The engine plan file is generated on an incompatible device, expecting compute 8.6 got compute 8.9, please rebuild.",
     "built for another GPU", "compile"),
    ("The current device is not compatible with this hardware-compatible engine. Expected compute capability >= 8.0",
     "built for another GPU", "compile"),
    ("Network has dynamic or shape inputs, but no optimization profile has been defined.", "profile does not fit", "profiles"),
    ("Specified optimization profiles must satisfy MIN<=OPT<=MAX.", "profile does not fit", "profiles"),
    ("Runtime dimension does not satisfy any optimization profile.", "outside the optimization profile", "batch"),
    ("No importer registered for op: NonZeroX. Attempting to import as plugin.", "an operator that TensorRT lacks", "source"),
    ('creator && "Plugin not found, are the plugin name, version, and namespace correct?"', "operator", "source"),
    ("Failed to open file: transformer.wte.weight", "weights beside the graph are missing", "source"),
    ("One or more weights outside the range of INT32 was clamped", "INT32", "source"),
    ("Error Code 10: Internal Error (Could not find any implementation for node /conv1/Conv.)", "no kernel",
     "workspace_mib"),
    ("Some tactics do not have sufficient workspace memory to run. Increasing workspace size will enable more tactics",
     "no kernel", "workspace_mib"),
    ("Calibration failure occurred with no scaling factors detected. This could be due to no int8 calibrator or "
     "insufficient custom scales", "does not take the graph's quantization", "precision"),
    ("Could not infer output types for operation: dequantize", "quantization", "precision"),
    ("CUDA initialization failure with error: 35", "CUDA cannot be used", ""),
    ("CUDA driver version is insufficient for CUDA runtime version", "CUDA cannot be used", ""),
    ("Error Code 1: Cuda Runtime (out of memory)", "too little GPU memory", "max"),
]  # fmt: skip


def place(*loc: str) -> str:
    return f"{WHERE} {'.'.join(loc)}"


@pytest.mark.parametrize(("text", "words", "setting"), FAILURES)
def test_failures_are_known_by_their_text(text: str, words: str, setting: str) -> None:
    fault = explain_text(text, place)
    assert words in fault.what
    assert fault.where.endswith(setting)
    assert fault.why == text
    assert fault.fix
    assert fault.check


def test_a_failed_build_names_the_nodes_once() -> None:
    line = "No importer registered for op: Nonsense"
    event = {"step": "parse", "lines": [line, line], "nodes": [["Nonsense", "/layers/n", line]]}
    fault = explain(event, {"model": "digits", "check": "python builders/build_all.py digits"}, place)
    assert fault.what == "the graph has an operator that TensorRT lacks (Nonsense /layers/n)"
    assert fault.why == line
    assert fault.check == "python builders/build_all.py digits"


def test_what_is_not_known_is_told_in_tensorrts_words() -> None:
    assert explain_text("something new\nhappened", place).why == "something new happened"
    silent = explain({"step": "build", "lines": []}, {"model": "digits", "check": ""}, place)
    assert "TensorRT gave no reason at step 'build'" in silent.why


@pytest.mark.parametrize(
    ("built", "served", "compatible", "fits"),
    [
        ("10.16.1.11", "10.16.1.11", False, True),
        ("8.6.1.2", "8.6.1.6", False, False),  # even the fourth number counts
        ("10.13.3.9", "10.16.1.11", True, True),
        ("10.16.1.11", "10.9.0.34", True, False),  # compared as numbers, and only later versions run it
        ("10.9.0.34", "10.16.1.11", True, True),
        ("10.16.1.11", "11.0.0.114", True, False),
    ],
)
def test_which_plans_fit_a_server(built: str, served: str, compatible: bool, fits: bool) -> None:
    assert tensorrt_match.fits(built, served, version_compatible=compatible) is fits


SERVER = "version: 1\nserver: {image: nvcr.io/nvidia/tritonserver:26.06-py3, tensorrt: 10.16.1.11}\nmodels:\n"


def test_a_plan_of_another_tensorrt_is_not_published(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builders.targets.tensorrt.target.installed_version", lambda: "10.13.3.9")
    job = make_job(SERVER + "  digits: {source: zoo/digits}\n")
    with pytest.raises(StageError, match="different TensorRT") as caught:
        tensorrt_match.check(job)
    assert caught.value.stage == "publish"
    assert "config.yaml:2" in str(caught.value)
    assert "10.13.3.9" in str(caught.value)
    assert "10.16.1.11" in str(caught.value)


@pytest.mark.parametrize(
    ("here", "text"),
    [
        ("10.16.1.11", SERVER + "  digits: {source: zoo/digits}\n"),
        ("10.13.3.9", SERVER + "  digits: {source: zoo/digits, compile: {version_compatible: true}}\n"),
        # the embedded server runs plans with the TensorRT of its own environment
        ("10.13.3.9", "version: 1\nmodels:\n  digits: {source: zoo/digits}\n"),
    ],
)
def test_plans_that_fit_are_published(here: str, text: str, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builders.targets.tensorrt.target.installed_version", lambda: here)
    tensorrt_match.check(make_job(text))


def save_samples(path: Path, *shapes: tuple[int, ...]) -> None:
    """Write samples of ids that vary and an image that does not; the first number is how many there are."""
    groups = [
        Group({"ids": np.zeros(shape, np.int32), "image": np.zeros((shape[0], 3, 8), np.float32)}, {})
        for shape in shapes
    ]
    Golden(tuple(groups)).save(path)


def test_a_profile_follows_the_batch_and_the_samples(tmp_path: Path) -> None:
    save_samples(tmp_path / "golden.npz", (2, 16), (1, 40))
    save_samples(tmp_path / "calibration.npz", (5, 24))
    found = profiles.from_samples(tmp_path, spec("fp32", batch={"min": 1, "opt": 4, "max": 8}))
    assert found == {
        "ids": {"min": [1, 1], "opt": [4, 24], "max": [8, 40]},
        "image": {"min": [1, 3, 8], "opt": [4, 3, 8], "max": [8, 3, 8]},
    }


def test_profiles_that_are_given_are_taken(tmp_path: Path) -> None:
    shape = {"min": [1, 8], "opt": [2, 8], "max": [4, 8]}
    given = spec("fp32", compile={"profiles": [{"ids": shape}, {"ids": shape}]})
    assert profiles.derive(tmp_path / "m/graph/fp32/model.onnx", given) == [{"ids": shape}, {"ids": shape}]


def test_profiles_are_derived_from_the_export_beside_the_graph(tmp_path: Path) -> None:
    (tmp_path / "m/export").mkdir(parents=True)
    save_samples(tmp_path / "m/export/golden.npz", (2, 16))
    (found,) = profiles.derive(tmp_path / "m/graph/fp32/model.onnx", spec("fp32", batch={"fixed": 4}))
    assert found["ids"] == {"min": [4, 16], "opt": [4, 16], "max": [4, 16]}
