"""The model repository as the launcher sees it before the server does.

In      the repository's folder.
Out     its models with their parsed config.pbtxt, every fault that can be known now, and how much shared memory they need.

Names are checked because server 2.51 hands the path of the model file and the name of the instance to a shell: a folder
called ``m$(touch x)`` would run, one with a space hangs the start.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planwright.config_pbtxt import parse
from planwright.errors import Fault, did_you_mean
from planwright.tensors import TensorSpec, datatype_from_config

_SAFE_PATH = re.compile(r"[A-Za-z0-9._/-]+")
_SAFE_NAME = re.compile(r"[A-Za-z0-9._-]+")
_REGION_BYTES = 1 << 20  # what the server gives each model process at first; it grows to the working set
_WORKING_SET = 1.3  # measured: region over the bytes of a full batch's inputs and outputs
_DEFAULT_COUNT = 2  # instances of an onnxruntime model on CPU where config.pbtxt does not say


@dataclass(frozen=True)
class Model:
    """One folder of the repository.

    Attributes:
        name: The folder's name.
        folder: Where it lies.
        configs: Every config that the server may choose (``config.pbtxt``, ``configs/*.pbtxt``), parsed; an unreadable
            one is left out, because the server itself then says why the model is not ready.
    """

    name: str
    folder: Path
    configs: list[Any] = field(default_factory=list)


def models_in(repository: Path) -> list[Model]:
    """Return what the server takes for models: every folder."""
    folders = sorted(entry for entry in repository.iterdir() if entry.is_dir())
    return [Model(folder.name, folder, list(_configs(folder))) for folder in folders]


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


def faults(repository: Path, load: list[str], *, may_be_empty: bool = False) -> list[Fault]:
    """Return what is wrong with path, names and the models to `load`; it may be empty where models are loaded later."""
    fix = "python builders/build_all.py, or name another with --model-repository"
    if not repository.is_dir():
        return [Fault("there is no model repository", str(repository), fix=fix)]
    found = []
    if not _SAFE_PATH.fullmatch(str(repository.resolve())):
        found.append(_unsafe("the repository's path", str(repository.resolve()), "move it"))
    models = models_in(repository)
    if not models and not may_be_empty:
        found.append(Fault("the model repository is empty", str(repository), fix=fix))
    for model in models:
        found += _model_faults(model)
    names = [model.name for model in models]
    missing = [name for name in load if name != "*" and name not in names]
    return found + [
        Fault(f"there is no model '{name}' to load", str(repository), fix=did_you_mean(name, names)) for name in missing
    ]


def _model_faults(model: Model) -> list[Fault]:
    if not _SAFE_NAME.fullmatch(model.name):
        return [_unsafe(f"the model name '{model.name}'", str(model.folder), "rename the folder")]
    words = set()
    for config in model.configs:
        words |= {config.default_model_filename, *config.cc_model_filenames.values()}
        words |= {group.name for group in config.instance_group}
        words |= {p.string_value for key, p in config.parameters.items() if key == "EXECUTION_ENV_PATH"}
    unsafe = sorted(
        word for word in words if word and not _SAFE_PATH.fullmatch(word.replace("$$TRITON_MODEL_DIRECTORY", ""))
    )
    return [_unsafe(f"'{word}'", str(model.folder / "config.pbtxt"), "rename it") for word in unsafe]


def _unsafe(what: str, where: str, fix: str) -> Fault:
    return Fault(
        f"{what} is not safe", where, "this server hands it to a shell", f"{fix}: letters, digits, . _ - and / only"
    )


def chosen(repository: Path, mode: str, load: list[str]) -> list[Model]:
    """Return the models that are loaded at start."""
    models = models_in(repository)
    return models if mode == "none" or "*" in load else [model for model in models if model.name in load]


def wants_cache(repository: Path) -> bool:
    """Say whether a model asks for the response cache, which stays off in silence without ``--cache-config``."""
    return any(config.response_cache.enable for model in models_in(repository) for config in model.configs)


def shared_memory_need(models: list[Model]) -> tuple[int, int]:
    """Return (bytes, processes) that the models' processes take from /dev/shm; a lower bound where dims are open."""
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
