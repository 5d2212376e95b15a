"""The tensorrt target: a plan for this GPU, built in a child process.

In      an ONNX graph whose precision is decided.
Out     ``model.plan``, ``layers.json`` (what the engine computes) and a `TrtEngine` over the plan.

The driver is queried for a GPU before TensorRT is used: ``trt.Runtime`` crashes the process without one. On a machine that
has neither, the target still knows its name, its opset and its folder, so that a plan can be shown and a graph prepared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from builders.targets.tensorrt import calibrator, network, profiles
from planwright.config.spec import ModelSpec, ServerSpec
from planwright.errors import Fault, MachineError, StageError
from planwright.files import digest, read_json, sha256, write_json
from planwright.golden import Arrays
from planwright.gpu import Device, first_device
from planwright.tensors import TensorSpec

PACKAGES = ("tensorrt", "tensorrt_cu13", "tensorrt_cu12")
UNKNOWN = "unknown"
PLUGINS = "plugins.json"
# newest opset that each version's parser reads (onnx-tensorrt docs/operators.md for 8.6, 10.0 and 10.15; TensorRT's ONNX opset
# guide for 11); the first that is not above the version counts
OPSETS = (((11, 0), 25), ((10, 15), 24), ((10, 0), 20), ((0, 0), 17))


class TrtEngine:
    """A loaded plan; one context per profile, made when first needed."""

    def __init__(self, path: Path, *, plugins: Sequence[str] = ()) -> None:
        from planwright.trt.plan import Plan

        self._plan = Plan.read(path, host_code_allowed=True, plugins=plugins)
        self._runners: dict[int, Any] = {}
        self.inputs = tuple(TensorSpec(t.name, t.datatype, t.shape) for t in self._plan.inputs)
        self.outputs = tuple(TensorSpec(t.name, t.datatype, t.shape) for t in self._plan.outputs)

    def run(self, inputs: Arrays) -> Arrays:
        from planwright.trt.runner import Runner

        profile = self._plan.choose_profile({name: array.shape for name, array in inputs.items()})
        if profile not in self._runners:
            self._runners[profile] = Runner(self._plan, profile=profile, slots=1)
        answers: Arrays = self._runners[profile].run(inputs)
        return answers

    def close(self) -> None:
        for runner in self._runners.values():
            runner.free()
        self._runners.clear()


class TensorRTTarget:
    name = "tensorrt"
    platform = "tensorrt_plan"
    backend = "tensorrt"
    filename = "model.plan"
    kind = "KIND_GPU"

    def __init__(self, server: ServerSpec | None = None) -> None:
        self._server = server or ServerSpec()

    @cached_property
    def device(self) -> Device | None:
        return first_device()

    @cached_property
    def version(self) -> str:
        """TensorRT's version here; where it is not installed, that of the server in config.yaml, else 'unknown'."""
        return installed_version() or self._server.tensorrt or UNKNOWN

    @property
    def max_opset(self) -> int:
        """Newest opset that this version's parser reads; 17 where the version is not known."""
        number = tuple(int(part) for part in self.version.split(".")[:2]) if self.version != UNKNOWN else (0, 0)
        return next(opset for least, opset in OPSETS if number >= least)

    def key(self) -> str:
        capability = self.device.capability.replace(".", "") if self.device else UNKNOWN
        return f"trt{self.version}-sm{capability}"

    def versions(self) -> dict[str, str]:
        """TensorRT, CUDA, driver and GPU: what a plan depends on."""
        found, device = {"tensorrt": self.version}, self.device
        if device is None:
            return found
        gpu = {"compute_capability": device.capability, "driver": device.driver, "gpu": device.name}
        return {**found, "cuda": device.cuda, **gpu}

    def compile(self, graph: Path, folder: Path, spec: ModelSpec) -> Mapping[str, Any]:
        """Build the plan and prove its precision; raises StageError, or MachineError without a GPU or TensorRT (exit 3)."""
        from builders.targets.tensorrt import child, layers

        self._require()
        kept_high = read_json(graph.parent / "stage.json").get("result", {}).get("kept_high", [])
        options = spec.compile.model_dump(exclude={"profiles", "timing_cache", "architectures"})
        done = child.run(
            {
                "model": spec.name,
                "check": spec.build_command("--until", "verify"),
                "graph": str(graph.resolve()),
                "network_source": network.wanted(spec),
                "plan": str((folder / self.filename).resolve()),
                "layers": str((folder / "layers.json").resolve()),
                "precision": spec.precision,
                "kept_high": kept_high,
                "profiles": profiles.derive(graph, spec),
                "options": options,
                "calibration": self._calibration(graph, spec),
                "timing_cache": {"mode": spec.compile.timing_cache, "file": str(self._timing_cache(graph).resolve())},
            },
            folder,
            spec.where,
        )
        write_json(folder / PLUGINS, options["plugins"])
        return {**done, **layers.prove(read_json(folder / "layers.json"), spec, kept_high)}

    def load(self, folder: Path) -> TrtEngine:
        self._require()
        from builders.targets.tensorrt.explain import explain_text
        from planwright.trt.plan import PlanError

        try:
            return TrtEngine(folder / self.filename, plugins=plugins_of(folder))
        except PlanError as error:
            raise StageError("engine", explain_text(str(error), lambda *_: str(folder / self.filename))) from None

    def _require(self) -> None:
        if self.device is None:
            raise MachineError(no_device())
        if installed_version() is None:
            raise MachineError(no_tensorrt())

    def _calibration(self, graph: Path, spec: ModelSpec) -> dict[str, Any] | None:
        """Return what TensorRT's own calibrator needs; None where the graph carries the ranges."""
        if spec.precision != "int8" or not spec.calibration.native:
            return None
        samples = graph.parents[2] / "export" / "calibration.npz"
        batch = spec.batch.fixed or min(calibrator.BATCH, spec.batch.largest)
        parts = [sha256(graph), sha256(samples), spec.calibration.method, self.version, batch]
        cache = graph.parents[3] / "calibration" / f"{digest(parts)}.trt"
        files = {"samples": str(samples.resolve()), "cache": str(cache.resolve())}
        return {"method": spec.calibration.method, "batch": batch, **files}

    def _timing_cache(self, graph: Path) -> Path:
        assert self.device is not None
        name = f"{self.key()}-cuda{self.device.cuda}-{self.device.name.replace(' ', '_')}.cache"
        return graph.parents[3] / "timing" / name


def plugins_of(folder: Path) -> list[str]:
    return read_json(folder / PLUGINS) or []


def installed_version() -> str | None:
    """Return the version of the TensorRT that Python would import here; None where there is none."""
    for package in PACKAGES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    if find_spec("tensorrt") is None:
        return None
    import tensorrt

    return str(tensorrt.__version__)


def no_device() -> Fault:
    fix = "use --target onnxruntime, or build on a GPU machine (copy build/ there: export and graph are reused)"
    what, check = "the tensorrt target needs a CUDA device", "python -m builders doctor"
    return Fault(what, why="the driver shows none", fix=fix, check=check)


def no_tensorrt() -> Fault:
    why = "there is a CUDA device, but the package tensorrt is not installed"
    fix = "install the tensorrt of the server's image, or use --target onnxruntime"
    return Fault("TensorRT does not work here", why=why, fix=fix, check="python -m builders doctor")
