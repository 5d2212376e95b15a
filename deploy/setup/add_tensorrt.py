"""``make setup-tensorrt``: install TensorRT and cuda-python into both environments, or report in one message why not.

In      what ``make setup`` made, ``server.tensorrt`` of config.yaml, libcuda, constraints/tensorrt-cu12.txt and -cu13.txt.
Out     ``.venv`` and ``.venv-server`` with the same TensorRT, each with a stamp: a second run does nothing.

Standard library only, like prepare.py. The large packages are downloaded once, before anything is removed, and kept until both
environments have them: a machine that cannot get them keeps the TensorRT it had. Versions are requested as ``==10.7.0.*``: a
repackaged one is called 10.7.0.post1 and is the same TensorRT. cuda-python contains the CUDA runtime, and that of CUDA 13 does
not start on a driver of CUDA 12, so its version follows TensorRT's package; numpy and everything else in an environment's own
lock stays.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import machine
import prepare

ROOT = prepare.ROOT
ENVIRONMENTS = (ROOT / ".venv", ROOT / ".venv-server")
# the newest of each CUDA whose binding our tests check our calls against (tests/tensorrt/test_bindings.py)
KNOWN_GOOD = {"13": "11.4.0.106", "12": "10.16.1.11"}
FIRST_CU13 = (10, 13, 2)
# by TensorRT's major version: what pip downloads, and the disk space for that, pip's cache and both environments, in GB
SIZES = {8: (2.0, 11), 10: (2.5, 16), 11: (3.8, 24)}
WHEELS = ROOT / ".planwright" / "tensorrt-wheels"
NEWEST_PYTHON = {"8.6.0": "3.10", "8.6.1": "3.11"}
AGAIN = "then make setup-tensorrt again"
# TensorRT 8.6.1 and 10.0 would otherwise run another pip inside pip, without our constraints
NO_NESTED_PIP = {"NVIDIA_TENSORRT_DISABLE_INTERNAL_PIP": "1"}

# Run with the environment's Python, which has yaml; this one may not.
READ_CONFIG = """
import pathlib, yaml
path = pathlib.Path("config.yaml")
config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
server = config.get("server") if isinstance(config, dict) else None
print(server.get("tensorrt") or "" if isinstance(server, dict) else "")
"""
# Both can be imported without a GPU; only using them needs one.
IMPORT_TENSORRT = "import cuda.bindings.runtime, tensorrt; print(tensorrt.__version__)"


@dataclass(frozen=True)
class Choice:
    """One TensorRT: the version as requested, why it was chosen, and the CUDA of its packages."""

    version: str
    why: str
    cuda: str

    @property
    def number(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split("."))

    @property
    def packaged(self) -> str:
        """Return the version as on the package index: three parts before 10.8, four since."""
        return self.version if self.number >= (10, 8) else ".".join(self.version.split(".")[:3])

    @property
    def names(self) -> tuple[str, ...]:
        """Return the packages; up to 8.6.0 there was only one."""
        if self.packaged == "8.6.0":
            return ("tensorrt",)
        first = "tensorrt" if self.number < (10,) else f"tensorrt_cu{self.cuda}"
        return (first, f"{first}_libs", f"{first}_bindings")

    @property
    def large(self) -> list[str]:
        """Return what to download once for both environments: TensorRT, and the libraries that only 8.6 needs."""
        libraries = [f"{name}=={version}" for name, version in read(self.lock).items() if name.startswith("nvidia-")]
        return [*(f"{name}=={self.packaged}.*" for name in self.names), *(libraries if self.number < (10,) else [])]

    @property
    def lock(self) -> Path:
        """Return the file with the versions of the packages beside it."""
        return ROOT / "constraints" / f"tensorrt-cu{self.cuda}.txt"


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    for folder in ENVIRONMENTS:
        if lock_of(folder) is None or not prepare.python_of(folder):
            stop(f"{folder.name} is not set up", fix=f"make setup (with Python 3.10: make setup-serve), {AGAIN}")
    gpu = machine.find_gpu(python_in(ROOT / ".venv"), ROOT)
    if gpu is None and not args.force:
        fix = "make setup-tensorrt on a machine with an NVIDIA GPU and its driver; FORCE=1 installs it here anyway"
        stop("there is no GPU for TensorRT", why="libcuda reports none", fix=fix)
    choice = choose(args.version, gpu)
    if args.plan:
        prepare.say(plan(choice))
        return 0
    add(choice, args.force)
    return 0


def parser() -> argparse.ArgumentParser:
    description = "Add TensorRT and cuda-python to .venv and .venv-server."
    p = argparse.ArgumentParser(prog="make setup-tensorrt", description=description)
    default = "by default server.tensorrt of config.yaml, else what fits the driver"
    p.add_argument("--version", default="", help=f"TensorRT's version (TENSORRT=10.16.1.11); {default}")
    p.add_argument("--force", action="store_true", help="also without a GPU, or with little disk space (FORCE=1)")
    p.add_argument("--plan", action="store_true", help="only print what would be installed")
    return p


def choose(requested: str, gpu: machine.Gpu | None) -> Choice:
    """Return the TensorRT to install: the requested one, else the server's, else the newest that fits the driver."""
    major = int(gpu.cuda.split(".")[0]) if gpu else 13
    if major < 12:
        fix = "install a driver of CUDA 12 or 13 (535 or newer; 580 for CUDA 13)"
        stop("the driver is too old for TensorRT", why=f"it supports CUDA {gpu.cuda if gpu else ''}", fix=fix)
    fitting = "13" if major >= 13 else "12"
    configured = "" if requested else server_version()
    version = requested or configured or KNOWN_GOOD[fitting]
    number = checked(version, "TENSORRT (--version)" if requested else "config.yaml's server.tensorrt")
    default = "from config.yaml" if configured else f"the newest tested one for CUDA {fitting}"
    why = f"{'as requested' if requested else default}; {f'{gpu.name}, CUDA {gpu.cuda}' if gpu else 'no GPU here'}"
    return Choice(version, why, fitting if number >= FIRST_CU13 else "12")


