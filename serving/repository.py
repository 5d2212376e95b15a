"""The model repository, checked before the server sees it.

In      `ServeOptions`.
Out     its models with their parsed config.pbtxt, every fault that can be found now, the models that are refused because their
        files differ from what was published, and how much shared memory the models need.

Names are checked because server 2.51 passes the path of the model file and the name of the instance to a shell: a folder
named ``m$(touch x)`` would run, one with a space hangs the start.

Hashes are cached beside the server file by size, time and inode, so that only the first start reads every byte.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from planwright.config_pbtxt import parse, served
from planwright.errors import Fault, did_you_mean
from planwright.files import HashCache
from planwright.integrity import Damage, damage
from planwright.tensors import TensorSpec, datatype_from_config
from serving.options import ServeOptions

Refused = dict[str, list[Damage]]  # the damaged files of each model that is not loaded

_SAFE_PATH = re.compile(r"[A-Za-z0-9._/-]+")
_SAFE_NAME = re.compile(r"[A-Za-z0-9._-]+")
_REGION_BYTES = 1 << 20  # the server gives each model process at first; it grows to the working set
_WORKING_SET = 1.3  # measured: size of the region over the bytes of a full batch's inputs and outputs
_DEFAULT_COUNT = 2  # instances of an onnxruntime model on CPU where config.pbtxt does not say


@dataclass(frozen=True)
class ModelFolder:
    """One folder of the repository, with every config that the server may choose (``config.pbtxt``, ``configs/*.pbtxt``).

    An unreadable config is left out, because the server itself then reports why the model is not ready.
    """

    name: str
    folder: Path
    configs: list[Any] = field(default_factory=list)


def models_in(repository: Path) -> list[ModelFolder]:
    """Return what the server treats as models: every folder."""
    folders = sorted(entry for entry in repository.iterdir() if entry.is_dir())
    return [ModelFolder(folder.name, folder, list(_configs(folder))) for folder in folders]


def _configs(folder: Path) -> list[Any]:
    found = []
    for path in _config_files(folder):
        try:
            found.append(parse(path.read_text(), allow_unknown=True))
        except (OSError, ValueError):
            continue
    return found


def _config_files(folder: Path) -> list[Path]:
    """Return the files that may hold a model's config; none of a folder that cannot be read, no pipe, which would block."""
    try:
        paths = [folder / "config.pbtxt", *sorted((folder / "configs").glob("*.pbtxt"))]
        return [path for path in paths if path.is_file()]
    except OSError:
        return []


def faults(options: ServeOptions) -> list[Fault]:
    """Return what is wrong with path, names and the models to load; it may be empty where models are loaded later."""
    repository, fix = (
        options.repository,
        "python builders/build_all.py (with the same --config), or name another with --model-repository",
    )
    if not repository.is_dir():
        return [Fault("there is no model repository", str(repository), fix=fix)]
    found = []
    if not _SAFE_PATH.fullmatch(str(repository.resolve())):
        found.append(_unsafe("the repository's path", str(repository.resolve()), "move it"))
    models = models_in(repository)
    if not models and (options.mode != "explicit" or options.load):
        found.append(Fault("the model repository is empty", str(repository), fix=fix))
    for model in models:
        found += _model_faults(model)
    names = [model.name for model in models]
    missing = [name for name in options.load if name != "*" and name not in names]
    return found + [
        Fault(f"there is no model '{name}' to load", str(repository), fix=did_you_mean(name, names)) for name in missing
    ]


def _model_faults(model: ModelFolder) -> list[Fault]:
    if not _SAFE_NAME.fullmatch(model.name):
        return [_unsafe(f"the model name '{model.name}'", str(model.folder), "rename the folder")]
    words = set()
    for config in model.configs:
        words |= {config.default_model_filename, *config.cc_model_filenames.values()}
        words |= {group.name for group in config.instance_group}
        words |= {p.string_value for key, p in config.parameters.items() if key == "EXECUTION_ENV_PATH"}
    plain = {word: word.replace("$$TRITON_MODEL_DIRECTORY", "") for word in sorted(words) if word}
    unsafe = [word for word, rest in plain.items() if not _SAFE_PATH.fullmatch(rest)]
    return [_unsafe(f"'{word}'", str(model.folder / "config.pbtxt"), "rename it") for word in unsafe]


def _unsafe(what: str, where: str, fix: str) -> Fault:
    fix = f"{fix}: letters, digits, . _ - and / only"
    return Fault(f"{what} contains unsafe characters", where, "this server uses it in a shell command", fix)


def chosen(options: ServeOptions) -> list[ModelFolder]:
    """Return the models to load at start."""
    models = models_in(options.repository)
    return models if options.mode == "none" or "*" in options.load else [m for m in models if m.name in options.load]


def refused(options: ServeOptions) -> Refused:
    """Compare every model to be loaded with what was published; nothing under ``--trust-repository``."""
    if options.trust:
        return {}
    cache = HashCache(options.server_file.parent / "hashes.json")
    found = {model.name: damage(model.folder, served(model.folder), cache.of) for model in chosen(options)}
    cache.save()
    return {name: files for name, files in found.items() if files}


def without(options: ServeOptions, refused: Refused) -> ServeOptions:
    """Return options with which the server loads the other models only.

    Only explicit mode can leave a folder out; the mode that the launcher reports stays what the user chose.
    """
    if not refused:
        return options
    return replace(options, accepted=tuple(model.name for model in chosen(options) if model.name not in refused))


def wants_cache(repository: Path) -> bool:
    """Return whether a model enables the response cache, which silently stays off without ``--cache-config``."""
    return any(config.response_cache.enable for model in models_in(repository) for config in model.configs)


def shared_memory_need(models: list[ModelFolder]) -> tuple[int, int]:
    """Return (bytes, processes) that the models' processes need in /dev/shm; a lower bound where dims are open."""
    sizes = [(_instances(config), _full_batch_bytes(config)) for model in models for config in model.configs[:1]]
    need = sum(count * max(_REGION_BYTES, int(size * _WORKING_SET)) for count, size in sizes)
    return need, sum(count for count, _ in sizes)


def _instances(config: Any) -> int:
    return sum(group.count or 1 for group in config.instance_group) or _DEFAULT_COUNT


def _full_batch_bytes(config: Any) -> int:
    from tritonclient.grpc import model_config_pb2

    total = 0
    for item in [*config.input, *config.output]:
        datatype = datatype_from_config(model_config_pb2.DataType.Name(item.data_type))
        if datatype not in ("BYTES", "INVALID", "BF16") and all(dim > 0 for dim in item.dims):
            total += math.prod(item.dims) * TensorSpec("", datatype, ()).numpy_dtype.itemsize
    return total * max(1, int(config.max_batch_size))
