"""config.pbtxt with its history, so that a change of `serve` can be rolled back.

In      the text of a model's config.pbtxt, or what `builders.repository.config_pbtxt` rendered.
Out     `Revision`: what Triton reads, and as comments a hash of the file and each text that was served before.

One file holds all of it, so one rename changes all of it, and a kill leaves the old state or the new one. Files beside
config.pbtxt would not work: in explicit mode Triton changes instance counts in place only while nothing else in the
model's folder is newer than what it loaded (ModelTimestamp in core's model_repository_manager.cc). A config.pbtxt of an
earlier Planwright has no history: the config.pbtxt in its older version folders is used instead.
"""

from __future__ import annotations

import base64
import os
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

from planwright.config_pbtxt import parse as parse_config
from planwright.config_pbtxt import specific
from planwright.files import write_atomic
from planwright.integrity import CONFIG, config_damage, read_text, seal, text_hash, unsealed, versions_in

KEPT = 20  # earlier texts; one takes about 400 characters
# packed, so that a search for a field finds what is served and nothing else
_PAST = "# Served before, the latest last, packed; `python -m builders rollback` goes back one.\n"
_UNTRIED = "# Published with --no-trial-load: no server had loaded it by then.\n"


@dataclass(frozen=True)
class Revision:
    """One state of config.pbtxt.

    Attributes:
        body: What `config_pbtxt.printed` returned.
        past: Earlier bodies, the latest last, each with a line that says so where it was not tried.
        tried: False where it was published with ``--no-trial-load``.
        sealed: True where the file holds a hash of itself.
        whole: False where that hash is of other bytes, or is gone: the file was edited.
    """

    body: str
    past: tuple[str, ...] = ()
    tried: bool = True
    sealed: bool = True
    whole: bool = True

    @property
    def versions(self) -> list[int]:
        """The versions that it serves, oldest first; none where it cannot be read."""
        try:
            return specific(parse_config(self.body))
        except ValueError:
            return []

    def text(self) -> str:
        past = _PAST + "".join(f"# {_pack(body)}\n" for body in self.past) if self.past else ""
        return seal(self._marked + past)

    @property
    def _marked(self) -> str:
        return self.body + ("" if self.tried else _UNTRIED)

    def after(self, body: str, *, tried: bool) -> Revision:
        """Return the state in which `body` is served next; an edited text was never published, so it does not enter the history."""
        past = (*self.past, self._marked) if self.whole and body != self.body else self.past
        return Revision(body, past[-KEPT:], tried)

    def earlier(self) -> Revision | None:
        """Return the state before this one, None where there is none."""
        if not self.past:
            return None
        body = self.past[-1].removesuffix(_UNTRIED)
        return Revision(body, self.past[:-1], body == self.past[-1])


def parse(text: str) -> Revision:
    """Read what `Revision.text` wrote, or any other config.pbtxt."""
    others, digits = unsealed(text)
    rest, _, past = others.partition(_PAST)
    bodies = [_unpack(line.removeprefix("# ")) for line in past.splitlines()]
    body = rest.removesuffix(_UNTRIED)
    whole = digits in (None, text_hash(others))
    return Revision(body, tuple(filter(None, bodies)), body == rest, digits is not None, whole)


def read(model: Path) -> Revision | None:
    """Return the config.pbtxt of a model's folder, None where there is none."""
    path = model / CONFIG
    if not os.path.isfile(path):
        return None
    config = parse(read_text(path))
    if config.sealed:
        return config
    whole = not config_damage(model, [model / str(version) for version in config.versions])
    return replace(config, past=config.past or _own_texts(model, config), whole=whole)


def write(model: Path, config: Revision) -> None:
    """Replace config.pbtxt by rename."""
    write_atomic(model / CONFIG, config.text().encode())


def _own_texts(model: Path, config: Revision) -> tuple[str, ...]:
    """Return the config.pbtxt inside each version folder older than what is served, oldest first."""
    newest = max(config.versions, default=0)
    older = (version for version in versions_in(model) if version < newest)
    return tuple(filter(None, (read_text(model / str(version) / CONFIG) for version in older)))


def _pack(body: str) -> str:
    return base64.b64encode(zlib.compress(body.encode(), 9)).decode()


def _unpack(line: str) -> str:
    try:
        return zlib.decompress(base64.b64decode(line, validate=True)).decode()
    except (ValueError, zlib.error):  # someone edited the file; a damaged line is not a state to go back to
        return ""
