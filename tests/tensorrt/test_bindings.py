"""Every name of TensorRT's API that we use, held against the real binding wheels of 8.6, 10.0, 10.16 and 11.4.

In      our source, the wheels from the package index, gcc for stand-in libraries; neither a GPU nor TensorRT.
Out     proof that no name is misspelled or missing in a version, and that every call passes as many arguments as fit.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, NamedTuple

import pytest

from tests._project import ROOT
from tests.tensorrt._names import Use, calls, chains
from tests.tensorrt._wheels import environment

WHEELS = {
    "8.6": ("tensorrt_bindings", "8.6.1"),
    "10.0": ("tensorrt_cu12_bindings", "10.0.1"),
    "10.16": ("tensorrt_cu12_bindings", "10.16.1.11"),
    "11.4": ("tensorrt_cu13_bindings", "11.4.0.106"),
}
MODULES = (
    "builders/targets/tensorrt/versions.py",
    "builders/targets/tensorrt/build.py",
    "builders/targets/tensorrt/layers.py",
    "builders/targets/tensorrt/calibrator.py",
    "builders/zoo/digits_api.py",
    "planwright/trt/plan.py",
)
# reached by getattr over words in build.py, where no chain can be read
BY_WORD = {"SPARSE_WEIGHTS", "REFIT", "VERSION_COMPATIBLE"}
# read from the module-level function that only `watch` of 10 and later calls
NOT_IN_8 = {"IProgressMonitor.__init__", "IProgressMonitor"}
# read from the calibrator, which only `calibrate` of 8.6 takes
NOT_IN_11 = {"IInt8EntropyCalibrator2", "IInt8MinMaxCalibrator"}


class Call(NamedTuple):
    """What we call: class ("" for the module), method, how many arguments (None for a property), first and last major."""

    owner: str
    method: str
    arguments: int | None
    first: int = 8
    last: int = 11


CALLS = (
    Call("", "init_libnvinfer_plugins", 2),
    Call("Builder", "__init__", 1),
    Call("Builder", "create_network", 1),
    Call("Builder", "create_builder_config", 0),
    Call("Builder", "create_optimization_profile", 0),
    Call("Builder", "build_serialized_network", 2),
    Call("Builder", "platform_has_fast_fp16", None, last=10),
    Call("Builder", "platform_has_fast_int8", None, last=10),
    Call("Builder", "platform_has_tf32", None, last=10),
    Call("INetworkDefinition", "num_inputs", None),
    Call("INetworkDefinition", "get_input", 1),
    Call("INetworkDefinition", "num_layers", None),
    Call("INetworkDefinition", "get_layer", 1),
    Call("ITensor", "name", None),
    Call("ITensor", "shape", None),
    Call("ILayer", "name", None),
    Call("ILayer", "type", None),
    Call("ILayer", "precision", None, last=10),
    Call("IBuilderConfig", "int8_calibrator", None, last=10),
    Call("IBuilderConfig", "set_calibration_profile", 1, last=10),
    Call("INetworkDefinition", "add_input", 3),
    Call("INetworkDefinition", "add_cast", 2),
    Call("INetworkDefinition", "add_scale", 5),
    Call("INetworkDefinition", "add_shuffle", 1),
    Call("INetworkDefinition", "add_convolution_nd", 5),
    Call("INetworkDefinition", "add_activation", 2),
    Call("INetworkDefinition", "add_pooling_nd", 3),
    Call("INetworkDefinition", "add_constant", 2),
    Call("INetworkDefinition", "add_matrix_multiply", 4),
    Call("INetworkDefinition", "add_elementwise", 3),
    Call("INetworkDefinition", "mark_output", 1),
    Call("IShuffleLayer", "reshape_dims", None),
    Call("IConvolutionLayer", "padding_nd", None),
    Call("IPoolingLayer", "stride_nd", None),
    Call("IPoolingLayer", "get_output", 1),
    Call("IBuilderConfig", "builder_optimization_level", None),
    Call("IBuilderConfig", "profiling_verbosity", None),
    Call("IBuilderConfig", "default_device_type", None),
    Call("IBuilderConfig", "DLA_core", None),
    Call("IBuilderConfig", "hardware_compatibility_level", None),
    Call("IBuilderConfig", "progress_monitor", None, first=10),
    Call("IBuilderConfig", "set_flag", 1),
    Call("IBuilderConfig", "clear_flag", 1),
    Call("IBuilderConfig", "set_memory_pool_limit", 2),
    Call("IBuilderConfig", "add_optimization_profile", 1),
    Call("IBuilderConfig", "create_timing_cache", 1),
    Call("IBuilderConfig", "set_timing_cache", 2),
    Call("IBuilderConfig", "set_tactic_sources", 1),
    Call("ITimingCache", "combine", 2),
    Call("ITimingCache", "serialize", 0),
    Call("OnnxParser", "__init__", 2),
    Call("OnnxParser", "parse_from_file", 1),
    Call("OnnxParser", "num_errors", None),
    Call("OnnxParser", "get_error", 1),
    Call("ParserError", "desc", 0),
    Call("ParserError", "node", 0),
    Call("ParserError", "node_name", 0, first=10),
    Call("ParserError", "node_operator", 0, first=10),
    Call("IOptimizationProfile", "set_shape", 4),
    Call("Runtime", "__init__", 1),
    Call("Runtime", "engine_host_code_allowed", None),
    Call("Runtime", "deserialize_cuda_engine", 1),
    Call("ICudaEngine", "num_io_tensors", None),
    Call("ICudaEngine", "num_optimization_profiles", None),
    Call("ICudaEngine", "get_tensor_name", 1),
    Call("ICudaEngine", "get_tensor_mode", 1),
    Call("ICudaEngine", "get_tensor_dtype", 1),
    Call("ICudaEngine", "get_tensor_shape", 1),
    Call("ICudaEngine", "get_tensor_location", 1),
    Call("ICudaEngine", "get_tensor_profile_shape", 2),
    Call("ICudaEngine", "create_execution_context", 0),
    Call("ICudaEngine", "create_engine_inspector", 0),
    Call("IExecutionContext", "set_optimization_profile_async", 2),
    Call("IExecutionContext", "active_optimization_profile", None),
    Call("IExecutionContext", "set_input_shape", 2),
    Call("IExecutionContext", "get_tensor_shape", 1),
    Call("IExecutionContext", "set_tensor_address", 2),
    Call("IExecutionContext", "execute_async_v3", 1),
    Call("IExecutionContext", "profiler", None),
    Call("EngineInspector", "execution_context", None),
    Call("EngineInspector", "get_engine_information", 1),
)
# module -> how an object is called there -> its class; what is done to these must stand in CALLS
RECEIVERS = {
    "builders/targets/tensorrt/build.py": {"builder": "Builder", "network": "INetworkDefinition", "config": "IBuilderConfig",
                              "parser": "OnnxParser", "profile": "IOptimizationProfile", "tensor": "ITensor",
                              "cache": "ITimingCache", "timing.cache": "ITimingCache"},
    "builders/targets/tensorrt/versions.py": {"config": "IBuilderConfig", "network": "INetworkDefinition", "error": "ParserError",
                                 "layer": "ILayer"},
    "builders/zoo/digits_api.py": {"network": "INetworkDefinition", "pool": "IPoolingLayer"},
    "planwright/trt/plan.py": {"self._runtime": "Runtime", "self.engine": "ICudaEngine", "engine": "ICudaEngine"},
    "planwright/trt/runner.py": {"self._context": "IExecutionContext", "inspector": "EngineInspector",
                                 "plan.engine": "ICudaEngine", "self.plan.engine": "ICudaEngine"},
}  # fmt: skip


def source(module: str) -> str:
    return (ROOT / module).read_text()


def used(major: int) -> list[str]:
    """Return every chain that our code reaches on one major version."""
    found = {use.name for module in MODULES for use in chains(source(module)) if major in use.majors}
    found |= {f"BuilderFlag.{word}" for word in BY_WORD}
    return sorted(found - {8: NOT_IN_8, 11: NOT_IN_11}.get(major, set()))


def ask(environ: dict[str, str], chains: list[str], calls: list[Call]) -> dict[str, Any]:
    request = json.dumps({"chains": chains, "calls": [[call.owner, call.method, call.arguments] for call in calls]})
    command = [sys.executable, "-W", "error", "-m", "tests.tensorrt._child"]
    done = subprocess.run(command, cwd=ROOT, env=environ, input=request, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module", params=[pytest.param(release, marks=pytest.mark.network) for release in WHEELS])
def binding(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """(8.6 and the like, the environment to import it in)."""
    package, version = WHEELS[request.param]
    return request.param, environment(package, version, tmp_path_factory.mktemp(f"trt-{request.param}"))


@pytest.fixture(scope="module")
def answer(binding: tuple[str, dict[str, str]]) -> dict[str, Any]:
    """What one binding says to everything that we use, and to nothing that it should not have."""
    major = major_of(binding[0])
    wanted = [call for call in CALLS if call.first <= major <= call.last]
    return ask(binding[1], used(major), wanted)


def major_of(release: str) -> int:
    return int(release.split(".")[0])


def test_the_binding_is_the_one_that_was_asked_for(binding: tuple[str, dict[str, str]], answer: dict[str, Any]) -> None:
    assert answer["tensorrt"].startswith(binding[0])


def test_every_name_exists(answer: dict[str, Any]) -> None:
    assert answer["missing"] == []


def test_every_call_passes_arguments_that_fit(answer: dict[str, Any]) -> None:
    assert answer["refused"] == []
    assert answer["calls_back"] == ["ILogger.log", "IProfiler.report_layer_time"]


def test_the_adapter_is_the_versions_own(binding: tuple[str, dict[str, str]], answer: dict[str, Any]) -> None:
    major = major_of(binding[0])
    assert answer["class"] == {8: "Version8", 10: "Version10", 11: "Version"}[major]
    # in 8.6 it is EXPLICIT_BATCH; the same number means another thing in each version, hence only by name
    assert answer["flags"] == {8: 1, 10: 1 << (answer["strongly_typed"] or 0), 11: 0}[major]
    assert answer["strongly_typed"] == {8: None, 10: 1, 11: 0}[major]


def test_progress_is_told_in_steps(binding: tuple[str, dict[str, str]], answer: dict[str, Any]) -> None:
    assert answer["progress"] == (None if major_of(binding[0]) == 8 else [["tactics", 1, 3]])


def test_the_configuration_runs_over_the_real_flags(
    binding: tuple[str, dict[str, str]], answer: dict[str, Any]
) -> None:
    always = {*BY_WORD, "GPU_FALLBACK"}
    by_flag = {"FP16", "INT8"} if major_of(binding[0]) == 8 else set()
    assert set(answer["configured"]["fp32"]) == always
    assert set(answer["configured"]["tf32"]) == {*always, "TF32"}
    assert set(answer["configured"]["int8"]) == always | by_flag


def test_the_calibrator_feeds_and_remembers(binding: tuple[str, dict[str, str]], answer: dict[str, Any]) -> None:
    had = {
        "batch": 4,
        "before": None,
        "after": "TRT-8600-EntropyCalibration2",
        "told": [["calibrating", 1, 2]],
        "last": None,
    }
    assert answer["calibrated"] == (had if major_of(binding[0]) < 11 else None)


def test_what_a_version_lacks_is_refused_in_words(binding: tuple[str, dict[str, str]], answer: dict[str, Any]) -> None:
    lacks = {
        "8.6": ["strip", "same_compute_capability"],
        "10.0": ["same_compute_capability", "calibrate"],
        "10.16": ["calibrate"],
        "11.4": ["calibrate"],
    }
    assert answer["said_no"] == lacks[binding[0]]


def test_the_plan_module_imports_and_keeps_errors(answer: dict[str, Any]) -> None:
    assert answer["log"] == "Magic tag does not match"


def test_wrong_names_and_calls_are_reported(binding: tuple[str, dict[str, str]]) -> None:
    """A checker that passes everything would prove nothing."""
    text = "class Version:\n    def f(self, config):\n        flag = self.trt.BuilderFlag\n        flag.TF23\n        self.trt.Bilder\n"
    wrong = [use.name for use in chains(text)]
    calls = [
        Call("Builder", "create_network", 3),
        Call("IBuilderConfig", "set_flags", 1),
        Call("OnnxParser", "get_error", None),
    ]
    found = ask(binding[1], [*wrong, "BuilderFlag.TF32"], calls)
    assert found["missing"] == ["BuilderFlag.TF23", "Bilder"]
    assert [text.split()[0] for text in found["refused"]] == [
        "Builder.create_network",
        "IBuilderConfig.set_flags",
        "OnnxParser.get_error",
    ]


def test_chains_are_read_with_the_versions_that_reach_them() -> None:
    text = """
