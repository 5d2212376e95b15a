"""Triton's ``tensorrt`` backend in Python, for a server that has no C++ one.

In      batches of requests from the server, the model's config.pbtxt as JSON.
Out     responses; a bad request gets its own TritonError and does not affect the others.

Runs in the stub's own environment (numpy 1.26, tensorrt, cuda-python). Checks and error texts are those of NVIDIA's C++
backend, because nothing in the server checks config.pbtxt against the engine for a Python-based one. One process, one
CUDA context and one engine per instance. ``execute`` never raises: a raise fails the whole batch.

`BatchPipeline.start` enqueues a batch (gather into pinned memory, copy in, compute, copy out), `BatchPipeline.finish` waits for
it. Where the requests of one call make several batches, the next one is started before the last is finished, so its copy in
overlaps the computation.

Environment, in place of NVIDIA's ``--backend-config=tensorrt,...``: PLANWRIGHT_TENSORRT_PLUGINS (libraries, separated by ;)
and PLANWRIGHT_TENSORRT_VERSION_COMPATIBLE=1.
"""

from __future__ import annotations

import json
import os
from typing import Any

import triton_python_backend_utils as pb_utils
from trt_checks import RequestError, check_config, check_request, ignored_options
from trt_dlpack import BFloat16
from trt_pipeline import BatchPipeline, PendingRequest

