"""``make setup``: install everything into a bare checkout, or report everything that is missing in one message.

In      any Python 3 that ``make`` found (it only finds the right one), the files in constraints/.
Out     ``.venv`` (everything), ``.venv-server`` (the server's stubs, numpy 1.26), ``.tritonserver`` (the wheel, unpacked).

Where libcuda shows a GPU and TensorRT is missing, a set-up that changed something ends with a hint to ``make setup-tensorrt``.

Standard library only: it runs before anything is installed. A part gets its stamp, the hash of what it was made from, when it
is complete: a second run does nothing, and after a kill an unstamped part is rebuilt from pip's cache.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import machine

ROOT = Path(__file__).resolve().parents[2]
SERVER_WHEEL = "nvidia-pytriton==0.7.0"  # carries tritonserver 2.51, the newest on the package index
# the hash of what a part was made from; and the environment's stamp when TensorRT was added, with what was added
STAMP, TENSORRT_STAMP = ".planwright-stamp", ".planwright-tensorrt"
SHOW_BYTES = 20e6  # smaller downloads are not worth a line
# what pip prints around a failure without adding to it
NOISE = re.compile(r"\s*(note: This|hint: |\[end of output\]|WARNING: Location)|[\s*]*$")
UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9}


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    locks = {ROOT / ".venv": lock_file(args.serve_only), ROOT / ".venv-server": server_lock(args.serve_only)}
    if not args.python and not args.check and is_complete(locks):
        return 0
    found = machine.find_python(args.python, args.serve_only)
    missing = machine.problems(found, args.serve_only, ROOT)
    if found is None or missing:
        say(machine.render(missing))
        return machine.EXIT_MACHINE
    if args.check:
        say(f"ready for make setup, with {found.path} ({found.version})")
        return 0
    with one_at_a_time():
        install(found, locks)
    return 0


def parser() -> argparse.ArgumentParser:
    description = "Install everything that Planwright needs into this checkout."
    p = argparse.ArgumentParser(prog="make setup", description=description)
    add = p.add_argument
    add("--python", default="", help="the Python to use (default: python3.12, python3.11 or python3)")
    add("--serve-only", action="store_true",
        help="only what compile, publish, serve and the clients need (Python 3.10 is enough)")  # fmt: skip
    add("--check", action="store_true", help="only report whether this machine is ready")
    return p


def lock_file(serve_only: bool) -> Path:
    return ROOT / "constraints" / ("py310.txt" if serve_only else "py311.txt")


def server_lock(serve_only: bool) -> Path:
    """Return the lock of ``.venv-server``, with the onnxruntime of ``.venv``, which builds what this one serves."""
    return ROOT / "constraints" / ("server310.txt" if serve_only else "server.txt")


def is_complete(locks: dict[Path, Path]) -> bool:
    """Return whether every part is there and made from the current constraints/."""
    pythons = all((folder / "bin" / "python").exists() for folder in locks)
    stamps = all(stamp(folder) == digest(lock) for folder, lock in locks.items())
    return pythons and stamps and stamp(ROOT / ".tritonserver") == SERVER_WHEEL


def install(found: machine.Python, locks: dict[Path, Path]) -> None:
    for folder, lock in locks.items():
        environment(folder, lock, found)
    server(ROOT / ".tritonserver")
    if locks[ROOT / ".venv"].name == "py311.txt":
        say(torch_build(ROOT / ".venv"))
    say("set up")
    gpu = None if has_tensorrt(locks) else machine.find_gpu(ROOT / ".venv" / "bin" / "python", ROOT)
    if gpu:
        say(f"GPU found ({gpu.name}): make setup-tensorrt adds TensorRT")


def has_tensorrt(folders: Iterable[Path]) -> bool:
    """Return whether TensorRT is in all environments, and cuda-python still as ``make setup-tensorrt`` left it."""
    return all(
        list(folder.glob("lib/python*/site-packages/tensorrt/__init__.py"))
        and stamp(folder, TENSORRT_STAMP).partition("\n")[0] in ("", stamp(folder))
        for folder in folders
    )


def environment(folder: Path, lock: Path, found: machine.Python) -> None:
    """Make a virtual environment from `lock`; one that was complete before is updated in place."""
    wanted = digest(lock)
    same_python = python_of(folder) == found.minor
    if same_python and stamp(folder) == wanted:
        return
    say(f"{folder.name}: Python {found.version}, {lock.relative_to(ROOT)} ...")
    if not same_python or not stamp(folder):
        shutil.rmtree(folder, ignore_errors=True)
        run([found.path, "-m", "venv", str(folder)])
    if stamp(folder):
        (folder / STAMP).unlink()
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--no-input", "--prefer-binary"]
    size = run([*pip, "-r", str(lock), "-c", str(ROOT / "constraints" / "cuda.txt")])
    say(f"{folder.name}: ready, {size / 1e6:.0f} MB downloaded")
    (folder / STAMP).write_text(wanted)


def server(folder: Path) -> None:
    """Unpack the tritonserver wheel into a separate folder: its Python packages must not mix with ours."""
    if stamp(folder) == SERVER_WHEEL:
        return
    say(f"{folder.name}: tritonserver from {SERVER_WHEEL} ...")
    shutil.rmtree(folder, ignore_errors=True)
    pip = [str(ROOT / ".venv" / "bin" / "python"), "-m", "pip", "install", "--no-input", "--no-deps"]
    size = run([*pip, "--target", str(folder), SERVER_WHEEL])
    say(f"{folder.name}: ready, {size / 1e6:.0f} MB downloaded")
    (folder / STAMP).write_text(SERVER_WHEEL)


def torch_build(folder: Path) -> str:
    """Return which torch pip chose: the same version is satisfied by a CPU and by a CUDA build."""
    code = "import torch; print(torch.__version__, torch.version.cuda or '')"
    done = subprocess.run([str(folder / "bin" / "python"), "-c", code], capture_output=True, text=True)
    if done.returncode:
        return f"torch cannot be imported: {done.stderr.strip().splitlines()[-1]}"
    version, _, cuda = done.stdout.strip().partition(" ")
    if not cuda:
        return f"torch {version}: the CPU build"
    return f"torch {version}: the CUDA {cuda} build (a CPU build is enough: set PIP_EXTRA_INDEX_URL to the PyTorch project's CPU index)"


def digest(lock: Path) -> str:
    """Return the stamp of an environment that is made from `lock`."""
    return hashlib.sha256(lock.read_bytes() + (ROOT / "constraints" / "cuda.txt").read_bytes()).hexdigest()


def python_of(folder: Path) -> str:
    """Return the minor version of an environment's Python, "" where there is none that runs."""
    config = folder / "pyvenv.cfg"
    if not config.exists() or not (folder / "bin" / "python").exists():
        return ""
    match = re.search(r"^version = (\d+\.\d+)", config.read_text(), re.MULTILINE)
    return match.group(1) if match else ""


