"""``make setup-tensorrt`` in copies of the checkout: what it chooses, installs, leaves alone, and reports when it cannot.

In      a copy with small environments, wheels made here that stand in for TensorRT's gigabytes, a libcuda made here that
        shows a GPU or none (gcc), for one test the package index.
Out     proof that the command does what it says; no test touches this checkout's own environments.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.tensorrt._wheels import _stand_ins
from tests.tensorrt.test_bindings import WHEELS
from tests.ux._checkout import ENVIRONMENTS, ROOT, copy_to

COMMAND = "deploy/setup/add_tensorrt.py"
SERVER = "version: 1\nserver: {{image: nvcr.io/nvidia/tritonserver:26.06-py3, tensorrt: {version}}}\n"
PYTHON = "py311.txt" if sys.version_info >= (3, 11) else "py310.txt"
Driver = Callable[[int, int], str]

LIBCUDA = """
#include <string.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = %d; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "NVIDIA Test", size); return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) { *value = 9; return 0; }
int cuDriverGetVersion(int *version) { *version = %d; return 0; }
int cuDeviceTotalMem_v2(unsigned long *size, int device) { *size = 1; return 0; }
"""


def wheel(folder: Path, name: str, version: str, files: dict[str, str | bytes], *needs: str) -> None:
    """Make a wheel that pip takes."""
    info = f"{name}-{version}.dist-info"
    needed = "".join(f"Requires-Dist: {need}\n" for need in needs)
    whole = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, content in whole.items():
            archive.writestr(path, content)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*whole, f"{info}/RECORD"]))


def tensorrt(folder: Path, cuda: str, version: str, imported: str = "") -> None:
    """Make the three packages of one TensorRT, laid out as the real ones are."""
    name = f"tensorrt_cu{cuda}"
    binding = f"__version__ = '{version}'\n{imported}\n"
    frontend = "from tensorrt_bindings import __version__\n"
    wheel(folder, name, version, {"tensorrt/__init__.py": frontend}, f"{name}_libs=={version}", f"{name}_bindings")
    wheel(folder, f"{name}_libs", version, {"tensorrt_libs/__init__.py": ""})
    wheel(folder, f"{name}_bindings", version, {"tensorrt_bindings/__init__.py": binding})


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with pip and yaml."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True)
    package = Path(str(yaml.__file__)).parent
    shutil.copytree(package, next(folder.glob("lib/python*/site-packages")) / "yaml")
    return folder


def stamp(checkout: Path, folder: str, lock: str) -> None:
    """Mark an environment as ``make setup`` does."""
    read = [(checkout / "constraints" / name).read_bytes() for name in (lock, "cuda.txt")]
    (checkout / folder / ".planwright-stamp").write_text(hashlib.sha256(b"".join(read)).hexdigest())


@pytest.fixture
def checkout(tmp_path: Path, environment: Path) -> Path:
    """A copy of the checkout, set up with two small environments."""
    copy = copy_to(tmp_path / "checkout")
    for name in ENVIRONMENTS:
        (copy / name).unlink()  # links to the real ones
    for name, lock in ((".venv", PYTHON), (".venv-server", "server.txt")):
        shutil.copytree(environment, copy / name, symlinks=True, copy_function=os.link)  # pip replaces files whole
        stamp(copy, name, lock)
    return copy


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    """Make a libcuda that shows so many GPUs and speaks this CUDA; returns its folder."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no stand-in for libcuda: gcc is not installed")

    def make(count: int, cuda: int) -> str:
        folder = tmp_path / f"driver-{count}-{cuda}"
        folder.mkdir()
        (folder / "cuda.c").write_text(LIBCUDA % (count, cuda))
        command = [compiler, "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(folder / "cuda.c")]
        subprocess.run(command, check=True, capture_output=True)
        return str(folder)

    return make


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A folder with small packages in place of all that would be downloaded."""
    folder = tmp_path / "index"
    tensorrt(folder, "13", "11.4.0.106")
    tensorrt(folder, "12", "10.16.1.11")
    for version in ("13.4.4", "12.9.10"):
        wheel(folder, "cuda_bindings", version, {"cuda/bindings/runtime.py": ""})
        wheel(folder, "cuda_python", version, {}, f"cuda-bindings=={version}")
    return folder


def add(checkout: Path, libcuda: str, *flags: str, wheels: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command; with `wheels`, pip knows nothing else, and stand-ins need no disk space."""
    offline = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    values = {**os.environ, "LD_LIBRARY_PATH": libcuda, **(offline if wheels else {})}
    command = [sys.executable, COMMAND, *flags, *(["--force"] if wheels else [])]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, env=values)


def packages(checkout: Path, folder: str) -> dict[str, str]:
    """Return what is installed."""
    found = (checkout / folder).glob("lib/python*/site-packages/*.dist-info")
    return {name: version for name, _, version in (path.name[: -len(".dist-info")].partition("-") for path in found)}


