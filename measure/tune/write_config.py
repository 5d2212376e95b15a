"""``tune --write``: put the picked setting into config.yaml.

In      config.yaml, the model, the setting.
Out     config.yaml with that setting below ``models.<name>``, and the diff on the terminal.

Only the values that differ are changed (`yaml_edit`), where they are set: below ``targets.<target>`` if the model sets them there.
No batcher is written as ``dynamic_batching: null``, which also overrides an inherited one. Afterwards the file must load
again and yield the setting, and only this model and those that extend it may have changed; else the old bytes are restored.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from measure.operating_point.setting import ServingSetting
from measure.tune import yaml_edit
from planwright import console
from planwright.config.load import load_spec
from planwright.config.spec import ModelSpec, RepositorySpec, Target
from planwright.config.yaml_lines import as_mapping, load_located
from planwright.errors import Fault, PlanwrightError, SpecError, did_you_mean
from planwright.files import write_atomic

Keys = tuple[str | int, ...]
Edit = tuple[Keys, Any]


def check(config: Path, model: str, target: Target) -> None:
    """Check, before anything is measured, that config.yaml has this model.

    Raises:
        SpecError: It has not (exit 2).
    """
    names = load_spec(config, target, select=[model] if model in _names(config) else []).names()
    if model not in names:
        raise SpecError(Fault(f"there is no model '{model}' in {config}", fix=did_you_mean(model, names)))


def write(config: Path, model: str, target: Target, setting: ServingSetting) -> bool:
    """Write `setting` for `model`; returns whether anything had to be changed.

    Raises:
        PlanwrightError: The edited file would not yield the setting; it is unchanged.
    """
    file = config.resolve()
    before, spec = file.read_bytes(), load_spec(config, target, select=[model])
    text = before.decode()
    for keys, value in edits(_model(spec, model), _own(config, model), target, setting):
        text = yaml_edit.put(text, ("models", model, *keys), value)
    if text.encode() == before:
        console.say(f"{config} already has this setting")
        return False
    mode = file.stat().st_mode & 0o777
    write_atomic(file, text.encode(), mode)
    try:
        touched = _verify(spec, load_spec(config, target, select=[model]), model, setting)
    except BaseException:
        write_atomic(file, before, mode)
        raise
    _show(config, before.decode(), text, model, touched)
    return True


def edits(model: ModelSpec, own: Mapping[str, Any], target: str, setting: ServingSetting) -> Iterator[Edit]:
    """Yield (keys below the model, value) of everything that has to change.

    Args:
        model: The current values, with defaults and inheritance.
        own: The entry of the model itself in the file.
        target: The target whose overlay may set them.
        setting: The desired setting.
    """
    serve = model.serve
    groups = serve.get("instance_group") or []
    if _count(serve) != setting.instances:
        place = _place(own, target, "serve", "instance_group")
        yield _counted(own, place, setting.instances, groups)
    batching = serve.get("dynamic_batching")
    if _batching(batching) != _wanted(setting):
        yield from _batching_edits(own, _place(own, target, "serve", "dynamic_batching"), batching, setting)
    if setting.max_batch not in (0, model.batch.largest):
        if model.batch.bounds[1] > setting.max_batch and model.batch.opt is not None:
            yield _place(own, target, "batch", "opt"), setting.max_batch
        yield _place(own, target, "batch", "max"), setting.max_batch


def _counted(own: Mapping[str, Any], place: Keys, count: int, groups: list[Any]) -> Edit:
    """Change only the count where there is one, so that a kind beside it stays."""
    here = _get(own, place)
    if isinstance(here, list) and len(here) == 1 and isinstance(here[0], dict):
        return (*place, 0, "count"), count
    first = dict(groups[0]) if groups and isinstance(groups[0], dict) else {}
    return place, [{**first, "count": count}]


def _batching_edits(own: Mapping[str, Any], place: Keys, old: Any, setting: ServingSetting) -> Iterator[Edit]:
    if setting.delay_us is None:
        yield place, None
        return
    kept = {key: value for key, value in (old or {}).items() if key != "preferred_batch_size"}
    here = _get(own, place)
    if isinstance(here, dict) and here and kept == here:
        yield (*place, "max_queue_delay_microseconds"), setting.delay_us
        if setting.preferred:
            yield (*place, "preferred_batch_size"), list(setting.preferred)
        return
    sizes = {"preferred_batch_size": list(setting.preferred)} if setting.preferred else {}
    yield place, {**sizes, **kept, "max_queue_delay_microseconds": setting.delay_us}


def _place(own: Mapping[str, Any], target: str, section: str, key: str) -> Keys:
    overlay: Keys = ("targets", target, section, key)
    return (section, key) if _get(own, overlay) is _MISSING else overlay


_MISSING = object()


def _get(own: Any, keys: Keys) -> Any:
    for key in keys:
        own = own.get(key, _MISSING) if isinstance(own, dict) else _MISSING
    return own


def _count(serve: Mapping[str, Any]) -> int:
    groups = serve.get("instance_group")
    return sum(group.get("count", 1) for group in groups) if groups else 1


def _batching(value: Any) -> tuple[int, tuple[int, ...]] | None:
    if value is None:
        return None
    return int(value.get("max_queue_delay_microseconds", 0)), tuple(value.get("preferred_batch_size", []))


def _wanted(setting: ServingSetting) -> tuple[int, tuple[int, ...]] | None:
    return None if setting.delay_us is None else (setting.delay_us, setting.preferred)


def _verify(before: RepositorySpec, after: RepositorySpec, name: str, setting: ServingSetting) -> list[str]:
    """Return the other models that changed because they extend this one.

    Raises:
        PlanwrightError: The setting does not hold, or another model changed too.
    """
    model = _model(after, name)
    batching = _batching(model.serve.get("dynamic_batching"))
    same = _count(model.serve) == setting.instances and batching == _wanted(setting)
    if not same or setting.max_batch not in (0, model.batch.largest):
        raise PlanwrightError(_unchanged(after.path, name, "the file would not yield the setting", setting))
    changed = [m.name for m in after.models if m.name != name and m.model_dump() != _model(before, m.name).model_dump()]
    unrelated = [other for other in changed if not _extends(after, other, name)]
    if unrelated:
        raise PlanwrightError(_unchanged(after.path, name, f"it would change {', '.join(unrelated)} too", setting))
    return changed


def _unchanged(path: Path, name: str, why: str, setting: ServingSetting) -> Fault:
    fix = f"write it by hand below models.{name}: {yaml_edit.flow(setting.fields())}"
    return Fault(f"{path} is unchanged", f"{path}  models.{name}", why, fix)


def _extends(spec: RepositorySpec, name: str, ancestor: str) -> bool:
    parent = _model(spec, name).extends
    return parent is not None and (parent == ancestor or _extends(spec, parent, ancestor))


def _model(spec: RepositorySpec, name: str) -> ModelSpec:
    return next(model for model in spec.models if model.name == name)


def _names(config: Path) -> list[str]:
    return list(as_mapping(load_located(config).get("models")))


def _own(config: Path, model: str) -> dict[str, Any]:
    found: dict[str, Any] = load_located(config).plain()["models"][model]
    return found


def _show(config: Path, before: str, after: str, model: str, touched: list[str]) -> None:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), str(config), str(config), n=2, lineterm="")
    console.say("\n".join(lines))
    if touched:
        console.say(f"this also changes the models that extend {model}: {', '.join(touched)}")
    console.say(f"publish it: python builders/build_all.py {' '.join([model, *touched])}")
