"""Opens the model with onnxruntime, with the settings in config.pbtxt, and ends runs whose requests were all cancelled.

In      what Triton passes to ``initialize``: config.pbtxt as JSON, the model's folder, its version; the requests of a run.
Out     an ``InferenceSession``, run options.

Names and meanings of the settings are those of NVIDIA's onnxruntime backend: the parameters intra_op_thread_count,
inter_op_thread_count, execution_mode and ``session.*``, and optimization.graph.level.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import onnxruntime as ort

_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
CHECK_AFTER_S = 0.1
CHECK_EVERY_S = 0.05


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


class CancelWatch:
    """Sets the terminate flag of a run once every one of its requests was cancelled; watches one run at a time.

    The server itself drops cancelled requests that are still queued; this is for the running ones. Checking whether a request
    was cancelled is a round trip to the server of 0.15 ms, so a thread does it, and only for runs that are long already.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._run: tuple[float, list[Any], Any] | None = None
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self, requests: list[Any]) -> Any:
        options = ort.RunOptions()
        with self._lock:
            self._run = (time.monotonic(), requests, options)
        return options

    def end(self) -> bool:
        """Stop watching, because answered requests must not be checked; return whether the run was cancelled."""
        with self._lock:
            cancelled = self._run is not None and bool(self._run[2].terminate)
            self._run = None
        return cancelled

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(CHECK_EVERY_S):
            with self._lock:
                if self._run is None or time.monotonic() - self._run[0] < CHECK_AFTER_S:
                    continue
                _, requests, options = self._run
                if all(request.is_cancelled() for request in requests):
                    options.terminate = True
