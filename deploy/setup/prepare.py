"""``make setup``: from a bare checkout to everything that runs, or one message that names all that is missing.

In      the Python that ``make`` found, the files in constraints/.
Out     ``.venv`` (everything), ``.venv-server`` (the server's stubs, numpy 1.26), ``.tritonserver`` (the wheel, unpacked).

Standard library only: it runs before anything is installed. Each part is stamped with the hash of what it was made from, so
a second run does nothing and a killed one goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVER_WHEEL = "nvidia-pytriton==0.7.0"  # carries tritonserver 2.51, the newest on the package index
NEED_BYTES = 6 << 30
NEED_GLIBC = (2, 35)
EXIT_MACHINE = 3


def main(argv: list[str]) -> int:
    """Set up; ``--serve-only`` makes what compile and serve need, also on Python 3.10."""
    serve_only = "--serve-only" in argv
    missing = problems(serve_only)
    if missing:
        say("error: this machine lacks what Planwright needs\n" + "\n".join(f"  - {text}" for text in missing))
        return EXIT_MACHINE
    lock = "py310.txt" if sys.version_info[:2] == (3, 10) else "py311.txt"
    environment(ROOT / ".venv", ROOT / "constraints" / lock, "everything")
    environment(ROOT / ".venv-server", ROOT / "constraints" / "server.txt", "the server's stubs")
    server(ROOT / ".tritonserver")
    if not serve_only and not stamp_file(ROOT / ".venv", "torch").exists():
        say(torch_build(ROOT / ".venv"))
        stamp_file(ROOT / ".venv", "torch").touch()
    return 0


def problems(serve_only: bool) -> list[str]:
    """Return everything that is missing, each with the line that installs it."""
    found = []
    minor = "%d.%d" % sys.version_info[:2]
    allowed = [(3, 10), (3, 11), (3, 12)] if serve_only else [(3, 11), (3, 12)]
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        found.append(f"Linux on x86-64; this is {platform.system()} on {platform.machine()}")
    if sys.version_info[:2] not in allowed:
        found.append(f"Python 3.11 or 3.12; this is {minor}: apt-get install python3.11, then make PYTHON=python3.11")
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        found.append(f"Python's venv: apt-get install python{minor}-venv")
    if not has_shared_libpython():
        found.append(f"a shared libpython{minor}, which the server's stubs load: apt-get install libpython{minor}")
    glibc = tuple(int(part) for part in platform.libc_ver()[1].split(".")[:2] if part.isdigit())
    if glibc < NEED_GLIBC:
        found.append(f"glibc 2.35 or newer; this is {platform.libc_ver()[1]}: use Debian 12 or Ubuntu 22.04 or newer")
    if shutil.which("git") is None:
        found.append("git: apt-get install git")
    free = shutil.disk_usage(ROOT).free
    if free < NEED_BYTES and not (ROOT / ".venv").exists():
        found.append(f"{NEED_BYTES >> 30} GiB of disk space; {free >> 30} GiB are free")
    return found


def has_shared_libpython() -> bool:
    """Say whether the library that the stubs load lies beside this Python or in the system's place."""
    name = sysconfig.get_config_var("INSTSONAME") or ""
    folders = [Path(sysconfig.get_config_var("LIBDIR") or ""), Path("/usr/lib/x86_64-linux-gnu")]
    stem = f"libpython{sys.version_info[0]}.{sys.version_info[1]}.so"
    return ".so" in name or any(list(folder.glob(f"{stem}*")) for folder in folders)


def environment(folder: Path, lock: Path, purpose: str) -> None:
    """Make a virtual environment with exactly what `lock` names, unless it is there already."""
    wanted = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    stamp = stamp_file(folder, "lock")
    if stamp.exists() and stamp.read_text() == wanted:
        return
    say(f"{folder.name}: {purpose} ...")
    shutil.rmtree(folder, ignore_errors=True)
    run([sys.executable, "-m", "venv", str(folder)])
    output = run([str(folder / "bin" / "python"), "-m", "pip", "install", "--no-input", "-r", str(lock)])
    say(f"{folder.name}: ready, {downloaded(output)}")
    stamp.write_text(wanted)


def server(folder: Path) -> None:
    """Unpack the tritonserver wheel into a folder of its own: its Python side must not mix with ours."""
    stamp = stamp_file(folder, "wheel")
    if stamp.exists() and stamp.read_text() == SERVER_WHEEL:
        return
    say(f"{folder.name}: tritonserver from {SERVER_WHEEL} ...")
    shutil.rmtree(folder, ignore_errors=True)
    python = str(ROOT / ".venv" / "bin" / "python")
    output = run([python, "-m", "pip", "install", "--no-input", "--no-deps", "--target", str(folder), SERVER_WHEEL])
    say(f"{folder.name}: ready, {downloaded(output)}")
    stamp.write_text(SERVER_WHEEL)


def torch_build(folder: Path) -> str:
    """Say which torch pip chose: the same version is satisfied by a CPU and by a CUDA build."""
    ask = "import torch; print(torch.__version__, torch.version.cuda or '')"
    version, _, cuda = run([str(folder / "bin" / "python"), "-c", ask]).strip().partition(" ")
    return f"torch {version}: " + (f"the CUDA {cuda} build" if cuda else "the CPU build")


def downloaded(output: str) -> str:
    """Sum the sizes in pip's lines."""
    units = {"kB": 1e3, "MB": 1e6, "GB": 1e9}
    sizes = re.findall(r"Downloading \S+ \(([\d.]+) ([kMG]B)\)", output)
    total = sum(float(size) * units[unit] for size, unit in sizes)
    return f"{total / 1e6:.0f} MB downloaded"


def stamp_file(folder: Path, name: str) -> Path:
    """Return the file that says what `folder` was made from."""
    return folder / f".planwright-{name}"


def run(command: list[str]) -> str:
    """Run quietly; on failure show the end of what it said and stop."""
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        say(f"error: {' '.join(command)} failed\n{tail}\n  fix    see the lines above (network, disk?), then make setup again")
        raise SystemExit(EXIT_MACHINE)
    return done.stdout


def say(text: str) -> None:
    """Print at once, so that a person sees progress."""
    print(text, flush=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
