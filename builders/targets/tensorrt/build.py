"""The child process that compiles: ``python -m builders.targets.tensorrt.build job.json``.

In      a job: graph, plan, precision, profiles, options, timing cache.
Out     the plan, ``layers.json`` beside it, and one JSON line per event on stdout: ``progress``, ``failed``, ``done``.

It may crash or be killed without harm: the parent renames nothing before ``done``. TensorRT's calls return None instead
of raising, so ``failed`` carries the error lines of its log.

The timing cache, one file per GPU, TensorRT and CUDA version, saves timing kernels again. A lock keeps two builds from overwriting each
other's; caches are merged only if the file changed during the build: 8.6 logs errors of its Myelin part when it merges a cache with itself.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from builders.targets.tensorrt.versions import NEEDS, Version, version_of

_PR_SET_PDEATHSIG = 1
_REPORT_EVERY_S = 5.0


class RefusedError(Exception):
    """TensorRT refused; `parts` go to the parent."""

    def __init__(self, step: str, lines: list[str], **more: Any) -> None:
        super().__init__(step)
        self.parts = {"step": step, "lines": lines, **more}


def main(path: Path) -> int:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # ends with a killed parent
    job = json.loads(path.read_text())
    import tensorrt as trt

    from planwright.trt.plan import Log

    log = Log(_Listener(trt))
    try:
        version = version_of(trt)
        emit("done", **_build(trt, version, log, job))
    except RefusedError as error:
        error.parts["lines"] = [*error.parts["lines"], *log.errors]
        emit("failed", **error.parts)
        return 1
    except LookupError as error:
        emit("failed", step="options", lines=[str(error.args[0])])
        return 1
    return 0


def emit(event: str, **parts: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **parts}) + "\n")
    sys.stdout.flush()


class _Listener:
    """Turns 8.6's log into progress: one step per layer whose tactics were timed."""

    def __init__(self, trt: Any) -> None:
        self._severity = trt.ILogger
        self._steps, self._reported = 0, time.monotonic()

    def __call__(self, severity: Any, message: str) -> None:
        if severity == self._severity.VERBOSE:
            if "Computing costs for" in message:
                self._steps += 1
                self.progress("timing tactics", self._steps, 0)
            return
        sys.stderr.write(f"{severity.name:<8} {message}\n")

    def progress(self, phase: str, step: int, steps: int) -> bool:
        if time.monotonic() - self._reported > _REPORT_EVERY_S:
            self._reported = time.monotonic()
            emit("progress", phase=phase, step=step, steps=steps)
        return True


