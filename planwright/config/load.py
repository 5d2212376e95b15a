"""config.yaml → frozen `RepositorySpec`, with every fault found in one pass.

In      the file's path and the target.
Out     `RepositorySpec`, or one `SpecError` that carries all faults, each with file, line, reason and fix.

Order: read with lines, merge defaults → extends → model → targets.<target>, validate each merged model with pydantic,
then check what needs more than one key. A fault inherited through `extends` is reported once.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from planwright import console
from planwright.config import named_files, serve_fields, serve_rules
from planwright.config.spec import (
    _NAME,
    CALIBRATED,
    EMBEDDED_SERVER,
    LONGEST_NAME,
    RENAMED,
    ModelEntry,
    ModelSpec,
    RepositorySpec,
    ScenarioSpec,
    ServerSpec,
    Target,
    config_flags,
    unused_fault,
)
from planwright.config.yaml_lines import Loc, Located, as_mapping, load_located, overlay
from planwright.decimals import exact
from planwright.errors import Fault, SpecError, did_you_mean
from planwright.files import ROOT

_TOP = ("version", "server", "defaults", "models", "loadtest")

FileCheck = Callable[[ModelSpec, Path], list[Fault]]


def load_spec(
    path: Path,
    target: Target,
    *,
    select: Iterable[str] = (),
    flags: Mapping[str, str] | None = None,
    further: FileCheck | None = None,
) -> RepositorySpec:
    """Read, merge and validate config.yaml for one target.

    Args:
        path: The file.
        target: ``onnxruntime`` or ``tensorrt``.
        select: Models whose target rules matter; all enabled ones when empty.
        flags: The flags that named models, for errors: ``{"digits": "--random-weights digits"}``.
        further: Checks the files of a model, given the model and the folder of config.yaml.

    Raises:
        SpecError: With every fault in the file.
    """
    loader = _Loader(path, target)
    for note in loader.notes:
        console.warn(note)
    models = loader.models()
    server = loader.server()
    loader.scenarios()
    chosen = set(select) or {model.name for model in models if model.enabled}
    loader.check_selection(chosen, flags or {})
    for model in models:
        if model.name in chosen:
            loader.check_target(model, server)
            loader.faults += further(model, path.parent) if further else []
    if loader.faults:
        raise SpecError(*loader.distinct())
    return RepositorySpec(path=path, root=path.parent, target=target, server=server, models=tuple(models))


def load_scenarios(path: Path) -> dict[str, ScenarioSpec]:
    """Read and validate the ``loadtest`` part of config.yaml.

    Raises:
        SpecError: The file cannot be read, or that part has faults.
    """
    loader = _Loader(path, "onnxruntime")
    found = loader.scenarios()
    if loader.faults:
        raise SpecError(*loader.distinct())
    return found


def server_version(server: ServerSpec) -> tuple[int, int]:
    """Return (major, minor) of the server that the repository is made for.

    Triton's releases are monthly and so are its minors: 24.10 is 2.51, 26.06 is 2.70. Source: TRITON_VERSION on each
    release branch; the one month without a new minor is in `_SKIPPED`.
    """
    if server.embedded:
        major, minor, _ = EMBEDDED_SERVER.split(".")
        return int(major), int(minor)
    tag = re.search(r":(\d\d)\.(\d\d)", server.image or "")
    if not tag:
        return 2, 999  # an unknown tag: assume a new image
    months = (int(tag[1]) - 24) * 12 + int(tag[2]) - 10
    return 2, 51 + months - sum(months >= skipped for skipped in _SKIPPED)


# Months since 24.10 whose release kept the minor of the month before: 25.06 is 2.59.0 and 25.07 is 2.59.1.
_SKIPPED = (9,)


class _Loader:
    """Collects faults while the file is turned into specs."""

    def __init__(self, path: Path, target: Target) -> None:
        self.path, self.target = path, target
        self.faults: list[Fault] = []
        root = self.root = load_located(path, self.faults)
        self.notes = list(_rename(path, root))
        for key in set(as_mapping(root)) - set(_TOP):
            self._fault(f"unknown key '{key}'", (key,), fix=did_you_mean(key, _TOP))
        version = root.plain().get("version")
        if version is None:
            self._fault("the file must state its format version", ("version",), fix="begin with 'version: 1'")
        elif version != 1:
            what = f"unsupported config version {version}; this release supports version 1"
            self._fault(what, ("version",), fix="begin with 'version: 1'")

    def _fault(self, what: str, loc: Loc, why: str = "", fix: str = "") -> None:
        place = f"{self.path}:{self.root.line_of(loc)}"
        self.faults.append(Fault(what, f"{place}  {'.'.join(map(str, loc))}", why, fix, self._check))

    def distinct(self) -> list[Fault]:
        """Return the faults in file order; one inherited through `defaults` or `extends` is reported once."""
        found: dict[tuple[str, str], Fault] = {}
        for fault in self.faults:
            found.setdefault((fault.what, fault.where.split(" ")[0]), fault)
        return sorted(found.values(), key=_line)

    @property
    def _check(self) -> str:
        return shlex.join(["python", "builders/build_all.py", "--plan", *config_flags(self.path)])

    def server(self) -> ServerSpec:
        """Return the server that the repository is made for; by default the embedded one."""
        node = self.root.get("server")
        if node is None or node.plain() == "embedded":
            return ServerSpec()
        if not isinstance(node.value, dict):
            what = "server must be 'embedded' or a mapping with image and tensorrt"
            self._fault(what, ("server",), fix="server: embedded")
            return ServerSpec()
        try:
            spec = ServerSpec.model_validate(node.plain())
            spec._place = f"{self.path}:{node.line}"
            return spec
        except ValidationError as error:
            self._pydantic(error, node, ("server",))
            return ServerSpec()

    def models(self) -> list[ModelSpec]:
        defaults = self.root.get("defaults")
        if defaults is not None:
            self._validate_entry(defaults)
        node = self.root.get("models")
        entries = as_mapping(node)
        if not entries:
            what = f"{self.path.name} has no models"
            if node is not None and node.value is not None and not isinstance(node.value, dict):
                what = "'models' must be a mapping of model names to settings"
            self._fault(what, ("models",), fix="add one below 'models:', see docs/config.md")
        found = (self._model(name) for name in entries)
        return [model for model in found if model is not None]

    def scenarios(self) -> dict[str, ScenarioSpec]:
        node = self.root.get("loadtest")
        if node is not None and not isinstance(node.value, dict):
            fix = "peak: {arrivals: poisson, rate: 500}"
            self._fault("loadtest must be a mapping of load tests", ("loadtest",), fix=fix)
            return {}
        found: dict[str, ScenarioSpec] = {}
        for name, entry in as_mapping(node).items():
            try:
                found[name] = ScenarioSpec.model_validate(entry.plain())
            except ValidationError as error:
                self._pydantic(error, entry, ("loadtest", name))
            given = {key: each.plain() for key, each in as_mapping(entry).items() if each.value is not None}
            for key in ScenarioSpec.unused(given, str(given.get("arrivals", "closed"))):
                place = f"{self.path}:{entry.line_of((key,))}  loadtest.{name}.{key}"
                self.faults.append(unused_fault(key, given[key], place, self._check))
        return found

    def _validate_entry(self, node: Located) -> None:
        try:
            TypeAdapter(ModelEntry).validate_python(_expanded(node).plain())
        except ValidationError as error:
            self._pydantic(error, _expanded(node), ("defaults",))

    def _model(self, name: str) -> ModelSpec | None:
        merged = self._merged(name, ())
        if not re.match(_NAME, name):
            why = "the server uses the name in a shell command, and folders are named after it"
            fix = f"use letters, digits, . _ -, at most {LONGEST_NAME} of them"
            self._fault(f"'{name}' is not a valid model name", ("models", name), why, fix)
            return None
        if merged is None:
            return None
        if not isinstance(merged.value, dict):
            self._fault(f"model '{name}' must be a mapping", ("models", name), fix="source: zoo/digits")
            return None
        bad_overlays = [k for k in as_mapping(merged.get("targets")) if k not in ("onnxruntime", "tensorrt")]
        overlays = {key: node for key, node in as_mapping(merged.get("targets")).items() if node.value is not None}
        for key, node in overlays.items():
            if not isinstance(node.value, dict):
                self._fault(f"targets.{key} must be a mapping", ("models", name, "targets", key), fix="precision: fp32")
                return None
        precisions = tuple(node.text_of(("precision",)) for node in (merged, *overlays.values()))
        if self.target in overlays and not bad_overlays:
            merged = overlay(merged, _expanded(overlays[self.target]))
        spec = self._validated(name, merged)
        if spec is not None:
            spec._precisions = precisions
        return spec

    def _merged(self, name: str, seen: tuple[str, ...]) -> Located | None:
        entries = as_mapping(self.root.get("models"))
        node = _expanded(entries[name])
        parent = node.get("extends")
        base = _expanded(self.root.value["defaults"]) if "defaults" in self.root.value else None
        if parent is not None:
            chain, place = [*seen, name], ("models", name, "extends")
            known = [other for other in entries if other not in chain]
            if parent.value in chain:
                fix = f"extend another model ({', '.join(known)})" if known else "remove one 'extends'"
                self._fault("circular 'extends'", place, " extends ".join([*chain, str(parent.value)]), fix)
                return None
            if parent.value not in known:
                self._fault(f"cannot extend '{parent.value}'", place, fix=did_you_mean(str(parent.value), known))
                return None
            base = self._merged(str(parent.value), (*seen, name))
            if base is not None and base.get("enabled"):
                base = Located({k: v for k, v in base.value.items() if k not in ("enabled", "extends")}, base.line)
        return overlay(base, node)

    def _validated(self, name: str, merged: Located) -> ModelSpec | None:
        def places(*loc: str | int) -> str:
            value = merged.text_of(loc)
            path = ".".join(["models", name, *map(str, loc)])
            return f"{self.path}:{merged.line_of(loc)}  {path}" + (f": {value}" if value else "")

        values = merged.plain()
        self._check_raw(values, places)
        missing = list(named_files.faults(values, self.path.parent, places, self._check))
        try:
            spec = ModelSpec.model_validate({**values, "name": name})
        except ValidationError as error:
            self._pydantic(error, merged, ("models", name))
            self.faults += missing
            return None
        spec._places, spec._missing, spec._config = places, tuple(missing), self.path
        self.faults += [*_profile_faults(spec), *_batch_faults(spec)]
        self.faults += serve_rules.batch_faults(spec.serve, spec.batch.served_max, spec.where)
        return spec

    def _pydantic(self, error: ValidationError, node: Located, prefix: Loc) -> None:
        for item in error.errors():
            loc = tuple(part for part in item["loc"] if node.line_of((part,)) or part)
            place = f"{self.path}:{node.line_of(loc)}  {'.'.join(map(str, (*prefix, *loc)))}"
            what, fix = explain(item, loc, _FORMS.get(str(prefix[0]), ModelEntry))
            self.faults.append(Fault(what, place, "", fix, self._check))

    def _check_raw(self, values: dict[str, Any], where: Callable[..., str]) -> None:
        """Check what can be checked even where the entry has other faults, so that all are reported at once."""
        serve = values.get("serve")
        if isinstance(serve, dict):
            self.faults += serve_fields.faults(serve, where) + serve_rules.faults(serve, where)
        if isinstance(values.get("source"), str):
            self.faults += _source_faults(values, where)

    def check_selection(self, chosen: set[str], flags: Mapping[str, str]) -> None:
        known = list(as_mapping(self.root.get("models")))
        for name in sorted(chosen - set(known)):
            what, where = f"there is no model '{name}' in {self.path}", flags.get(name, "")
            self.faults.append(Fault(what, where, fix=did_you_mean(name, known)))

    def check_target(self, model: ModelSpec, server: ServerSpec) -> None:
        """Add the faults of a model that come from this target, server or version."""
        add = self.faults.extend
        add(serve_fields.target_faults(model.serve, self.target, model.where))
        add(serve_fields.embedded_faults(model.serve, model.where) if server.embedded else [])
        add(serve_fields.version_faults(model.serve, server_version(server), model.where))
        if self.target == "tensorrt" and server.image and not server.tensorrt:
            why = "a plan loads only with the TensorRT version that built it, and every image has another one"
            fix = f"add all four parts of it; to find it: docker run --rm {server.image} sh -c 'dpkg -l | grep libnvinfer'"
            add([Fault("server.tensorrt is missing", f"{server.where}  server", why, fix, self._check)])
        if model.precision in CALIBRATED and not model.samples.calibration:
            what = f"{model.precision} without calibration samples"
            why = f"{model.precision} needs them to find its ranges"
            fix = "raise samples.calibration (at least 500 recommended), or choose another precision"
            add([Fault(what, model.where("samples", "calibration"), why, fix, self._check)])
        if self.target == "onnxruntime" and model.precision == "int8" and model.calibration.native:
            what = "calibration.native needs TensorRT 8.6"
            why = "without Q/DQ in the graph onnxruntime computes in FP32"
            fix = "leave it out for this target"
            add([Fault(what, model.where("calibration", "native"), why, fix, self._check)])
        if self.target == "onnxruntime" and model.precision in ("fp16", "bf16", "tf32", "fp8"):
            fix = "add below the model\n  targets:\n    onnxruntime: {precision: fp32}"
            why = f"ONNX Runtime on the CPU does not compute in {model.precision}"
            what = f"onnxruntime cannot serve {model.precision}"
            add([Fault(what, model.where("precision"), why, fix, self._check)])


def _rename(path: Path, root: Located) -> Iterator[str]:
    """Give the keys of `RENAMED` their present names, in place, and yield a note for each."""
    entries = [root.get("defaults"), *as_mapping(root.get("models")).values()]
    overlays = [node for entry in entries if entry for node in as_mapping(entry.get("targets")).values()]
    for entry in filter(None, [*entries, *overlays]):
        for old, new in RENAMED.items():
            if entry.get(old) and not entry.get(new):
                entry.value[new] = entry.value.pop(old)
                yield f"{path}:{entry.value[new].line}  '{old}' is now '{new}'; the next release will not accept the old name"


def _source_faults(values: dict[str, Any], where: Callable[..., str]) -> list[Fault]:
    source = values["source"]
    zoo = ROOT / "builders" / "zoo"
    names = sorted(f"zoo/{file.stem}" for file in zoo.glob("[a-z]*.py"))
    if zoo.is_dir() and source not in names and not source.endswith(".py"):
        return [Fault(f"there is no source '{source}'", where("source"), fix=did_you_mean(source, names))]
    if source == "zoo/onnx" and not values.get("file"):
        return [Fault("zoo/onnx needs a file", where("source"), fix="add 'file: my.onnx'")]
    return []


def _line(fault: Fault) -> int:
    digits = re.search(r":(\d+)( |$)", fault.where)
    return int(digits[1]) if digits else 0


def _expanded(node: Located) -> Located:
    """Expand short forms, so that they merge with the others.

    ``samples: file.npz`` is ``samples: {file: file.npz}``; ``source: models/half.onnx`` is ``source: zoo/onnx`` with ``file``.
    """
    samples, source = node.get("samples"), node.get("source")
    longer: dict[str, Located] = {}
    if samples is not None and isinstance(samples.value, str):
        longer["samples"] = Located({"file": samples}, samples.line)
    if source is not None and isinstance(source.value, str) and _names_a_file(source.value) and not node.get("file"):
        longer |= {"source": Located("zoo/onnx", source.line), "file": source}
    return Located({**as_mapping(node), **longer}, node.line) if longer else node


def _names_a_file(source: str) -> bool:
    """True for ``models/half.onnx``, false for ``zoo/half`` and for ``models/half.py``, which is code like a zoo file."""
    return not source.endswith(".py") and (bool(Path(source).suffix) or source.startswith(("./", "../", "/")))


_FORMS: dict[str, Any] = {"loadtest": ScenarioSpec, "server": ServerSpec}


def explain(item: Any, loc: Loc, form: Any) -> tuple[str, str]:
    """Turn one pydantic error into (what, fix) in the words of the file."""
    key = str(loc[-1]) if loc else ""
    subject = f"weight of '{key}'" if loc[:-1] == ("models",) else f"'{key}'"
    shown = "nothing" if item["input"] is None else repr(item["input"])
    given = "" if isinstance(item["input"], dict | list) else f"; got {shown}"
    if item["type"] == "extra_forbidden":
        return f"unknown key '{key}'", did_you_mean(key, _known_keys(loc[:-1], form))
    if item["type"] == "missing":
        return f"'{key}' is missing", f"add '{key}:'"
    if item["type"] == "mistake":
        return f"'{key}': {item['msg']}", str(item["ctx"]["fix"])
    if item["type"] == "string_pattern_mismatch":
        words = re.findall(r"[a-z]+(?=[|:)])", item["ctx"]["pattern"])
        fix = f"use {_field(loc, form).description}" if words else f"it must match {item['ctx']['pattern']}"
        return f"'{key}' cannot be {item['input']!r}", fix
    if item["type"] == "literal_error":
        return f"{subject} must be {item['ctx']['expected']}{given}", f"use {item['ctx']['expected']}"
    for bound, comparison in _BOUNDS.items():
        if bound in item.get("ctx", {}):
            limit = f"{comparison} {exact(item['ctx'][bound])}"
            return f"{subject} must be {limit}{given}", f"use a number that is {limit}"
    kind, example = _KINDS.get(item["type"].partition("_")[0], ("", ""))
    if kind:
        field = _field(loc, form)
        default = getattr(field, "default", None)
        if isinstance(default, int | float) and not isinstance(default, bool):
            example = f"{kind}, such as {exact(default)}"
        return f"{subject} must be {kind}{_range(field)}{given}", f"use {example or kind}"
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{subject}: {message[0].lower()}{message[1:]}{given}", "see docs/config.md"


# the beginning of pydantic's error type -> what a value must be, an example
_KINDS = {
    "int": ("an integer", ""), "float": ("a number", "a number, such as 0.05"),
    "finite": ("a finite number", ""), "bool": ("true or false", ""), "string": ("text", ""),
    "list": ("a list", "a list: [...]"), "dict": ("a mapping", "a mapping: {key: ...}"), "model": ("a mapping", "a mapping: {key: ...}"),
}  # fmt: skip
_BOUNDS = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "less than"}


def _range(field: Any) -> str:
    """Return `` between 0 and 1`` for a field with both limits."""
    limits = {
        name: getattr(each, name)
        for each in getattr(field, "metadata", ())
        for name in ("ge", "le")
        if hasattr(each, name)
    }
    return f" between {exact(limits['ge'])} and {exact(limits['le'])}" if len(limits) == 2 else ""


def _field(loc: Loc, form: Any) -> Any:
    """Return pydantic's description of a field of `form`, None where `loc` names something else."""
    found: Any = None
    for part in loc:
        found = getattr(form, "model_fields", {}).get(part)
        form = getattr(found, "annotation", None)
    return found