def checked(version: str, place: str) -> tuple[int, ...]:
    """Return the version as numbers; refuse what is not a version, and what Planwright does not support."""
    number = tuple(int(part) for part in version.split(".")) if re.fullmatch(r"\d+(\.\d+){2,3}", version) else ()
    if number[:2] != (8, 6) and number[:1] not in ((10,), (11,)):
        why, fix = f"{place} is {version}; Planwright supports 8.6, 10 and 11", "give all parts: 8.6.0 or 10.16.1.11"
        stop("this TensorRT cannot be installed", why=why, fix=fix, code=machine.EXIT_USAGE)
    return number


def server_version() -> str:
    """Return ``server.tensorrt`` of config.yaml, "" where it is not given."""
    command = [str(python_in(ROOT / ".venv")), "-c", READ_CONFIG]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        fix = "python builders/build_all.py --plan says what is wrong; or make setup-tensorrt TENSORRT=10.16.1.11"
        stop("config.yaml cannot be read", why=last_line(done.stderr), fix=fix, code=machine.EXIT_USAGE)
    return done.stdout.strip()


def plan(choice: Choice) -> str:
    size, _ = SIZES[choice.number[0]]
    beside = [f"{name}=={version}" for name, version in read(choice.lock).items()]
    lines = [
        f"TensorRT {choice.version} ({choice.why})",
        f"  into     {' and '.join(folder.name for folder in ENVIRONMENTS)}",
        f"  install  {' '.join(choice.large)} cuda-python",
        f"  pinned   {' '.join(beside)}",
        f"  size     about {size} GB to download",
    ]
    return "\n".join(lines)


def add(choice: Choice, force: bool) -> None:
    """Install into each environment what is missing, and check that it can be imported."""
    with prepare.one_at_a_time():
        stamps = {folder: prepare.stamp(folder, prepare.TENSORRT_STAMP) for folder in ENVIRONMENTS}
        todo = [folder for folder, stamp in stamps.items() if stamp != wanted_stamp(folder, choice)]
        if not todo:
            prepare.say(f"TensorRT {choice.version} is in .venv and .venv-server")
            return
        check_early(choice, force)
        size, _ = SIZES[choice.number[0]]
        prepare.say(f"TensorRT {choice.version} ({choice.why}): about {size} GB to download")
        wheels = fetch(choice)
        for folder in todo:
            install(folder, choice, wheels)
        shutil.rmtree(WHEELS)
        prepare.say("TensorRT is set up")


def check_early(choice: Choice, force: bool) -> None:
    """Stop before gigabytes are downloaded for nothing."""
    newest, here = NEWEST_PYTHON.get(choice.packaged), prepare.python_of(ROOT / ".venv")
    if newest and minor(here) > minor(newest):
        fix = f"make setup-serve PYTHON=python{newest}, {AGAIN}; or take TensorRT 10 or 11"
        stop(f"there is no TensorRT {choice.version} for Python {here}", why=f"{newest} is its newest", fix=fix)
    _, need = SIZES[choice.number[0]]
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < need and not force:
        why = f"TensorRT {choice.version} needs about {need} GB while it is set up, {free:.0f} GB are free"
        stop("the disk is too full", why=why, fix=f"free space at {ROOT}, {AGAIN}; FORCE=1 tries anyway")


def fetch(choice: Choice) -> list[str]:
    """Download the large packages and return their wheels; a folder with its final name is complete."""
    folder = WHEELS / hashlib.sha256(" ".join(choice.large).encode()).hexdigest()[:16]
    if not folder.exists():
        shutil.rmtree(WHEELS, ignore_errors=True)
        download(choice, folder.with_suffix(".part"))
        folder.with_suffix(".part").rename(folder)
    return [str(wheel) for wheel in sorted(folder.glob("*.whl"))]


def download(choice: Choice, folder: Path) -> None:
    """Let pip download wheels, and build those of source packages, without installing anything."""
    if choice.number >= (10,):
        prepare.say("  its libraries come from NVIDIA's index, without progress while they are downloaded")
    os.environ.update(NO_NESTED_PIP)
    flags = ["--no-input", "--no-deps", "--prefer-binary", "--wheel-dir", str(folder)]
    size = prepare.run([*pip(ROOT / ".venv"), "wheel", *flags, *choice.large], fix=advice(choice))
    prepare.say(f"  {size / 1e6:.0f} MB downloaded by pip")