def _build(trt: Any, version: Version, log: Any, job: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    precision = job["precision"]
    if version.number < NEEDS.get(precision, (0, 0)):
        raise LookupError(f"TensorRT {trt.__version__} has no {precision}; it begins with {NEEDS[precision][0]}")
    _plugins(log, job["options"]["plugins"])
    try:
        builder = trt.Builder(log)
    except TypeError:
        raise RefusedError("builder", []) from None
    network = builder.create_network(version.network_flags())
    weights = _fill(trt, version, network, log, job)
    config = builder.create_builder_config()
    _configure(trt, version, config, job)
    version.hold_precision(network, config, precision, job["kept_high"])
    _profiles(builder, network, config, job["profiles"])
    feed = _calibrate(trt, version, _Parts(builder, network, config, log), job)
    version.watch(config, log._listen.progress)
    cache = _load_timing_cache(config, job["timing_cache"])
    _check_device(builder, precision)
    serialized = builder.build_serialized_network(network, config)
    del weights
    if feed is not None:
        feed.free()
    if serialized is None:
        raise RefusedError("build", [str(feed.error)] if feed and feed.error else [])
    plan = bytes(memoryview(serialized))
    Path(job["plan"]).write_bytes(plan)
    built_s = time.monotonic() - started
    _save_timing_cache(config, cache, job["timing_cache"])
    from builders.targets.tensorrt import layers

    rows = layers.measure(plan, job, log)
    Path(job["layers"]).write_text(json.dumps(rows, indent=1))
    figures = {"plan_bytes": len(plan), "build_seconds": round(built_s, 2), "tensorrt": trt.__version__}
    if feed is not None:
        figures["calibrated_batches"], figures["samples_left_out"] = feed.given, feed.left_out
    return figures


class _Parts(NamedTuple):
    builder: Any
    network: Any
    config: Any
    log: Any


def _calibrate(trt: Any, version: Version, parts: _Parts, job: dict[str, Any]) -> Any:
    """Let TensorRT calibrate where the job wants it; return the feed of samples, or None."""
    wanted = job["calibration"]
    if wanted is None:
        return None
    builder, network, config, log = parts
    from builders.targets.tensorrt.calibrator import Feed, calibrator

    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    opt = {name: bounds["opt"] for name, bounds in job["profiles"][0].items()}
    shapes = {t.name: [wanted["batch"], *(opt.get(t.name) or tuple(t.shape))[1:]] for t in inputs}
    feed = Feed(Path(wanted["samples"]), shapes)
    if not feed.batches and not Path(wanted["cache"]).exists():
        raise RefusedError("calibrate", [f"there is no sample of the shape {shapes}"])
    profile = None
    if any(-1 in tuple(tensor.shape) for tensor in inputs):
        profile = builder.create_optimization_profile()
        for name, shape in shapes.items():
            profile.set_shape(name, tuple(shape), tuple(shape), tuple(shape))
    teller = calibrator(trt, wanted, feed, log._listen.progress)
    version.calibrate(network, config, teller, profile, job["kept_high"])
    return feed


def _plugins(log: Any, paths: list[str]) -> None:
    from planwright.trt.plan import PlanError, load_plugins

    try:
        load_plugins(paths, log)
    except PlanError as error:
        raise RefusedError("plugin", [str(error)]) from None


def _fill(trt: Any, version: Version, network: Any, log: Any, job: dict[str, Any]) -> Any:
    """Read the graph into the network, or let the model's source fill it; returns what must live as long as the network."""
    if job.get("network_source"):
        from builders.targets.tensorrt.network import fill

        return fill(trt, network, job["network_source"], Path(job["graph"]))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(job["graph"]):
        errors = [version.parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
        raise RefusedError("parse", [text for _, _, text in errors], nodes=[list(error) for error in errors])
    return parser  # it owns the weights


def _configure(trt: Any, version: Version, config: Any, job: dict[str, Any]) -> None:
    options, flag = job["options"], trt.BuilderFlag
    config.builder_optimization_level = options["optimization_level"]
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the layer table cannot prove the precision
    version.allow_precision(config, job["precision"])
    version.tactic_sources(config)
    if options["workspace_mib"]:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options["workspace_mib"] << 20)
    for name in ("SPARSE_WEIGHTS", "REFIT", "VERSION_COMPATIBLE"):
        if options[name.lower()]:
            config.set_flag(getattr(flag, name))
    if options["strip"]:
        version.strip(config)
    if options["hardware_compatibility"] != "none":
        version.hardware_compatibility(config, options["hardware_compatibility"])
    if options["dla_core"] is not None:
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = options["dla_core"]
        config.set_flag(flag.GPU_FALLBACK)


def _check_device(builder: Any, precision: str) -> None:
    """Refuse a precision that this GPU computes only slowly; 11 has no such check."""
    fast = {"fp16": "platform_has_fast_fp16", "int8": "platform_has_fast_int8", "tf32": "platform_has_tf32"}
    if not getattr(builder, fast.get(precision, ""), True):
        raise RefusedError("device", [f"this GPU has no fast {precision}"])


def _profiles(builder: Any, network: Any, config: Any, profiles: list[dict[str, Any]]) -> None:
    inputs = {network.get_input(index).name: network.get_input(index) for index in range(network.num_inputs)}
    if not any(-1 in tuple(tensor.shape) for tensor in inputs.values()):
        return
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for name, bounds in shapes.items():
            if name in inputs:
                profile.set_shape(name, *(tuple(bounds[key]) for key in ("min", "opt", "max")))
        if config.add_optimization_profile(profile) < 0:
            raise RefusedError("profile", [], profile=shapes)


@dataclass(frozen=True)
class _TimingCache:
    cache: Any
    began: bytes


def _load_timing_cache(config: Any, options: dict[str, Any]) -> _TimingCache | None:
    """Set the cache on `config` and return it; None where it is switched off."""
    if options["mode"] == "off":
        return None
    path = Path(options["file"])
    began = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(began)
    config.set_timing_cache(cache, False)
    return _TimingCache(cache, began)


def _save_timing_cache(config: Any, timing: _TimingCache | None, options: dict[str, Any]) -> None:
    """Merge the cache into its file; nothing where it is read-only or off."""
    if timing is None or options["mode"] == "read_only":
        return
    path = Path(options["file"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        now = path.read_bytes() if path.exists() else b""
        if now != timing.began:
            timing.cache.combine(config.create_timing_cache(now), True)
        scratch = path.with_suffix(f".{os.getpid()}.tmp")
        scratch.write_bytes(bytes(memoryview(timing.cache.serialize())))
        scratch.replace(path)


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(code)  # TensorRT's own teardown at exit may crash after the work is done