def stamp(folder: Path, file: str = STAMP) -> str:
    """Return a stamp of `folder`, "" where it was not completed."""
    return (folder / file).read_text() if (folder / file).exists() else ""


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Allow only one set-up in this checkout; a second one waits and then finds everything done."""
    (ROOT / ".planwright").mkdir(exist_ok=True)
    with (ROOT / ".planwright" / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(command: list[str], fix: str = "see the lines above (network, disk?), then make setup again") -> float:
    """Run, show large downloads as they begin, and return the bytes downloaded; on failure show the last lines and `fix`, and exit."""
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_PROGRESS_BAR": "off", "PYTHONUNBUFFERED": "1"}
    lines, total = [], 0.0
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            total += show(line)
    if process.returncode:
        tail = "\n".join(f"  {text}" for text in [text for text in lines if not NOISE.match(text)][-15:])
        say(f"error: {' '.join(command)} failed\n{tail}\n  fix    {fix}")
        raise SystemExit(machine.EXIT_MACHINE)
    return total


def show(line: str) -> float:
    """Show what pip does where it takes time; return the bytes that `line` reports as downloaded."""
    if line.startswith("Installing collected packages"):
        say("  installing ...")
    found = re.search(r"Downloading (\S+) \(([\d.]+) ([kMG]B)\)", line)
    if not found:
        return 0.0
    size = float(found.group(2)) * UNITS[found.group(3)]
    if size >= SHOW_BYTES:
        say(f"  downloading {found.group(1).split('/')[-1]} ({size / 1e6:.0f} MB)")
    return size


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        say("stopped by Ctrl-C; make setup continues from here")
        raise SystemExit(machine.EXIT_INTERRUPTED) from None