class Version:
    def both(self): self.trt.A.B
    def replaced(self): self.trt.C
class Version10(Version):
    def more(self): self.trt.D
class Version8(Version):
    def replaced(self):
        one, two = 1, self.trt.E
        two.F
"""
    found = {use.name: use.majors for use in chains(text)}
    assert found == {"A.B": (8, 10, 11), "C": (10, 11), "D": (10,), "E": (8,), "E.F": (8,)}


def test_the_words_for_flags_stand_in_the_source() -> None:
    assert all(f'"{word}"' in source("builders/targets/tensorrt/build.py") for word in BY_WORD)


@pytest.mark.parametrize("module", RECEIVERS)
def test_the_table_has_every_call(module: str) -> None:
    """Read from the source, so that a new call cannot be left out of the table."""
    known = {f"{call.owner}.{call.method}": call for call in CALLS}
    found = calls(source(module), RECEIVERS[module])
    assert len(found) > 2
    wrong = [f"{module}:{use.line} {use.name} ({use.arguments})" for use in found if not _known(known, use)]
    assert not wrong, "\n".join(wrong)


def _known(known: dict[str, Call], use: Use) -> bool:
    call = known.get(use.name)
    # a `*` hides the number, and set_flag is also passed around without being called
    return call is not None and (use.arguments is None or use.arguments == call.arguments)