def _known_keys(loc: Loc, form: Any) -> list[str]:
    model: Any = form
    for part in loc:
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field is not None else model
    fields = getattr(model, "model_fields", None)
    return list(fields) if fields else list(form.model_fields)


def _profile_faults(model: ModelSpec) -> list[Fault]:
    found = []
    for index, profile in enumerate(model.compile.profiles or []):
        for tensor, shapes in profile.items():
            loc = ("compile", "profiles", index, tensor)
            ordered = all(a <= b <= c for a, b, c in zip(shapes.min, shapes.opt, shapes.max, strict=False))
            if not ordered or not len(shapes.min) == len(shapes.opt) == len(shapes.max):
                what, fix = "a profile needs min <= opt <= max", "order the three shapes"
                found.append(Fault(what, model.where(*loc), fix=fix))
    high = model.batch.largest
    reach = [s.max[0] for profile in model.compile.profiles or [] for s in profile.values() if s.max]
    if reach and max(reach) < high:
        why = f"they end at batch {max(reach)}, {model.where('batch', 'max')} needs {high}"
        fix = f"raise the profile's max to {high}, or lower batch.max to {max(reach)}"
        found.append(Fault("the profiles contradict max_batch_size", model.where("compile", "profiles"), why, fix))
    return found


def _batch_faults(model: ModelSpec) -> list[Fault]:
    if model.serve.get("sequence_batching") is not None and (model.batch.fixed or 1) > 1:
        why = f"a request of a sequence is one sample; {model.where('batch', 'fixed')}"
        what, fix = "a sequence model cannot have a fixed batch", "remove sequence_batching, or write batch: {fixed: 1}"
        return [Fault(what, model.where("serve", "sequence_batching"), why, fix)]
    if model.serve.get("dynamic_batching") is None:
        return []
    if model.batch.fixed is not None or not model.batch.axis:
        kind, key = ("a fixed batch", ("fixed",)) if model.batch.axis else ("a model without a batch axis", ())
        why = f"each request is one run of the engine, so the server has nothing to batch; {model.where('batch', *key)}"
        what, fix = f"dynamic batching requested for {kind}", "remove dynamic_batching, or give batch: {max: ...}"
        return [Fault(what, model.where("serve", "dynamic_batching"), why, fix)]
    return []
