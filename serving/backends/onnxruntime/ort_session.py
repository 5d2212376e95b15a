"""Opens the model with onnxruntime, with the settings in config.pbtxt.

In      what Triton passes to ``initialize``: config.pbtxt as JSON, the model's folder, its version.
Out     an ``InferenceSession``.

Names and meanings of the settings are those of NVIDIA's onnxruntime backend: the parameters intra_op_thread_count,
inter_op_thread_count, execution_mode and ``session.*``, and optimization.graph.level.
"""

from __future__ import annotations

import os
from typing import Any

import onnxruntime as ort

_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


def open_session(config: dict[str, Any], args: dict[str, str]) -> Any:
    """Return the session of the model file that config.pbtxt names.

    Raises:
        ValueError: A setting is wrong, or this instance should run on a GPU.
        FileNotFoundError: There is no model file.
    """
    if args["model_instance_kind"] == "GPU":
        raise ValueError(f"unable to load model '{config['name']}', this onnxruntime backend supports only CPU")
    filename = config.get("default_model_filename") or "model.onnx"
    path = os.path.join(args["model_repository"], args["model_version"], filename)
    if not os.path.exists(path):
        raise FileNotFoundError(f"unable to find '{path}' for model instance '{args['model_instance_name']}'")
    return ort.InferenceSession(path, _options(config), providers=["CPUExecutionProvider"])


def _options(config: dict[str, Any]) -> Any:
    """Divide the cores among the instances, unless config.pbtxt sets the threads."""
    options = ort.SessionOptions()
    instances = sum(group.get("count", 1) for group in config.get("instance_group", [])) or 1
    share = max(1, len(os.sched_getaffinity(0)) // instances)
    options.intra_op_num_threads = _number(config, "intra_op_thread_count", share)
    options.inter_op_num_threads = _number(config, "inter_op_thread_count", 1)
    if _number(config, "execution_mode", 0) == 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    level = config.get("optimization", {}).get("graph", {}).get("level", 0)
    options.graph_optimization_level = _LEVELS.get(level, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    # A spinning thread keeps its core from the other instances and from the server, which needs it to fill the next batch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name, value in config.get("parameters", {}).items():
        if name.startswith("session."):
            options.add_session_config_entry(name, value["string_value"])
    return options


def _number(config: dict[str, Any], name: str, default: int) -> int:
    text = config.get("parameters", {}).get(name, {}).get("string_value", str(default))
    if not text.isdigit():
        raise ValueError(f"parameter {name} must be a whole number, not '{text}'")
    return int(text)
