"""Which models are kept from the server, because their files are not what was published.

In      `Options`.
Out     the damaged files of each model that is not to be loaded.

Hashes are remembered beside the server file by size, time and inode, so that only the first start reads every byte.
"""

from __future__ import annotations

from dataclasses import replace

from planwright.config_pbtxt import served
from planwright.files import HashCache
from planwright.integrity import Damage, damage
from serving import repository
from serving.options import Options

Refused = dict[str, list[Damage]]


def refused(options: Options) -> Refused:
    """Compare every model that would be loaded with what was published; nothing under ``--trust-repository``."""
    if options.trust:
        return {}
    cache = HashCache(options.server_file.parent / "hashes.json")
    models = repository.chosen(options.repository, options.mode, options.load)
    found = {model.name: damage(model.folder, served(model.folder), cache.of) for model in models}
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
