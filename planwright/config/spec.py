"""The content of config.yaml: the frozen objects that every stage reads.

In      nothing; `planwright.config.load.load_spec` makes these from the file.
Out     `RepositorySpec` and `ModelSpec`. The JSON schema for editors is made from `ConfigFile` (docs/config.schema.json).

Field names below ``serve`` are Triton's own and are checked against Triton's ModelConfig message, not mirrored here.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

from planwright.compare import DEFAULTS, Tolerance
from planwright.config import load_profile
from planwright.decimals import exact, scaled
from planwright.errors import Fault

Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8", "fp8"]
CALIBRATED = ("int8", "fp8")  # precisions whose ranges come from calibration samples
RENAMED = {
    "keep_high": "keep_fp32"
}  # old settings of a model: in config.yaml for one more release, and in older build records
Target = Literal["onnxruntime", "tensorrt"]
TARGETS: tuple[Target, ...] = ("onnxruntime", "tensorrt")
EMBEDDED_SERVER = "2.51.0"  # the tritonserver in nvidia-pytriton 0.7.0, equal to release 24.10

LONGEST_NAME = 128  # a file name has 255 bytes, and scratch files add to it
_NAME = rf"^[A-Za-z0-9_][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}$"
_LARGEST_BATCH = 2**31 - 1  # Triton's max_batch_size is an int32


def config_flags(path: Path) -> list[str]:
    """Return the flags with which a command reads the same config.yaml; none for the one that it reads by default."""
    return [] if path == Path("config.yaml") else ["--config", str(path)]


_Positive = Annotated[int, Field(ge=1)]
_Batch = Annotated[int, Field(ge=1, le=_LARGEST_BATCH)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ServerSpec(_Frozen):
    """The server that the repository is made for."""

    image: str | None = Field(default=None, description="Triton image, such as nvcr.io/nvidia/tritonserver:26.06-py3")
    tensorrt: str | None = Field(default=None, pattern=r"^\d+(\.\d+){2,3}$", description="its TensorRT, all four parts")
    _place: str = PrivateAttr(default="config.yaml")

    @property
    def where(self) -> str:
        """Return ``config.yaml:4`` for the part of the file that names the server."""
        return self._place

    @property
    def embedded(self) -> bool:
        """True where the repository is made for the tritonserver of the wheel."""
        return self.image is None


class ExportSpec(_Frozen):
    """How PyTorch becomes ONNX."""

    exporter: Literal["torchscript", "dynamo"] = Field(
        default="torchscript", description="torchscript is the only one safe for TensorRT 8.6"
    )
    opset: int = Field(default=17, ge=11, le=24, description="ONNX opset; it is read back from the file")


class SamplesSpec(_Frozen):
    """How many real samples to use for each purpose, or the file with them."""

    calibration: int = Field(default=512, ge=0, description="samples that set INT8 and FP8 ranges; others make none")
    golden: int = Field(default=32, ge=2, description="samples whose FP32 answers every later check uses")
    test: _Positive = Field(default=512, description="held-out samples for the task metric")
    file: str | None = Field(default=None, description="npz with one array per input, samples along the first axis")


class BatchSpec(_Frozen):
    """The batch sizes that the engine takes: dynamic from min to max, one fixed size, or no batch axis at all.

    ``batch: 8`` is short for ``{max: 8}``, and ``batch: none`` for ``{axis: false}``.
    """

    min: _Batch | None = Field(default=None, description="smallest batch; 1 if not given")
    opt: _Batch | None = Field(default=None, description="batch the engine is tuned for; max if not given")
    max: _Batch | None = Field(default=None, description="largest batch: Triton's max_batch_size")
    fixed: _Batch | None = Field(default=None, description="static batch; served with max_batch_size 0")
    axis: bool = Field(default=True, description="false: no batch axis; served as it is, one tensor set per request")

    @model_validator(mode="after")
    def _one_way(self) -> BatchSpec:
        dynamic = (self.min, self.opt, self.max) != (None, None, None)
        if self.fixed is not None and dynamic:
            raise mistake("give either 'fixed' or min/opt/max, not both", "remove one of them")
        if not self.axis and (dynamic or self.fixed is not None):
            raise mistake("a model without a batch axis has no batch sizes", "write only 'batch: none'")
        low, opt, high = self.bounds
        if not low <= opt <= high:
            raise self._disorder()
        return self

    def _disorder(self) -> PydanticCustomError:
        """Return the mistake, naming the first two sizes that are in the wrong order."""
        given = [(name, size) for name, size in (("min", self.min), ("opt", self.opt), ("max", self.max)) if size]
        pairs = [(a, b) for index, a in enumerate(given) for b in given[index + 1 :] if a[1] > b[1]]
        (low, small), (high, large) = pairs[0]
        what = f"{low} {small} is above {high} {large}; it needs min <= opt <= max"
        return mistake(what, f"raise {high}, or lower {low}")

    @property
    def bounds(self) -> tuple[int, int, int]:
        """Return (min, opt, max); all equal when fixed or without an axis. Not given at all means up to 8."""
        if self.fixed is not None or not self.axis:
            return (self.fixed or 1,) * 3
        high = self.max or self.opt or max(8, self.min or 1)
        return self.min or 1, self.opt or high, high

    @property
    def largest(self) -> int:
        """The largest batch that the engine takes."""
        return self.bounds[2]

    @property
    def served_max(self) -> int:
        """Triton's max_batch_size; 0 where a request is one run of the engine."""
        return self.largest if self.axis and self.fixed is None else 0

    @property
    def given(self) -> bool:
        """True where config.yaml sets anything about the batch."""
        return not self.axis or any(value is not None for value in (self.min, self.opt, self.max, self.fixed))