def install(folder: Path, choice: Choice, wheels: list[str]) -> None:
    """Install this TensorRT into one environment; the stamp is written last."""
    stamp = folder / prepare.TENSORRT_STAMP
    if stamp.exists():
        stamp.unlink()
    remove_others(folder, choice)
    pinned = ROOT / ".planwright" / f"tensorrt{folder.name}.txt"
    pinned.write_text("".join(f"{name}=={version}\n" for name, version in versions(folder, choice).items()))
    prepare.say(f"{folder.name}: TensorRT {choice.version}, {choice.lock.relative_to(ROOT)} ...")
    command = [*pip(folder), "install", "--no-input", "--prefer-binary", "-c", str(pinned), "cuda-python", *wheels]
    prepare.run(command, fix=f"see the lines above (network, disk?), {AGAIN}")
    found = imported(folder)
    stamp.write_text(wanted_stamp(folder, choice))
    prepare.say(f"{folder.name}: tensorrt {found} can be imported")


def remove_others(folder: Path, choice: Choice) -> None:
    """Remove packages of other names: those for CUDA 12 and for CUDA 13 own the same files."""
    found = {re.split(r"-\d", path.name)[0] for path in folder.glob("lib/python*/site-packages/tensorrt*.dist-info")}
    others = sorted(name for name in found if re.fullmatch(r"tensorrt(_cu\d+)?(_libs|_bindings)?", name))
    others = [name for name in others if name not in choice.names]
    if others:
        prepare.say(f"{folder.name}: removing {', '.join(others)}")
        prepare.run([*pip(folder), "uninstall", "--yes", *others], fix=f"see the lines above, {AGAIN}")


def versions(folder: Path, choice: Choice) -> dict[str, str]:
    """Return the versions to pin: the environment's own, without those for another CUDA."""
    beside = read(choice.lock)
    lock = lock_of(folder)
    own = read(lock) if lock else {}
    if own.get("cuda-bindings", choice.cuda).split(".")[0] != choice.cuda:
        own = {name: version for name, version in own.items() if name not in beside}
    return {**beside, **own}


def lock_of(folder: Path) -> Path | None:
    """Return the file that an environment was made from; None where it is incomplete or the file has changed since."""
    locks = [of(serve_only) for of in (prepare.lock_file, prepare.server_lock) for serve_only in (False, True)]
    return next((lock for lock in locks if prepare.stamp(folder) == prepare.digest(lock)), None)


def read(lock: Path) -> dict[str, str]:
    """Return a lock's versions by name."""
    pairs = [line.split("==") for line in lock.read_text().splitlines() if "==" in line and not line.startswith("#")]
    return dict(pairs)


def wanted_stamp(folder: Path, choice: Choice) -> str:
    """Return the environment's own stamp, because ``make setup`` may change cuda-python, and what is added."""
    return "\n".join([prepare.stamp(folder), *choice.large, choice.lock.read_text()])


def imported(folder: Path) -> str:
    """Import TensorRT in a child process and return its version; a missing or broken library stops the set-up."""
    command = [str(python_in(folder)), "-c", IMPORT_TENSORRT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        why = last_line(done.stderr) or f"its Python ended with code {done.returncode}"
        fix = f"rm -r {folder.name}, make setup, {AGAIN}; or request another version: make setup-tensorrt TENSORRT=10.16.1.11"
        stop(f"{folder.name}: TensorRT is installed but cannot be imported", why=why, fix=fix)
    return done.stdout.strip()


def advice(choice: Choice) -> str:
    if choice.packaged == "8.6.0":
        return f"see the lines above (network, disk?), {AGAIN}"
    reached = "" if choice.number < (10,) else ", which its package contacts directly and this machine must reach"
    return (
        f"the libraries of TensorRT {choice.version} are on NVIDIA's index{reached}; if the lines above mention it, "
        f"set PIP_EXTRA_INDEX_URL to NVIDIA's index or a copy of it, {AGAIN}"
    )


def pip(folder: Path) -> list[str]:
    return [str(python_in(folder)), "-m", "pip"]


def python_in(folder: Path) -> Path:
    return folder / "bin" / "python"


def minor(version: str) -> int:
    """Return 11 for ``3.11``."""
    return int(version.split(".")[1])


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def stop(what: str, *, fix: str, why: str = "", code: int = machine.EXIT_MACHINE) -> NoReturn:
    """Print a fault in the form of planwright.errors, which may not be importable here, and exit."""
    lines = [f"error: {what}", f"  why    {why}" if why else "", f"  fix    {fix}", "  check  make setup-tensorrt"]
    prepare.say("\n".join(line for line in lines if line))
    raise SystemExit(code)


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        prepare.say("stopped by Ctrl-C; make setup-tensorrt continues from here")
        raise SystemExit(machine.EXIT_INTERRUPTED) from None
