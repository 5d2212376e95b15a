"""Each field below `serve` that Triton would reject, or silently ignore, is refused with its own line."""

from __future__ import annotations

from pathlib import Path

import pytest

from planwright.config import serve_rules
from planwright.config.load import load_spec
from planwright.errors import SpecError
from planwright.tensors import TensorSpec

HEAD = "version: 1\nmodels:\n  m:\n    source: zoo/digits\n    batch: {max: 4}\n    serve:\n"
LINE = 7  # of the first line below serve


def found(tmp_path: Path, serve: str, *, head: str = HEAD, target: str = "onnxruntime") -> list[tuple[int, str]]:
    """Return (line, what) of each fault."""
    path = tmp_path / "config.yaml"
    path.write_text(head + "".join(f"      {line}\n" for line in serve.splitlines()))
    try:
        load_spec(path, target)  # type: ignore[arg-type]
    except SpecError as error:
        return [
            (int(fault.where.split("config.yaml:")[1].split()[0]), fault.what) for fault in error.faults if fault.fix
        ]
    return []


REJECTED = [
    ("two schedulers", "dynamic_batching: {}\nsequence_batching: {}", 2, "mutually exclusive"),
    ("two strategies", "sequence_batching:\n  direct: {}\n  oldest: {}", 3, "mutually exclusive"),
    ("two kinds of data", "model_warmup:\n- batch_size: 1\n  inputs:\n    x:\n      data_type: TYPE_FP32\n      zero_data: true\n"
     "      random_data: true", 7, "mutually exclusive"),
    ("levels without a default", "dynamic_batching:\n  priority_levels: 2", 2, "needs default_priority_level"),
    ("default above the levels", "dynamic_batching:\n  priority_levels: 2\n  default_priority_level: 3", 3, "is 3"),
    ("policy of no level", "dynamic_batching:\n  priority_levels: 2\n  default_priority_level: 2\n  priority_queue_policy:\n    3: {max_queue_size: 1}",
     5, "no priority level 3"),
    ("policy without levels", "dynamic_batching:\n  priority_queue_policy: {1: {max_queue_size: 1}}", 2, "no effect"),
    ("ordered priorities", "dynamic_batching:\n  priority_levels: 2\n  default_priority_level: 1\n  preserve_ordering: true", 4, "preserve_ordering"),
    ("ordered delays", "dynamic_batching:\n  preserve_ordering: true\n  default_queue_policy:\n    default_timeout_microseconds: 5\n    timeout_action: DELAY",
     5, "DELAY"),
    ("preferred nothing", "dynamic_batching:\n  preferred_batch_size: [0]", 2, "has 0"),
    ("preferred below nothing", "dynamic_batching:\n  preferred_batch_size: [-2]", 2, "has -2"),
    ("preferred too much", "dynamic_batching:\n  preferred_batch_size: [2, 16]", 2, "above max_batch_size 4"),
    ("preferred too much of a sequence", "sequence_batching:\n  oldest:\n    preferred_batch_size: [8]", 3, "above max_batch_size 4"),
    ("negative delay", "dynamic_batching:\n  max_queue_delay_microseconds: -1", 2, "does not fit"),
    ("negative queue", "dynamic_batching:\n  default_queue_policy:\n    max_queue_size: -1", 3, "does not fit"),
    ("controls", "sequence_batching:\n  control_input: [{name: S}]", 2, "control_input is not supported"),
    ("state", "sequence_batching:\n  state: [{input_name: a, output_name: b}]", 2, "state is not supported"),
    ("iterative", "sequence_batching:\n  iterative_sequence: true", 2, "iterative_sequence is not supported"),
    ("slots", "sequence_batching:\n  direct:\n    minimum_slot_utilization: 2.0", 3, "is 2"),
    ("cached sequence", "sequence_batching: {}\nresponse_cache: {enable: true}", 2, "response_cache"),
    ("decoupled", "model_transaction_policy:\n  decoupled: true", 2, "decoupled"),
    ("ensemble", "ensemble_scheduling: {step: []}", 1, "ensemble_scheduling cannot be set here"),
    ("batch input", "batch_input: [{kind: BATCH_ELEMENT_COUNT, target_name: [c], data_type: TYPE_FP32, source_input: [x]}]", 1, "batch_input"),
    ("batch output", "batch_output: [{target_name: [y]}]", 1, "batch_output"),
    ("agents", "model_repository_agents: {agents: [{name: checksum}]}", 1, "model_repository_agents"),
    ("operators", "model_operations: {op_library_filename: [x.so]}", 1, "model_operations"),
    ("no instances", "instance_group:\n- count: 0", 2, "count is 0"),
    ("fewer instances", "instance_group:\n- count: -1", 2, "count is -1"),
    ("all passive", "instance_group:\n- passive: true", 2, "every instance is passive"),
    ("name for a shell", "instance_group:\n- name: a b", 2, "unsafe"),
    ("kind", "instance_group:\n- kind: CPU", 2, "does not fit"),
    ("second devices", "instance_group:\n- secondary_devices: [{kind: KIND_NVDLA}]", 2, "for the tensorrt target only"),
    ("resource without a name", "instance_group:\n- rate_limiter:\n    resources:\n    - {count: 1}", 4, "no name"),
    ("resource without a count", "instance_group:\n- rate_limiter:\n    resources:\n    - {name: R}", 4, "no count"),
    ("resource here and there", "instance_group:\n- rate_limiter: {resources: [{name: R, count: 1}]}\n"
     "- rate_limiter: {resources: [{name: R, count: 1, global: true}]}", 3, "global"),
    ("tag that ends the server", "metric_tags:\n  my-tag: x", 2, "cannot be a metric tag"),
    ("tag of a number", "metric_tags:\n  tag: 5", 2, "does not fit"),
    ("parameter by its value", "parameters:\n  threads: 4", 2, "does not fit"),
    ("parameter of a number", "parameters:\n  threads: {string_value: 4}", 2, "does not fit"),
    ("parameter of Planwright", 'parameters:\n  planwright_fixed_batch: {string_value: "4"}', 2, "planwright_fixed_batch"),
    ("parameter of Planwright, with a value of another kind", "parameters:\n  planwright_x: 1", 2, "'planwright_x' is reserved"),
    ("accelerator", "optimization:\n  execution_accelerators:\n    cpu_execution_accelerator: [{name: openvino}]", 2, "no effect"),
    ("cache by its value", "response_cache: true", 1, "does not fit"),
    ("no list", "instance_group: {count: 1}", 1, "does not fit"),
    ("another spelling", "dynamicBatching: {}", 1, "unknown field 'dynamicBatching'"),
    ("warm-up of nothing", "model_warmup:\n- inputs: {}", 2, "no batch_size"),
    ("warm-up above max", "model_warmup:\n- batch_size: 64", 2, "batch_size 64 is above 4"),
    ("warm-up without a type", "model_warmup:\n- batch_size: 1\n  inputs:\n    x: {dims: [1], zero_data: true}", 4, "no data_type"),
    ("warm-up without data", "model_warmup:\n- batch_size: 1\n  inputs:\n    x: {dims: [1], data_type: TYPE_FP32}", 4, "no data"),
    ("warm-up of an open axis", "model_warmup:\n- batch_size: 1\n  inputs:\n    x:\n      dims: [-1]\n      data_type: TYPE_FP32\n      zero_data: true",
     5, "open axis"),
    ("warm-up of no known type", "model_warmup:\n- batch_size: 1\n  inputs:\n    x: {dims: [1], zero_data: true, data_type: FP32}", 4, "does not fit"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("serve", "line", "words"), [case[1:] for case in REJECTED], ids=[case[0] for case in REJECTED]
)
def test_what_triton_would_reject(tmp_path: Path, serve: str, line: int, words: str) -> None:
    [(at, what)] = found(tmp_path, serve)
    assert words in what
    assert at == LINE + line - 1


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    lines = [
        case
        for case in REJECTED
        if case[0] in ("decoupled", "tag that ends the server", "all passive", "levels without a default")
    ]
    assert len(found(tmp_path, "\n".join(case[1] for case in lines))) == 4
    unreadable = "dynamic_batching:\n  nonsense: 1\n  priority_levels: -2\n  max_queue_delay_microseconds: x\n  more: 2"
    assert [line for line, _ in found(tmp_path, unreadable)] == [LINE + 1, LINE + 2, LINE + 3, LINE + 4]


TAKEN = [
    "dynamic_batching: {preferred_batch_size: [2], preserve_ordering: true, default_queue_policy: {default_timeout_microseconds: 9000000}}",
    "dynamic_batching: {priority_levels: 3, default_priority_level: 2, priority_queue_policy: {3: {max_queue_size: 4}}}",
    "sequence_batching: {max_sequence_idle_microseconds: 5000000, oldest: {max_candidate_sequences: 4, preferred_batch_size: [4]}}",
    "sequence_batching: {direct: {minimum_slot_utilization: 0.5}}",
    "instance_group: [{count: 2, passive: true}, {count: 1, rate_limiter: {resources: [{name: R, count: 1}], priority: 2}}]",
    "metric_tags: {team: vision}\nresponse_cache: {enable: true}\nmodel_transaction_policy: {decoupled: false}",
    'parameters: {intra_op_thread_count: {string_value: "2"}}\noptimization: {graph: {level: 1}, input_pinned_memory: {enable: false}}',
    "model_warmup: [{name: w, batch_size: 4, count: 3, inputs: {x: {data_type: TYPE_FP32, dims: [2, 0], random_data: true}}}]",
    "dynamic_batching: null",
]  # fmt: skip


@pytest.mark.parametrize("serve", TAKEN)
def test_what_triton_accepts(tmp_path: Path, serve: str) -> None:
    assert found(tmp_path, serve) == []


@pytest.mark.parametrize("batch", ["{fixed: 4}", "none"])
def test_without_a_dynamic_batch_a_warm_up_is_one_run(tmp_path: Path, batch: str) -> None:
    head = HEAD.replace("{max: 4}", batch)
    assert found(tmp_path, "model_warmup: [{batch_size: 1}]", head=head) == []
    [(_, what)] = found(tmp_path, "model_warmup: [{batch_size: 2}]", head=head)
    assert "batch_size 2 is above 1" in what


def test_profiles_and_gpus_of_a_plan(tmp_path: Path) -> None:
    serve = 'instance_group:\n- profile: ["0", "many"]\n  gpus: [-1]'
    assert [line for line, _ in found(tmp_path, serve, target="tensorrt")] == [LINE + 1, LINE + 2]


INPUTS = [TensorSpec("x", "FP32", (-1, 3)), TensorSpec("words", "BYTES", (1,))]
WORDS = {"data_type": "TYPE_STRING", "dims": [1], "zero_data": True}
GOOD = {"data_type": "TYPE_FP32", "dims": [7, 3], "zero_data": True}


def warm_up(folder: Path, **inputs: object) -> list[str]:
    serve = {"model_warmup": [{"name": "w", "batch_size": 1, "inputs": inputs}]}
    return [
        fault.what for fault in serve_rules.input_faults(serve, INPUTS, folder, lambda *loc: ".".join(map(str, loc)))
    ]


def test_a_warm_up_that_fits_the_engine(tmp_path: Path) -> None:
    assert warm_up(tmp_path, x=GOOD, words=WORDS) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data_type": "TYPE_INT64"}, "is TYPE_INT64"),
        ({"dims": [7]}, "has dims [7]"),
        ({"dims": [7, 4]}, "has dims [7, 4]"),
        ({"dims": []}, "has dims []"),
        ({"dims": [1, 7, 3]}, "has dims [1, 7, 3]"),
        ({"zero_data": None, "input_data_file": "x.bin"}, "there is no file"),
    ],
)
def test_a_warm_up_that_does_not(tmp_path: Path, change: dict[str, object], words: str) -> None:
    [what] = warm_up(tmp_path, x={**GOOD, **change}, words=WORDS)
    assert words in what


def test_names_of_a_warm_up(tmp_path: Path) -> None:
    assert warm_up(tmp_path, y=GOOD, words=WORDS) == [
        "the model has no input 'y' to warm up",
        "the warm-up lacks input 'x'",
    ]


def test_the_file_of_a_warm_up_holds_a_whole_sample(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    item = {"data_type": "TYPE_FP32", "dims": [2, 3], "input_data_file": "x.bin"}
    for size_bytes, expected in ((24, []), (23, ["warm-up input 'x' has too little data"])):
        (tmp_path / "warmup" / "x.bin").write_bytes(bytes(size_bytes))
        assert warm_up(tmp_path, x=item, words=WORDS) == expected


def test_the_inputs_of_a_cuda_graph() -> None:
    serve = {"optimization": {"cuda": {"graph_spec": [{"batch_size": 1, "input": {"z": {"dim": ["3"]}}}]}}}
    faults = serve_rules.input_faults(serve, INPUTS, Path(), lambda *loc: ".".join(map(str, loc)))
    assert [fault.what for fault in faults] == ["the CUDA graph has an input 'z'"]