def _batch(value: Any) -> Any:
    """Read ``batch: 8`` and ``batch: none``."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"max": value}
    if isinstance(value, str) and value.lower() == "none":
        return {"axis": False}
    if isinstance(value, str | bool | float | list):
        raise mistake(f"'{value}' is not a batch", "write a number, none, {fixed: 8}, or {min: 1, opt: 4, max: 8}")
    return value


def mistake(what: str, fix: str) -> PydanticCustomError:
    """Return the error that a validator raises: the mistake, and what to write instead."""
    return PydanticCustomError("mistake", "{what}", {"what": what, "fix": fix})


class ProfileSpec(_Frozen):
    """Shapes of one input in one optimization profile, batch axis included."""

    min: list[_Positive]
    opt: list[_Positive]
    max: list[_Positive]


class CompileSpec(_Frozen):
    """How the engine is built."""

    optimization_level: int = Field(default=3, ge=0, le=5, description="TensorRT builder optimization level")
    workspace_mib: _Positive | None = Field(default=None, description="workspace limit; the whole GPU if not given")
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = Field(
        default="none", description="other GPUs that may run the plan"
    )
    version_compatible: bool = Field(default=False, description="later TensorRT of the same major may run the plan")
    sparse_weights: bool = Field(default=False, description="use 2:4 sparsity where the weights have it")
    refit: bool = Field(default=False, description="weights can be replaced later")
    strip: bool = Field(default=False, description="leave the weights out of the plan (TensorRT 10 and later)")
    dla_core: int | None = Field(default=None, ge=0, description="run on this DLA core, with the GPU as fallback")
    plugins: list[str] = Field(default=[], description="shared libraries with TensorRT plugins")
    architectures: list[Annotated[str, Field(pattern=r"^\d+\.\d$")]] = Field(
        default=[],
        description="compute capabilities whose plans are published together, such as 8.6 in quotes; this GPU's if empty",
    )
    timing_cache: Literal["read_write", "read_only", "off"] = Field(
        default="read_write", description="kept per GPU, TensorRT and CUDA version"
    )
    profiles: list[dict[str, ProfileSpec]] | None = Field(default=None, description="derived from batch if not given")


class CalibrationSpec(_Frozen):
    """How INT8 ranges are found."""

    method: Literal["minmax", "entropy"] = Field(default="entropy", description="how ranges are chosen")
    native: bool = Field(default=False, description="let TensorRT 8.6 calibrate instead of adding Q/DQ to the graph")


class AcceptSpec(_Frozen):
    """Thresholds of one output; those not given keep the precision's default."""

    relative: float | None = Field(default=None, ge=0, description="largest max|error| / max|expected| per sample")
    absolute: float | None = Field(default=None, ge=0, description="errors up to this always pass")
    cosine: float | None = Field(default=None, le=1, description="minimum cosine similarity per sample")
    top1: float | None = Field(default=None, ge=0, le=1, description="minimum share of samples with the same argmax")
    equal: float | None = Field(default=None, ge=0, le=1, description="minimum share of equal integers or texts")


class SloSpec(_Frozen):
    """The limits that a load test checks; ``slo: 50ms`` is short for ``{p99_ms: 50}``."""

    p99_ms: Annotated[float | None, Field(gt=0, allow_inf_nan=False, description="99th percentile of latency")] = None


_MS = {"us": "0.001", "ms": "1", "s": "1000"}


def _slo(value: Any) -> Any:
    """Read ``slo: 50ms``."""
    if isinstance(value, dict | BaseModel):
        return value
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s)\s*", str(value))
    if not found:
        raise mistake(f"'{value}' is not a latency", "write 50ms (also us, s), or {p99_ms: 50}")
    return {"p99_ms": scaled(found[1], _MS[found[2]])}


