"""The child process that imports a real TensorRT binding and answers what it has.

In      on stdin: ``chains`` (names that must exist), ``calls`` ([class, method, arguments], arguments None for a property).
Out     on stdout, as JSON: what is missing or takes other arguments, and how builders.targets.tensorrt.versions behaves over it.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from planwright.golden import Golden, Group

OPTIONS = {
    "optimization_level": 3, "workspace_mib": 64, "sparse_weights": True, "refit": True, "version_compatible": True,
    "strip": False, "hardware_compatibility": "ampere_plus", "dla_core": 0,
}  # fmt: skip


class Config:
    """Stands for a builder config, which cannot be made here: keeps what is set, by name."""

    def __init__(self) -> None:
        self.flags: set[str] = set()

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag.name)

    def set_memory_pool_limit(self, pool: Any, size_bytes: int) -> None:
        self.pool = (pool.name, size_bytes)

    def set_tactic_sources(self, sources: int) -> None:
        self.sources = sources


def main() -> None:
    """Answer one request."""
    trt = importlib.import_module("tensorrt_bindings")
    sys.modules["tensorrt"] = trt  # our code imports the meta package's name
    from builders.targets.tensorrt.versions import version_of

    asked, version = json.load(sys.stdin), version_of(trt)
    print_json(
        {
            "tensorrt": trt.__version__,
            "missing": [name for name in asked["chains"] if not exists(trt, name)],
            "refused": [reason for call in asked["calls"] if (reason := refusal(trt, *call))],
            "class": type(version).__name__,
            "flags": version.network_flags(),
            "strongly_typed": strongly_typed(trt),
            "progress": progress(version),
            "configured": {precision: configured(trt, version, precision) for precision in ("fp32", "tf32", "int8")},
            "said_no": said_no(version),
            "calibrated": calibrated(trt),
            "log": log(trt),
            "calls_back": calls_back(trt),
        }
    )


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value))


def exists(trt: Any, name: str) -> bool:
    """Follow a chain such as ``BuilderFlag.TF32``."""
    found = trt
    for part in name.split("."):
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


def refusal(trt: Any, owner: str, method: str, arguments: int | None) -> str:
    """Return why the binding would not take this call, "" where it would."""
    found = getattr(getattr(trt, owner, trt) if owner else trt, method, None)
    if found is None:
        return f"{owner}.{method} is not there"
    if arguments is None:
        return "" if not callable(found) else f"{owner}.{method} is a method"
    known = signatures(method, found.__doc__ or "")
    if any(least <= arguments <= most for least, most in known):
        return ""
    return f"{owner}.{method} takes {known}, not {arguments} arguments"


def signatures(method: str, doc: str) -> list[tuple[int, int]]:
    """Return (fewest, most) arguments of each overload, read from the text that pybind writes; self does not count."""
    found = []
    for parameters in re.findall(rf"^(?:\d+\. )?{method}\((.*)\) ->", doc, re.MULTILINE):
        parts = [part for part in split(parameters) if part and not part.startswith("self:")]
        found.append((sum("=" not in part for part in parts), len(parts)))
    return found


def split(parameters: str) -> list[str]:
    """Split at the commas that are not inside brackets."""
    parts, depth = [""], 0
    for character in parameters:
        depth += (character in "[(<") - (character in "])>")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def strongly_typed(trt: Any) -> int | None:
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return None if flag is None else int(flag)


def progress(version: Any) -> list[list[Any]] | None:
    """Construct the real progress monitor and call it as TensorRT would; None where the version has none."""
    told: list[list[Any]] = []
    config: Any = Config()

    def tell(phase: str, step: int, steps: int) -> bool:
        told.append([phase, step, steps])
        return True

    if not version.watch(config, tell):
        return None
    monitor = config.progress_monitor
    monitor.phase_start("tactics", None, 3)
    assert monitor.step_complete("tactics", 0) is True
    monitor.phase_finish("tactics")
    return told


def configured(trt: Any, version: Any, precision: str) -> list[str]:
    """Run our whole configuration over the real enumerations and return the flags that are set."""
    from builders.targets.tensorrt import build

    config: Any = Config()
    build._configure(trt, version, config, {"precision": precision, "options": OPTIONS})
    assert config.pool == ("WORKSPACE", 64 << 20)
    assert isinstance(config.hardware_compatibility_level, trt.HardwareCompatibilityLevel)
    return sorted(config.flags)


def said_no(version: Any) -> list[str]:
    """Return which compile options this version refuses in words."""
    config: Any = Config()
    options: dict[str, Callable[[], None]] = {
        "strip": lambda: version.strip(config),
        "same_compute_capability": lambda: version.hardware_compatibility(config, "same_compute_capability"),
        "calibrate": lambda: version.calibrate(Network(), config, None, None, ()),
    }
    refused = []
    for name, ask in options.items():
        try:
            ask()
        except LookupError:
            refused.append(name)
    return refused


class Network:
    """Stands for a network of no layers, which cannot be made here."""

    num_layers = 0


def calibrated(trt: Any) -> dict[str, Any] | None:
    """Construct the real calibrator and call it as TensorRT would; None where the version has none."""
    from builders.targets.tensorrt.calibrator import Feed, calibrator

    if not hasattr(trt, "IInt8EntropyCalibrator2"):
        return None
    told: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        samples, cache = Path(folder) / "calibration.npz", Path(folder) / "new" / "ranges.trt"
        rows = Group({"image": np.zeros((11, 8, 8), np.uint8)}, {})
        Golden((rows,)).save(samples)
        feed = Feed(samples, {"image": [4, 8, 8]})
        assert (len(feed.batches), feed.left_out) == (2, 3)
        made = calibrator(trt, {"method": "entropy", "cache": str(cache)}, feed, lambda *step: told.append([*step]))
        before = made.read_calibration_cache()
        made.write_calibration_cache(b"TRT-8600-EntropyCalibration2")
        feed.given = len(feed.batches) - 2
        told.clear()
        feed.next = lambda names: None  # type: ignore[method-assign]  # there is no GPU to feed
        last = made.get_batch(["image"])
        after = made.read_calibration_cache()
        return {"batch": made.get_batch_size(), "before": before, "after": after.decode(), "told": told, "last": last}


def log(trt: Any) -> str:
    """Import planwright.trt.plan, and keep an error line in its log."""
    from planwright.trt.plan import Log

    heard: list[str] = []
    kept = Log(lambda severity, message: heard.append(f"{severity.name} {message}"))
    kept.log(trt.ILogger.INFO, "nothing")
    kept.log(trt.ILogger.ERROR, "Magic tag does not match")
    assert heard == ["INFO nothing", "ERROR Magic tag does not match"]
    return kept.reason("")


def calls_back(trt: Any) -> list[str]:
    """Return the interfaces that our classes derive from and whose methods TensorRT calls."""
    wanted = {"ILogger": ["log"], "IProfiler": ["report_layer_time"]}
    return [
        f"{owner}.{name}" for owner, names in wanted.items() for name in names if hasattr(getattr(trt, owner), name)
    ]


if __name__ == "__main__":
    main()