def test_help_and_a_bad_command_line() -> None:
    shown = subprocess.run([sys.executable, COMMAND, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert (shown.returncode, "usage:" in shown.stdout) == (0, True)
    bad = subprocess.run([sys.executable, COMMAND, "--no-such-flag"], cwd=ROOT, capture_output=True, text=True)
    assert (bad.returncode, "usage:" in bad.stderr, "Traceback" in bad.stderr) == (2, True, False)


def test_without_a_gpu_it_says_so(checkout: Path, driver: Driver) -> None:
    done = add(checkout, driver(0, 13000))
    assert done.returncode == 3
    assert "there is no GPU for TensorRT" in done.stdout
    assert "FORCE=1" in done.stdout


def test_what_is_not_set_up_is_named(checkout: Path, driver: Driver) -> None:
    libcuda = driver(1, 13000)
    with (checkout / "constraints/server.txt").open("a") as lock:
        lock.write("zipp==1.0\n")  # as after a git pull
    done = add(checkout, libcuda, "--plan")
    assert (done.returncode, ".venv-server is not set up" in done.stdout) == (3, True)
    shutil.rmtree(checkout / ".venv")
    done = add(checkout, libcuda, "--plan")
    assert (done.returncode, ".venv is not set up" in done.stdout, done.stderr) == (3, True, "")


@pytest.mark.parametrize(
    ("cuda", "requested", "configured", "first", "lock"),
    [
        (13000, "", "", "tensorrt_cu13==11.4.0.106.*", "cuda-python==13.4.4"),
        (12040, "", "", "tensorrt_cu12==10.16.1.11.*", "cuda-python==12.9.10"),
        (13000, "10.16.1.11", "", "tensorrt_cu13==10.16.1.11.*", "cuda-python==13.4.4"),
        (13000, "", "10.15.1.29", "tensorrt_cu13==10.15.1.29.*", "cuda-python==13.4.4"),
        (12040, "10.13.3.9", "11.0.0.114", "tensorrt_cu12==10.13.3.9.*", "cuda-python==12.9.10"),
        (13000, "10.7.0.23", "", "tensorrt_cu12==10.7.0.*", "cuda-python==12.9.10"),
        (13000, "8.6.0", "", "tensorrt==8.6.0.* nvidia-cublas-cu12==", "nvidia-cudnn-cu12==8."),
        (13000, "8.6.1.6", "", "tensorrt_libs==8.6.1.* tensorrt_bindings==8.6.1.*", "nvidia-cudnn-cu12==8."),
    ],
)
def test_the_version_that_fits(
    checkout: Path, driver: Driver, cuda: int, requested: str, configured: str, first: str, lock: str
) -> None:
    if configured:
        (checkout / "config.yaml").write_text(SERVER.format(version=configured))
    done = add(checkout, driver(1, cuda), "--plan", *(["--version", requested] if requested else []))
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (first, lock, "GB to download", "NVIDIA Test"):
        assert words in done.stdout
    assert not (checkout / ".planwright").exists()


def test_a_driver_that_is_too_old(checkout: Path, driver: Driver) -> None:
    done = add(checkout, driver(1, 11080), "--plan")
    assert done.returncode == 3
    assert "CUDA 11.8" in done.stdout


def test_an_invalid_version_is_a_bad_command_line(checkout: Path, driver: Driver) -> None:
    libcuda = driver(1, 13000)
    for version in ("10", "9.3.0", "8.5.3.1", "newest"):
        done = add(checkout, libcuda, "--plan", "--version", version)
        assert (done.returncode, "this TensorRT cannot be installed" in done.stdout) == (2, True), version
    for text, why in ((SERVER.format(version="10.16"), "server.tensorrt is 10.16"), ("a: [", "cannot be read")):
        (checkout / "config.yaml").write_text(text)
        done = add(checkout, libcuda, "--plan")
        assert (done.returncode, why in done.stdout, done.stderr) == (2, True, "")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="this Python can have 8.6.0")
def test_nothing_is_downloaded_for_a_python_that_cannot_use_it(checkout: Path, driver: Driver, index: Path) -> None:
    done = add(checkout, driver(1, 13000), "--version", "8.6.0", wheels=index)
    assert (done.returncode, "3.10 is its newest" in done.stdout) == (3, True)


def test_both_environments_get_it_and_a_second_run_does_nothing(checkout: Path, driver: Driver, index: Path) -> None:
    libcuda = driver(1, 13000)
    first = add(checkout, libcuda, wheels=index)
    assert first.returncode == 0, first.stdout + first.stderr
    start = time.monotonic()
    second = add(checkout, libcuda, wheels=index)
    assert time.monotonic() - start < 2
    assert second.stdout == "TensorRT 11.4.0.106 is in .venv and .venv-server\n"
    for folder in (".venv", ".venv-server"):
        assert f"{folder}: tensorrt 11.4.0.106 can be imported" in first.stdout
        assert packages(checkout, folder)["cuda_python"] == "13.4.4"


def test_another_version_takes_the_place_of_the_first(checkout: Path, driver: Driver, index: Path) -> None:
    assert add(checkout, driver(1, 13000), wheels=index).returncode == 0
    done = add(checkout, driver(1, 12040), wheels=index)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "removing tensorrt_cu13, tensorrt_cu13_bindings, tensorrt_cu13_libs" in done.stdout
    for folder in (".venv", ".venv-server"):
        assert f"{folder}: tensorrt 10.16.1.11 can be imported" in done.stdout
        found = packages(checkout, folder)
        assert {"tensorrt_cu12", "tensorrt_cu12_libs", "tensorrt_cu12_bindings"} <= set(found)
        assert not [name for name in found if "cu13" in name]
        assert found["cuda_python"] == found["cuda_bindings"] == "12.9.10"  # though .venv's own lock says 13
    assert not list((checkout / ".planwright").glob("tensorrt-wheels*"))


def test_what_cannot_be_had_leaves_what_was_there(checkout: Path, driver: Driver, index: Path) -> None:
    libcuda = driver(1, 13000)
    assert add(checkout, libcuda, wheels=index).returncode == 0
    done = add(checkout, libcuda, "--version", "11.0.0.114", wheels=index)
    assert done.returncode == 3
    assert "No matching distribution found for tensorrt_cu13==11.0.0.114" in done.stdout
    assert "PIP_EXTRA_INDEX_URL" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert packages(checkout, ".venv")["tensorrt_cu13"] == "11.4.0.106"
    assert "is in .venv and .venv-server" in add(checkout, libcuda, wheels=index).stdout


def test_libraries_that_cannot_be_loaded_are_one_message(checkout: Path, driver: Driver, index: Path) -> None:
    broken = "raise ImportError('libnvinfer.so.11: cannot open shared object file')"
    tensorrt(index, "13", "11.4.0.106", imported=broken)
    libcuda = driver(1, 13000)
    done = add(checkout, libcuda, wheels=index)
    assert (done.returncode, done.stderr) == (3, "")
    assert ".venv: TensorRT is installed but cannot be imported" in done.stdout
    assert "why    ImportError: libnvinfer.so.11: cannot open" in done.stdout
    assert "Traceback" not in done.stdout
    assert add(checkout, libcuda, wheels=index).returncode == 3, "a broken one gets no stamp"


@pytest.mark.network
def test_the_real_binding_is_imported(checkout: Path, driver: Driver, tmp_path: Path) -> None:
    # All is real but the libraries, whose 2 GB are stood in for: the package's own build, the binding, cuda-python.
    scratch = tmp_path / "libraries"
    scratch.mkdir()
    _stand_ins(10, scratch)
    libraries: dict[str, str | bytes] = {
        f"tensorrt_libs/{file.name}": file.read_bytes() for file in scratch.glob("*.so*")
    }
    load = "import ctypes, pathlib\nfor file in sorted(pathlib.Path(__file__).parent.glob('*.so*')): ctypes.CDLL(str(file))\n"
    wheel(tmp_path / "index", "tensorrt_cu12_libs", "10.16.1.11", {"tensorrt_libs/__init__.py": load, **libraries})
    links = " ".join([os.environ.get("PIP_FIND_LINKS", ""), str(tmp_path / "index")]).strip()
    values = {**os.environ, "LD_LIBRARY_PATH": driver(1, 12040), "PIP_FIND_LINKS": links}
    done = subprocess.run(
        [sys.executable, COMMAND, "--force"], cwd=checkout, capture_output=True, text=True, env=values
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for folder in (".venv", ".venv-server"):
        assert f"{folder}: tensorrt 10.16.1.11 can be imported" in done.stdout
        assert packages(checkout, folder)["cuda_bindings"] == "12.9.10"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="sets up everything, which needs Python 3.11")
def test_make_setup_names_the_command_where_a_gpu_is(checkout: Path, driver: Driver, index: Path) -> None:
    (checkout / ".tritonserver").symlink_to(ROOT / ".tritonserver")  # complete already: only its stamp is read
    wheel(index, "small", "1.0", {"small.py": ""})
    wheel(index, "small", "2.0", {"small.py": ""})
    hint = "GPU found (NVIDIA Test): make setup-tensorrt adds TensorRT"

    def prepare(version: str, libcuda: str) -> list[str]:
        for lock in (PYTHON, "server.txt"):
            (checkout / "constraints" / lock).write_text(f"small=={version}\n")
        offline = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)}
        values = {**os.environ, "LD_LIBRARY_PATH": libcuda, **offline}
        command = [sys.executable, "deploy/setup/prepare.py"]
        command += ["--python", getattr(sys, "_base_executable", sys.executable)]
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, env=values)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    libcuda, none = driver(1, 13000), driver(0, 13000)
    assert prepare("1.0", none)[-1] == "set up"
    assert prepare("2.0", libcuda)[-1] == hint
    assert add(checkout, libcuda, wheels=index).returncode == 0
    assert prepare("2.0", libcuda)[-1] == "set up", "TensorRT is there now"
    assert prepare("1.0", libcuda)[-1] == hint, "another lock may have brought another cuda-python"


def test_the_default_versions_are_those_whose_bindings_are_tested() -> None:
    source = (ROOT / COMMAND).read_text()
    for cuda, version in (("13", "11.4.0.106"), ("12", "10.16.1.11")):
        assert f'"{cuda}": "{version}"' in source
        assert (f"tensorrt_cu{cuda}_bindings", version) in WHEELS.values()