class ModelEntry(_Frozen):
    """One model's settings; `defaults` has the same keys."""

    enabled: bool = Field(default=True, description="false: built only when named on the command line")
    extends: str | None = Field(default=None, description="another model whose settings this one starts from")
    source: str | None = Field(
        default=None,
        description="zoo/NAME, a file in builders/zoo/; or the path of an ONNX file or of a Python file with a class Model",
    )
    file: str | None = Field(default=None, description="zoo/onnx: the ONNX file, relative to config.yaml")
    options: dict[str, Any] = Field(default={}, description="settings of the source")
    precision: Precision = Field(default="fp32", description="precision that the engine computes in")
    keep_fp32: list[str] = Field(default=[], description="nodes or operators that stay in FP32: name patterns with *")
    autocast: bool = Field(default=False, description="make FP16 and BF16 with ModelOpt's AutoCast (nvidia-modelopt)")
    batch: Annotated[
        BatchSpec, BeforeValidator(_batch, json_schema_input_type=BatchSpec | _Positive | Literal["none"])
    ] = BatchSpec()
    export: ExportSpec = ExportSpec()
    samples: SamplesSpec = SamplesSpec()
    calibration: CalibrationSpec = CalibrationSpec()
    compile: CompileSpec = CompileSpec()
    accept: dict[str, AcceptSpec] = Field(default={}, description="thresholds per output")
    score: dict[str, float] = Field(default={}, description="minimum task metric, such as accuracy: 0.97")
    serve: dict[str, Any] = Field(default={}, description="fields of Triton's ModelConfig")
    targets: dict[Target, dict[str, Any]] = Field(default={}, description="settings for one target only")
    io_int64: Literal["cast"] | None = Field(default=None, description="cast INT64 edges to INT32")
    slo: Annotated[SloSpec, BeforeValidator(_slo, json_schema_input_type=SloSpec | str)] = SloSpec()
    versions: _Positive = Field(default=1, description="how many of the newest versions are served")
    keep_versions: _Positive = Field(default=3, description="how many versions stay on disk")


def _profile(value: Any) -> str:
    return _checked(value, load_profile.parse, "a profile", f"write for example {load_profile.PROFILE_EXAMPLE}")


def _batch_sizes(value: Any) -> str:
    fix = "write one size, or several with weights: 1=8,16=2"
    return _checked(value, load_profile.batch_sizes, "a batch size", fix)


def _checked(value: Any, parse: Callable[[str], Any], what: str, fix: str) -> str:
    text = _plain(value)
    try:
        parse(text)
    except ValueError as error:
        raise mistake(f"'{text}' is not {what}: {error}", fix) from None
    return text


def _plain(value: Any) -> str:
    """Return a number as people write it, without an exponent or an empty fraction; other values as text."""
    return exact(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _weights(value: Any) -> Any:
    return load_profile.weights(value) if isinstance(value, str) else value


_Weights = Annotated[dict[str, Annotated[int, Field(ge=1, le=1_000_000)]], BeforeValidator(_weights)]
_Rate = Annotated[str, BeforeValidator(_profile, json_schema_input_type=str | float)]
_Users = Annotated[str | None, BeforeValidator(_profile, json_schema_input_type=str | int)]
_Batches = Annotated[str, BeforeValidator(_batch_sizes, json_schema_input_type=_Positive | str)]
_Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
_ONLY_IN = {"rate": ("poisson", "constant"), "users": ("closed",), "wait_s": ("closed",), "length_s": ("closed",)}


class ScenarioSpec(_Frozen):
    """One load test, chosen by PLANWRIGHT_SCENARIO; each setting can be overridden by a variable, such as PLANWRIGHT_RATE for ``rate``."""

    models: Annotated[_Weights, Field(description="models to load, with weights; all when left out")] = {}
    arrivals: Annotated[
        str,
        Field(description="closed, poisson, constant or trace:FILE", pattern=r"^(closed|poisson|constant|trace:.+)$"),
    ] = "closed"
    rate: Annotated[
        _Rate, Field(description="open loop: requests per second, or a profile such as 0-500:1m,500:5m")
    ] = "100"
    users: Annotated[
        _Users, Field(description="closed loop: a profile of users, such as 8:30s,64:5s,8:30s; --users when left out")
    ] = None
    batch: Annotated[_Batches, Field(description="samples per request; several with weights: 1=8,16=2")] = "1"
    check: Annotated[float | None, Field(ge=0, le=1, description="share of answers that are checked")] = None
    warmup_s: Annotated[_Seconds, Field(description="seconds at the start that do not count")] = 1.0
    wait_s: Annotated[
        _Seconds, Field(description="closed loop: think time, the seconds a user waits between requests")
    ] = 0.0
    length_s: Annotated[float, Field(ge=0, le=86400, description="closed loop: seconds that count; 0: no limit")] = 0.0
    timeout_s: Annotated[float, Field(ge=0.001, le=3600, description="limit of one request")] = 60.0
    seed: Annotated[int, Field(ge=0, le=1 << 31, description="of Poisson arrivals")] = 1

    @model_validator(mode="before")
    @classmethod
    def _given(cls, values: Any) -> Any:
        """Leave out what has no value: ``warmup_s:`` stands at its default."""
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if value is not None}

    @property
    def kind(self) -> str:
        """``closed``, ``poisson``, ``constant`` or ``trace``."""
        return self.arrivals.partition(":")[0]

    @staticmethod
    def unused(given: Iterable[str], arrivals: str) -> list[str]:
        """Return which of the settings `given` a load with these `arrivals` does not use; none where there are no such arrivals."""
        kind = arrivals.partition(":")[0]
        known = kind in ("closed", "poisson", "constant", "trace")
        return [name for name in given if known and kind not in _ONLY_IN.get(name, (kind,))]


