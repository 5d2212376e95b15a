"""Find the TensorRT installed in an image, from the files of its packages.

In      the root folder of a system: dpkg's status, the header NvInferVersion.h, the folder of CUDA.
Out     one line for pip, ``tensorrt_cu13_bindings==10.16.1.11``; or exit code 3 and where it looked.

Standard library only: deploy/builder.Dockerfile runs it before anything is installed. It imports nothing from TensorRT,
because images are built on machines without GPU.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

STATUS = ("var/lib/dpkg/status", "var/lib/dpkg/status.d/*")
_HEADER = "NvInferVersion.h"
HEADERS = tuple(f"{folder}/{_HEADER}" for folder in ("usr/include/*", "usr/include", "usr/local/tensorrt/include"))
CUDA = ("usr/local/cuda-[0-9]*", "usr/local/cuda/version.json")
EXIT_MACHINE = 3

# 10.16.1.11-1+cuda13.2: four parts of TensorRT, then the package's revision and its CUDA
_PACKAGE = re.compile(r"^(\d+\.\d+\.\d+\.\d+)-\S*?(?:\+cuda(\d+)\S*)?$")
_PARTS = ("MAJOR", "MINOR", "PATCH", "BUILD")


class NotFoundError(Exception):
    """Nothing was found, or more than one version; the text says where it looked."""


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="find_tensorrt.py", description="Print the TensorRT binding for this system.")
    p.add_argument("--root", type=Path, default=Path("/"), help="root folder to look in (default: %(default)s)")
    args = p.parse_args(argv)
    try:
        print(requirement(args.root))
    except NotFoundError as error:
        fix = "use an NVIDIA Triton image as BASE_IMAGE, which has one TensorRT"
        print(f"error: {error}\n  fix    {fix}", file=sys.stderr)
        return EXIT_MACHINE
    return 0


def requirement(root: Path) -> str:
    """Return the requirement for pip; raises `NotFoundError`."""
    return f"tensorrt_cu{cuda_major(root)}_bindings=={tensorrt_version(root)}"


def tensorrt_version(root: Path) -> str:
    """Return all four parts of the version: from packages, else from headers."""
    found = {version for version, _ in _packages(root)} or set(_headers(root))
    return _only(found, "TensorRT", "installed packages libnvinfer* in /" + " and /".join(STATUS),
                 "NV_TENSORRT_MAJOR to NV_TENSORRT_BUILD in /" + ", /".join(HEADERS))  # fmt: skip


def cuda_major(root: Path) -> str:
    """Return the major version of CUDA that TensorRT's package was built for, else of the installed CUDA."""
    found = {cuda for _, cuda in _packages(root) if cuda} or set(_cuda_folders(root))
    return _only(found, "CUDA", "'+cuda' in the versions of the packages libnvinfer*", "/" + " and /".join(CUDA))


def _only(found: set[str], what: str, *places: str) -> str:
    if len(found) == 1:
        return found.pop()
    if found:
        raise NotFoundError(f"several versions of {what} are installed here: {', '.join(sorted(found))}")
    raise NotFoundError(f"{what} was not found in this image; looked for " + ", and for ".join(places))


def _packages(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (version, CUDA's major or "") of each installed package of TensorRT."""
    for path in (path for pattern in STATUS for path in sorted(root.glob(pattern))):
        for entry in path.read_text(errors="replace").split("\n\n"):
            fields = dict(re.findall(r"^(\S+): (.*)$", entry, re.MULTILINE))
            if not fields.get("Package", "").startswith("libnvinfer") or "deinstall" in fields.get("Status", ""):
                continue
            known = _PACKAGE.match(fields.get("Version", ""))
            if known:
                yield known[1], known[2] or ""


def _headers(root: Path) -> Iterator[str]:
    for path in (path for pattern in HEADERS for path in sorted(root.glob(pattern))):
        defined = dict(re.findall(r"^\s*#define\s+(\w+)\s+(\w+)", path.read_text(errors="replace"), re.MULTILINE))
        numbers = [_number(defined, f"NV_TENSORRT_{part}") for part in _PARTS]
        if all(numbers):
            yield ".".join(numbers)


def _number(defined: dict[str, str], name: str) -> str:
    """Return a macro's number; newer headers define it through another macro."""
    value = defined.get(name, "")
    for _ in range(3):
        value = defined.get(value, value)
    return value if value.isdigit() else ""


def _cuda_folders(root: Path) -> Iterator[str]:
    for path in root.glob(CUDA[0]):
        known = re.match(r"cuda-(\d+)", path.name)
        if known:
            yield known[1]
    for path in root.glob(CUDA[1]):
        known = re.search(r'"cuda"\s*:\s*\{[^}]*"version"\s*:\s*"(\d+)\.', path.read_text(errors="replace"))
        if known:
            yield known[1]


if __name__ == "__main__":
    sys.exit(main())
