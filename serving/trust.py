"""Which models are kept from the server, because their files are not what was published.

In      `Options`.
Out     the damaged files of each model that is not to be loaded.

Hashes are remembered beside the server file by size, time and inode, so that only the first start reads every byte.
"""

from __future__ import annotations

from dataclasses import replace

from planwright.files import HashCache
from planwright.integrity import Damage, damage
from serving import repository
from serving.options import Options
from serving.repository import Model

Refused = dict[str, list[Damage]]


def refused(options: Options) -> Refused:
    """Compare every model that would be loaded with what was published; nothing under ``--trust-repository``."""
    if options.trust:
        return {}
    cache = HashCache(options.server_file.parent / "hashes.json")
    models = repository.chosen(options.repository, options.mode, options.load)
    found = {model.name: damage(model.folder, _versions(model), cache.of) for model in models}
    cache.save()
    return {name: files for name, files in found.items() if files}


def without(options: Options, names: Refused) -> Options:
    """Return options with which the server loads the other models only.

    Only explicit mode can leave a folder out; what the launcher tells others about the mode stays what the user chose.
    """
    if not names:
        return options
    models = repository.chosen(options.repository, options.mode, options.load)
    return replace(options, good=tuple(model.name for model in models if model.name not in names))


def _versions(model: Model) -> list[int]:
    """Return the versions that config.pbtxt serves; every folder where it does not name them."""
    named = [list(config.version_policy.specific.versions) for config in model.configs[:1]]
    folders = [int(path.name) for path in model.folder.iterdir() if path.name.isdigit()]
    return sorted(named[0] if named and named[0] else folders)
