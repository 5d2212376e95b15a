"""``tune --write``: the found setting in config.yaml.

In      config.yaml, the model, the setting.
Out     config.yaml with that setting below ``models.<name>``, and the difference on the terminal.

Only the values that differ are touched (`yaml_edit`), where they stand: below ``targets.<target>`` if the model sets them there.
No batcher is written as ``dynamic_batching: null``, which also overrides an inherited one. Afterwards the file must load
again and mean the setting, and no model but this one and those that extend it may have changed; else the old bytes are put
back.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from measure.operating_point.setting import Setting
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
    """See, before anything is measured, that there is a config.yaml with this model.

    Raises:
        SpecError: There is not (exit 2).
    """
    names = load_spec(config, target, select=[model] if model in _names(config) else []).names()
    if model not in names:
        raise SpecError(Fault(f"there is no model '{model}' in {config}", fix=did_you_mean(model, names)))


def write(config: Path, model: str, target: Target, setting: Setting) -> bool:
    """Write `setting` for `model`; returns whether anything had to be changed.

    Raises:
        PlanwrightError: The file would not mean what it should; it is as it was.
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
        touched = _prove(spec, load_spec(config, target, select=[model]), model, setting)
    except BaseException:
        write_atomic(file, before, mode)
        raise
    _tell(config, before.decode(), text, model, touched)
    return True


def edits(model: ModelSpec, own: Mapping[str, Any], target: str, setting: Setting) -> Iterator[Edit]:
    """Yield (keys below the model, value) of everything that has to change.

    Args:
        model: What holds now, defaults and inheritance included.
        own: What stands in the file below the model itself.
        target: Where an overlay may set it.
        setting: What shall hold.
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
    """Change the count alone where it stands, so that a kind beside it stays."""
    here = _get(own, place)
    if isinstance(here, list) and len(here) == 1 and isinstance(here[0], dict):
        return (*place, 0, "count"), count
    first = dict(groups[0]) if groups and isinstance(groups[0], dict) else {}
    return place, [{**first, "count": count}]


def _batching_edits(own: Mapping[str, Any], place: Keys, old: Any, setting: Setting) -> Iterator[Edit]:
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
    return overlay if _has(own, overlay) else (section, key)


def _has(own: Any, keys: Keys) -> bool:
    for key in keys:
        if not isinstance(own, dict) or key not in own:
            return False
        own = own[key]
    return True


def _get(own: Any, keys: Keys) -> Any:
    for key in keys:
        own = own.get(key) if isinstance(own, dict) else None
    return own


def _count(serve: Mapping[str, Any]) -> int:
    groups = serve.get("instance_group")
    return sum(group.get("count", 1) for group in groups) if groups else 1


def _batching(value: Any) -> tuple[int, tuple[int, ...]] | None:
    if value is None:
        return None
    return int(value.get("max_queue_delay_microseconds", 0)), tuple(value.get("preferred_batch_size", []))


def _wanted(setting: Setting) -> tuple[int, tuple[int, ...]] | None:
    return None if setting.delay_us is None else (setting.delay_us, setting.preferred)


def _prove(before: RepositorySpec, after: RepositorySpec, name: str, setting: Setting) -> list[str]:
    """Return the other models that changed because they extend this one.

    Raises:
        PlanwrightError: The setting does not hold, or another model changed too.
    """
    model = _model(after, name)
    holds = _count(model.serve) == setting.instances and _batching(model.serve.get("dynamic_batching")) == _wanted(
        setting
    )
    if not holds or setting.max_batch not in (0, model.batch.largest):
        raise PlanwrightError(_unchanged(after.path, name, "the file would not mean the setting", setting))
    changed = [m.name for m in after.models if m.name != name and m.model_dump() != _model(before, m.name).model_dump()]
    strangers = [other for other in changed if not _extends(after, other, name)]
    if strangers:
        raise PlanwrightError(_unchanged(after.path, name, f"it would change {', '.join(strangers)} too", setting))
    return changed


def _unchanged(path: Path, name: str, why: str, setting: Setting) -> Fault:
    fix = f"write it by hand below models.{name}: {yaml_edit.flow(setting.fields())}"
    return Fault(f"{path} stays as it was", f"{path}  models.{name}", why, fix)


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


def _tell(config: Path, before: str, after: str, model: str, touched: list[str]) -> None:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), str(config), str(config), n=2, lineterm="")
    console.say("\n".join(lines))
    if touched:
        console.say(f"this also holds for what extends {model}: {', '.join(touched)}")
    console.say(f"publish it: python builders/build_all.py {' '.join([model, *touched])}")
