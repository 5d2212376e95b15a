"""What the repository says of a published model: golden samples, tolerances, labels.

In      the repository's folder.
Out     `PublishedVersion`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planwright import config_pbtxt, integrity
from planwright.compare import Tolerance
from planwright.errors import Fault, SpecError, did_you_mean
from planwright.files import read_json
from planwright.golden import Golden
from planwright.integrity import BUILD

from .errors import InvalidRequest


@dataclass(frozen=True)
class PublishedVersion:
    """One version folder: ``<repository>/<model>/<version>``."""

    model: str
    version: str
    folder: Path
    build: dict[str, Any]

    @property
    def tolerances(self) -> dict[str, Tolerance]:
        """What counts as right, per output.

        Raises:
            InvalidRequest: build.json is damaged.
        """
        try:
            return {name: Tolerance(**values) for name, values in self.build["tolerances"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidRequest(damaged(self, f"build.json: {type(error).__name__}: {error}")) from None

    @property
    def weights(self) -> str:
        """``real`` or ``random``."""
        return str(self.build.get("weights", "real"))

    def golden(self) -> Golden:
        """Load the golden samples.

        Raises:
            InvalidRequest: The file is missing or damaged.
        """
        path = self.folder / "golden.npz"
        try:
            return Golden.load(path)
        except Exception as error:  # zip, npy and OS errors share no base
            raise InvalidRequest(damaged(self, f"golden.npz: {error}")) from None

    def labels(self, output: str) -> list[str]:
        """Return the class names of `output`, empty where there are none."""
        for name in (f"labels.{output}.txt", "labels.txt"):
            if (self.folder / name).is_file():
                return (self.folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
        return []


def require_whole(folder: Path, model: str, versions: Iterable[int | str] | None = None) -> None:
    """Refuse files that are not what was published: right answers would say nothing about them.

    Args:
        folder: The repository.
        model: The model's name.
        versions: Versions that must be whole; None for those that config.pbtxt serves.

    Raises:
        InvalidRequest: A file of a version, or config.pbtxt, was changed, is missing, or was added.
    """
    path = folder / model
    found = integrity.damage(path, config_pbtxt.served(path) if versions is None else versions)
    if found:
        raise InvalidRequest(*(integrity.fault(model, each) for each in found))


def damaged(version: PublishedVersion, why: str) -> Fault:
    """The published files do not fit together or cannot be read."""
    fix = f"python builders/build_all.py {version.model} --force"
    what = f"{version.model} version {version.version}: the golden samples cannot be used"
    return Fault(what, str(version.folder), why, fix)


def models(folder: Path) -> list[str]:
    """Return the models that Planwright published there."""
    return integrity.models(folder)


def select(folder: Path, names: list[str]) -> list[str]:
    """Return the models to work on.

    Raises:
        SpecError: A name is unknown, or nothing is published (exit 2).
    """
    known, where = models(folder), str(folder)
    if not known:
        raise SpecError(Fault("nothing is published yet", where, fix="python builders/build_all.py"))
    unknown = [name for name in names if name not in known]
    faults = [Fault(f"there is no published model '{name}'", where, fix=did_you_mean(name, known)) for name in unknown]
    if faults:
        raise SpecError(*faults)
    return names or known


def served(folder: Path, model: str) -> PublishedVersion | None:
    """Return the newest version that config.pbtxt serves, which answers also after a rollback; None where there is none."""
    path = folder / model
    numbers = [number for number in config_pbtxt.served(path) if (path / str(number) / BUILD).exists()]
    return version(folder, model, str(max(numbers))) if numbers else None


def version(folder: Path, model: str, number: str) -> PublishedVersion:
    """Return one version.

    Raises:
        InvalidRequest: Its build.json is damaged, or the server serves a version that this repository does not hold.
    """
    path = folder / model / number
    build = read_json(path / BUILD)
    if not isinstance(build, dict):
        raise InvalidRequest(_no_build(path))
    return PublishedVersion(model, number, path, build)


def _no_build(path: Path) -> Fault:
    model, number = path.parent.name, path.name
    damage = [each for each in integrity.version_damage(path) if each.path == path / BUILD]
    if damage and (damage[0].kind != "missing" or int(number) in config_pbtxt.served(path.parent)):
        return integrity.fault(model, damage[0])
    what, why = f"{model} version {number} is not in the repository", "the server may serve another repository"
    return Fault(what, str(path), why, "name its repository with --repository")