def unused_fault(name: str, value: object, where: str = "", check: str = "") -> Fault:
    """Return the mistake of a setting, ``rate`` or ``PLANWRIGHT_RATE``, that the kind of load does not use."""
    key = name.removeprefix("PLANWRIGHT_").lower()
    kind = "a closed" if "closed" in _ONLY_IN[key] else "an open"
    arrivals = "PLANWRIGHT_ARRIVALS=" if key != name else "arrivals: "
    fix = f"{arrivals}{_ONLY_IN[key][0]}{'' if kind == 'a closed' else ' (or constant)'}, or leave it out"
    return Fault(f"{name} is '{value}', which is {kind} loop's setting", where, fix=fix, check=check)


class ConfigFile(_Frozen):
    """The whole file, for the JSON schema."""

    version: Literal[1]
    server: ServerSpec | Literal["embedded"] = "embedded"
    defaults: ModelEntry = ModelEntry()
    models: Annotated[dict[Annotated[str, Field(pattern=_NAME)], ModelEntry], Field(min_length=1)]
    loadtest: Annotated[dict[str, ScenarioSpec], Field(description="load tests by name")] = {}


class ModelSpec(ModelEntry):
    """One model as the stages see it: defaults, `extends` and the target's overlay already applied."""

    name: Annotated[str, Field(pattern=_NAME)]
    source: str
    _places: Any = PrivateAttr(default=None)
    _missing: tuple[Fault, ...] = PrivateAttr(default=())
    _precisions: tuple[str, ...] = PrivateAttr(default=())  # on all targets
    _config: Path = PrivateAttr(default=Path("config.yaml"))

    def command(self, program: str, *flags: str) -> str:
        """Return a command for this model, as an error suggests it: ``python -m builders search digits --config other.yaml``."""
        return shlex.join(["python", *program.split(), self.name, *flags, *config_flags(self._config)])

    def build_command(self, *flags: str) -> str:
        """Return the command that builds this model."""
        return self.command("builders/build_all.py", *flags)

    @property
    def calibrates(self) -> bool:
        """True where the precision, on this target or another, needs calibration samples."""
        return not {self.precision, *self._precisions}.isdisjoint(CALIBRATED)

    @property
    def missing(self) -> tuple[Fault, ...]:
        """Faults of files that this model names and that do not exist: only this model cannot be built."""
        return self._missing

    @property
    def code(self) -> str:
        """``zoo/NAME``, or the absolute path of the user's Python file."""
        return str((self._config.parent / self.source).resolve()) if self.source.endswith(".py") else self.source

    def where(self, *loc: str | int) -> str:
        """Return ``config.yaml:14  models.resnet50.batch.max: 32`` for a setting, given or inherited."""
        return str(self._places(*loc)) if self._places else f"models.{self.name}"

    def tolerance(self, output: str) -> Tolerance:
        """Return the tolerance for `output`: the precision's default, overridden by `accept`."""
        given = self.accept.get(output, AcceptSpec()).model_dump(exclude_none=True)
        return replace(DEFAULTS[self.precision], **given)


class RepositorySpec(_Frozen):
    """The whole config.yaml, for one target."""

    path: Path
    root: Path
    target: Target
    server: ServerSpec
    models: tuple[ModelSpec, ...]

    def names(self) -> list[str]:
        """Return all model names, enabled or not."""
        return [model.name for model in self.models]
