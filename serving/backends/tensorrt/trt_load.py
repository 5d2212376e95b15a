"""Opens the plan with the settings from config.pbtxt and the environment.

In      what Triton passes to ``initialize``.
Out     the `Plan`, and one `Runner` per optimization profile that the instance group names (profile 0 if none).

Environment, in place of NVIDIA's ``--backend-config=tensorrt,...``: PLANWRIGHT_TENSORRT_PLUGINS (libraries, separated by ;)
and PLANWRIGHT_TENSORRT_VERSION_COMPATIBLE=1.
"""

from __future__ import annotations

import os
from typing import Any

PRIORITIES = {"PRIORITY_MAX": -5, "PRIORITY_MIN": 0}
SLOTS = 2


def load(config: dict[str, Any], args: dict[str, str]) -> tuple[Any, dict[int, Any]]:
    """Return (plan, profile -> runner).

    Raises:
        RuntimeError: TensorRT rejects the plan; the text is that of NVIDIA's backend.
        FileNotFoundError: There is no plan for this GPU.
    """
    from planwright_trt import cuda
    from planwright_trt.plan import Plan, PlanError
    from planwright_trt.runner import Runner

    device = int(args["model_instance_device_id"])
    cuda.use(device)
    path = plan_path(config, args, cuda.compute_capability(device))
    plugins = [path for path in os.environ.get("PLANWRIGHT_TENSORRT_PLUGINS", "").split(";") if path]
    trusted = os.environ.get("PLANWRIGHT_TENSORRT_VERSION_COMPATIBLE") == "1"
    try:
        with open(path, "rb") as stream:
            plan = Plan(stream.read(), host_code_allowed=trusted, plugins=plugins)
        priority = PRIORITIES.get(config.get("optimization", {}).get("priority", ""), 0)
        runners = {p: Runner(plan, profile=p, slots=SLOTS, priority=priority) for p in profiles(config, args)}
    except PlanError as error:
        raise RuntimeError(f"unable to create TensorRT engine: {error}") from None
    return plan, runners


def broken() -> bool:
    """Return whether a CUDA error has left this process unable to use the GPU."""
    from planwright_trt import cuda

    return int(cuda.cudart.cudaDeviceSynchronize()[0]) != 0


def registered() -> Any:
    """Return the registry of this process's page-locked memory."""
    from planwright_trt.hostmem import Registered

    return Registered()


def profiles(config: dict[str, Any], args: dict[str, str]) -> list[int]:
    """Return the profiles of the instance group that this instance belongs to."""
    for group in config.get("instance_group", []):
        if args["model_instance_name"].startswith(group.get("name", "?")):
            return [int(text) for text in group.get("profile", [])] or [0]
    return [0]


def plan_path(config: dict[str, Any], args: dict[str, str], capability: str) -> str:
    """Return the plan for this GPU: by ``cc_model_filenames``, else the default file.

    Raises:
        FileNotFoundError: It is not there.
    """
    name = config.get("cc_model_filenames", {}).get(capability) or config.get("default_model_filename") or "model.plan"
    path = os.path.join(args["model_repository"], args["model_version"], name)
    if not os.path.exists(path):
        raise FileNotFoundError(f"unable to find '{path}' for model instance '{args['model_instance_name']}'")
    return path
