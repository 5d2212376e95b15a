"""rollback: one step back.

In      a published model.
Out     the config.pbtxt that was served before, by rename; version folders stay as they are.

One step is the last change of `serve` where only that changed, else the last new version.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builders.repository import revisions
from builders.repository.versions import Published
from planwright import integrity
from planwright.config_pbtxt import parse
from planwright.errors import Fault, PlanwrightError, SpecError, did_you_mean
from planwright.integrity import CONFIG


@dataclass(frozen=True)
class RollbackResult:
    """What a rollback did: the versions served before and now, and the fields of config.pbtxt that changed."""

    model: str
    before: int
    now: int
    fields: list[str]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "change": "serve" if self.before == self.now else "version"}

    def __str__(self) -> str:
        if self.before == self.now:
            return f"{self.model}: version {self.now} is served with its earlier {', '.join(self.fields)}"
        return f"{self.model}: version {self.now} is served instead of {self.before}"


def rollback(repository: Path, model: str) -> RollbackResult:
    """Serve what was served before the last publish; raises SpecError for an unknown model, PlanwrightError if nothing older is whole."""
    published = Published(repository / model)
    if not published.exists:
        if integrity.published(published.folder):
            lost = integrity.config_damage(published.folder, ())
            raise PlanwrightError(*(integrity.fault(model, each) for each in lost))
        known = [path.parent.name for path in repository.glob(f"*/{CONFIG}")]
        what = f"there is no published model '{model}'"
        nothing = f"nothing is published yet; run python builders/build_all.py {model}"
        raise SpecError(Fault(what, str(repository), fix=did_you_mean(model, known) if known else nothing))
    now = revisions.read(published.folder)
    before, config = published.served(), published.config()
    state = now.earlier() if now is not None else None
    while state is not None and not _whole(published, state):
        state = state.earlier()
    if state is None:
        raise PlanwrightError(_stuck(published, bool(now and now.past)))
    revisions.write(published.folder, state)
    fields = _differing(config, parse(state.body))
    return RollbackResult(model, before[-1] if before else 0, state.versions[-1], fields)


def _whole(published: Published, state: revisions.Revision) -> bool:
    return bool(state.versions) and all(map(published.whole, state.versions))


def _differing(before: Any, now: Any) -> list[str]:
    fields = sorted(field.name for field in now.DESCRIPTOR.fields if field.name != "version_policy")
    return [name for name in fields if before is None or getattr(before, name) != getattr(now, name)]


def _stuck(published: Published, older: bool) -> Fault:
    served = published.served()
    none = "all older versions are incomplete" if older else "none is older"
    why = f"versions on disk: {', '.join(map(str, published.versions()))}; {none}"
    what = f"{published.folder.name} cannot roll back version {served[-1] if served else 0}"
    return Fault(what, str(published.folder), why, "build the earlier state again from its config.yaml")
