"""TensorRT's real Python binding without TensorRT.

In      a package and its version, gcc, the package index.
Out     `environment`: the variables with which a child process imports ``tensorrt_bindings``: all classes, enumerations
        and signatures are then real, and nothing can be built or run.

The binding needs nine C functions of three libraries, which are made here as stand-ins; 8.6 links one library more.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests._project import ROOT

# git ignores it; the wheels have about 1 MB each and stay for the next run
CACHE = ROOT / ".cache" / "tensorrt-bindings"
FUNCTIONS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getBuilderPluginRegistry",
    "getPluginRegistry", "getNvOnnxParserVersion", "initLibNvInferPlugins",
)  # fmt: skip
# the Caffe and UFF parsers, C++ names, gone since 10
FUNCTIONS_8 = (
    "_ZN14nvcaffeparser117createCaffeParserEv", "_ZN14nvcaffeparser123shutdownProtobufLibraryEv",
    "_ZN11nvuffparser15createUffParserEv", "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi",
)  # fmt: skip
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")


def environment(package: str, version: str, scratch: Path) -> dict[str, str]:
    """Return the environment of a child that imports this binding; skips the test where that cannot be had."""
    libraries = _stand_ins(int(version.split(".")[0]), scratch)
    return {**os.environ, "LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": f"{_unpacked(package, version)}:{ROOT}"}


def _unpacked(package: str, version: str) -> Path:
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    folder = CACHE / f"{package}-{version}-{python}"
    if not folder.exists():
        wheel = _downloaded(package, version, folder.with_name(f"{folder.name}.download"))
        partial = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(partial)
        if not folder.exists():  # another run may have been faster
            partial.rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _downloaded(package: str, version: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    wheels = sorted(folder.glob("*.whl"))
    if wheels:
        return wheels[0]
    asked = f"{package}=={version}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
        asked,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip(f"no binding wheel {asked}: pip download took longer than 120 s")
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        pytest.skip(f"no binding wheel {asked}: pip download failed: {said}")
    return next(folder.glob("*.whl"))


def _stand_ins(major: int, scratch: Path) -> Path:
    """Build the shared objects, each with every function: which library a function is looked for in does not matter."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no stand-in libraries for the TensorRT binding: gcc is not installed")
    names, functions = [*LIBRARIES], [*FUNCTIONS]
    if major == 8:
        names.append("nvparsers")
        functions += FUNCTIONS_8
    source = scratch / "stand_in.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in functions))
    for name in names:
        file = f"lib{name}.so.{major}"
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", str(scratch / file), str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no stand-in libraries for the TensorRT binding: gcc failed: {done.stderr.strip()[-200:]}")
    return scratch