_PRIORITIES = {"PRIORITY_MAX": -5, "PRIORITY_MIN": 0}
_SLOTS = 2


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        """Load the plan; refuse a config.pbtxt that does not fit it, and an instance that is not on a GPU."""
        config = json.loads(args["model_config"])
        if args["model_instance_kind"] != "GPU":
            raise ValueError(f"unable to load model '{config['name']}', TensorRT backend supports only GPU device")
        self._plan, self._runners, self._shared = _load(config, args)
        check_config(config, self._plan, list(self._runners))
        self._name = args["model_instance_name"]
        self._batching = config["max_batch_size"] > 0
        self._outputs = [item["name"] for item in config["output"]]
        self._inputs = [item["name"] for item in config["input"]]
        self._bf16 = {item["name"] for item in config["output"] if item["data_type"] == "TYPE_BF16"}
        self._pipelines = {key: BatchPipeline(runner, config, self._shared) for key, runner in self._runners.items()}
        self._profiles: dict[Any, int] = {}
        for text in ignored_options(config):
            pb_utils.Logger.log_info(f"{self._name}: {text}")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch: requests of the same shape run together."""
        responses: list[Any] = [None] * len(requests)
        started: list[tuple[Any, Any]] = []
        for pipeline, works in self._groups(requests, responses):
            try:
                if pipeline.full:
                    first = next(index for index, (owner, _) in enumerate(started) if owner is pipeline)
                    self._finish(started.pop(first), responses)
                started.append((pipeline, pipeline.start(works)))
            except Exception as error:
                self._fail(works, error, responses)
        for each in started:
            self._finish(each, responses)
        # without an answer the client would wait forever
        return [_failure(RuntimeError("the backend gave no answer")) if each is None else each for each in responses]

    def finalize(self) -> None:
        for runner in self._runners.values():
            runner.free()
        self._shared.free()

    def _groups(self, requests: list[Any], responses: list[Any]) -> list[tuple[Any, list[PendingRequest]]]:
        """Read the requests and group them by profile and shape, each group no larger than the profile."""
        groups: dict[Any, list[PendingRequest]] = {}
        for place, request in enumerate(requests):
            try:
                work = PendingRequest(place, request, self._inputs, self._outputs, batching=self._batching)
                profile = self._profile(work.shapes)
                groups.setdefault((profile, work.key), []).append(work)
            except Exception as error:
                responses[place] = _failure(error)
        pairs = ((self._pipelines[profile], works) for (profile, _), works in groups.items())
        return [(pipeline, part) for pipeline, works in pairs for part in pipeline.parts(works)]

    def _profile(self, shapes: dict[str, Any]) -> int:
        """Return the profile for these shapes; cached, because there are many requests and few shapes."""
        key = tuple(shapes.values())
        if key not in self._profiles:
            check_request(self._name, self._plan, shapes)
            self._profiles[key] = self._plan.choose_profile(shapes, list(self._runners))
        return self._profiles[key]

    def _finish(self, started: tuple[Any, Any], responses: list[Any]) -> None:
        pipeline, batch = started
        try:
            for work, tensors in pipeline.finish(batch):
                responses[work.place] = pb_utils.InferenceResponse([self._tensor(n, array) for n, array in tensors])
        except Exception as error:
            self._fail(batch.works, error, responses)

    def _tensor(self, name: str, array: Any) -> Any:
        if name in self._bf16:
            return pb_utils.Tensor.from_dlpack(name, BFloat16(array))
        return pb_utils.Tensor(name, array)

    def _fail(self, works: list[PendingRequest], error: Exception, responses: list[Any]) -> None:
        for work in works:
            responses[work.place] = _failure(error)
        if _broken():
            # no CUDA call works in this process any more: end it, so that the watchdog stops the server
            pb_utils.Logger.log_error(f"{self._name}: {error}")
            os._exit(1)


def _failure(error: Exception) -> Any:
    text = str(error).strip() or type(error).__name__
    code = pb_utils.TritonError.INVALID_ARG if isinstance(error, RequestError) else pb_utils.TritonError.INTERNAL
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))


def _load(config: dict[str, Any], args: dict[str, str]) -> tuple[Any, dict[int, Any], Any]:
    """Return the plan, its runners by profile, and the registry of this process's page-locked memory.

    There is a runner for each optimization profile that the instance group names, for profile 0 where it names none.

    Raises:
        RuntimeError: TensorRT rejects the plan; the text is that of NVIDIA's backend.
        FileNotFoundError: There is no plan for this GPU.
    """
    from planwright_trt import cuda
    from planwright_trt.hostmem import Registered
    from planwright_trt.plan import Plan, PlanError
    from planwright_trt.runner import Runner

    device = int(args["model_instance_device_id"])
    cuda.use(device)
    path = _plan_path(config, args, cuda.compute_capability(device))
    plugins = [path for path in os.environ.get("PLANWRIGHT_TENSORRT_PLUGINS", "").split(";") if path]
    trusted = os.environ.get("PLANWRIGHT_TENSORRT_VERSION_COMPATIBLE") == "1"
    try:
        with open(path, "rb") as stream:
            plan = Plan(stream.read(), host_code_allowed=trusted, plugins=plugins)
        priority = _PRIORITIES.get(config.get("optimization", {}).get("priority", ""), 0)
        runners = {
            p: Runner(plan, profile=p, slots=_SLOTS, priority=priority) for p in _instance_profiles(config, args)
        }
    except PlanError as error:
        raise RuntimeError(f"unable to create TensorRT engine: {error}") from None
    return plan, runners, Registered()


def _broken() -> bool:
    """Return whether a CUDA error has left this process unable to use the GPU."""
    from planwright_trt import cuda

    return int(cuda.cudart.cudaDeviceSynchronize()[0]) != 0


def _instance_profiles(config: dict[str, Any], args: dict[str, str]) -> list[int]:
    """Return the profiles of the instance group that this instance belongs to."""
    for group in config.get("instance_group", []):
        if args["model_instance_name"].startswith(group.get("name", "?")):
            return [int(text) for text in group.get("profile", [])] or [0]
    return [0]


def _plan_path(config: dict[str, Any], args: dict[str, str], capability: str) -> str:
    """Return the plan for this GPU: by ``cc_model_filenames``, else the default file.

    Raises:
        FileNotFoundError: It is not there.
    """
    name = config.get("cc_model_filenames", {}).get(capability) or config.get("default_model_filename") or "model.plan"
    path = os.path.join(args["model_repository"], args["model_version"], name)
    if not os.path.exists(path):
        raise FileNotFoundError(f"unable to find '{path}' for model instance '{args['model_instance_name']}'")
    return path
