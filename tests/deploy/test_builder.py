"""The service builder: the server's own image, its own TensorRT, and a GPU; nothing of it starts with the server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy import _engine
from tests.deploy.test_compose import environment
from tests.ux._checkout import ROOT

DOCKERFILE = ROOT / "deploy/builder.Dockerfile"
FINDER = ROOT / "deploy/find_tensorrt.py"
STATUS = """\
Package: libc6
Status: install ok installed
Version: 2.39-0ubuntu8.6

Package: libnvinfer10
Status: {status}
Architecture: amd64
Version: {version}
Description: TensorRT runtime

Package: libnvinfer-plugin10
Status: {status}
Version: {version}
"""
HEADER = """\
#ifndef NV_INFER_VERSION_H
#define NV_TENSORRT_MAJOR 10 //!< TensorRT major version.
#define NV_TENSORRT_MINOR 16 //!< TensorRT minor version.
#define NV_TENSORRT_PATCH 1 //!< TensorRT patch version.
#define NV_TENSORRT_BUILD 11 //!< TensorRT build number.
#define NV_TENSORRT_SONAME_MAJOR 10
#endif
"""
HEADER_BY_OTHER_MACROS = re.sub(
    r"#define NV_TENSORRT_(MAJOR|MINOR|PATCH|BUILD) (\d+)",
    r"#define TRT_\1_ENTERPRISE \2\n#define NV_TENSORRT_\1 TRT_\1_ENTERPRISE",
    HEADER,
)


def services() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return loaded


def instructions() -> list[tuple[str, str]]:
    """Return (instruction, words) of the Dockerfile, with continued lines joined and comments left out."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    found = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in found]


def find(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(FINDER), "--root", str(root)], capture_output=True, text=True)


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_files_follow_the_compose_specification() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_builder_does_not_start_with_the_server() -> None:
    assert services()["builder"]["profiles"] == ["builder"]
    assert "profiles" not in services()["triton"]


def test_the_builder_is_made_from_the_servers_image() -> None:
    image = services()["triton"]["image"]
    build = services()["builder"]["build"]
    assert build["args"]["BASE_IMAGE"] == image
    assert (ROOT / build["dockerfile"]) == DOCKERFILE
    default = re.fullmatch(r"\$\{TRITON_IMAGE:-(.+)\}", image)
    assert default is not None
    assert ("ARG", f"BASE_IMAGE={default[1]}") in instructions()


def test_it_builds_into_the_checkout() -> None:
    builder = services()["builder"]
    assert builder["volumes"] == [".:/workspace"]
    assert builder["working_dir"] == "/workspace"
    assert builder["entrypoint"] == ["python3", "builders/build_all.py", "--target", "tensorrt"]


def configured(*flags: str, **settings: str) -> dict[str, Any]:
    compose = _engine.find_compose()
    if not compose:
        pytest.skip("neither docker compose nor docker-compose is installed")
    done = subprocess.run(
        [*compose, *flags, "config"], cwd=ROOT, capture_output=True, text=True, env=environment(**settings)
    )
    assert done.returncode == 0, done.stderr
    loaded: dict[str, Any] = yaml.safe_load(done.stdout)["services"]
    return loaded


def test_compose_reserves_the_gpu_that_the_server_has(tmp_path: Path) -> None:
    (tmp_path / "none").write_text("")
    found = configured("--env-file", str(tmp_path / "none"), "--profile", "builder")
    devices = [found[name]["deploy"]["resources"]["reservations"]["devices"] for name in ("builder", "triton")]
    assert devices[0] == devices[1] != []
    assert found["builder"]["build"]["args"]["BASE_IMAGE"] == found["triton"]["image"]


def test_another_image_is_used_by_both(tmp_path: Path) -> None:
    (tmp_path / "none").write_text("")
    image = "registry.example/tritonserver:26.07-py3"
    found = configured("--env-file", str(tmp_path / "none"), "--profile", "builder", TRITON_IMAGE=image)
    assert found["builder"]["build"]["args"]["BASE_IMAGE"] == found["triton"]["image"] == image


def test_every_argument_of_the_dockerfile_is_declared() -> None:
    declared: set[str] = set()
    for word, rest in instructions():
        if word == "ARG":
            declared.add(rest.partition("=")[0])
        elif word in ("FROM", "COPY", "WORKDIR", "ENV", "USER"):
            used = set(re.findall(r"\$\{?(\w+)", rest))
            assert used <= declared, f"{word} {rest}"
    assert declared == {"BASE_IMAGE"}


def test_every_instruction_is_one_that_dockerfiles_have() -> None:
    known = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV"}
    assert {word for word, _ in instructions()} <= known
    assert [word for word, _ in instructions()][:2] == ["ARG", "FROM"]


def test_what_is_copied_is_in_the_builds_context() -> None:
    kept = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    sources = {rest.split()[0] for word, rest in instructions() if word == "COPY"}
    assert sources <= kept
    assert all((ROOT / source).exists() for source in sources)


def test_the_shell_of_each_step_parses() -> None:
    for word, rest in instructions():
        if word == "RUN":
            done = subprocess.run(["sh", "-n", "-c", rest], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


def test_no_package_index_and_no_version_of_tensorrt_is_named() -> None:
    text = DOCKERFILE.read_text()
    assert not re.search(r"--(extra-)?index-url|--find-links|https?://", text)
    assert not re.search(r"tensorrt\S*==", text), "the version is read from the image"


def test_what_is_installed_is_pinned_for_every_python() -> None:
    (step,) = [rest for word, rest in instructions() if word == "RUN"]
    packages = re.search(r"constraints/\$lock\.txt\"\s+(.+?)\s+&&", step)
    assert packages is not None
    names = {word.strip('"').partition("[")[0].lower() for word in packages[1].split()}
    assert names >= {"numpy", "tritonclient", "protobuf", "pydantic", "pyyaml", "psutil", "rich", "cuda-python"}
    for lock in re.findall(r"lock=(\w+)", step):
        text = (ROOT / "constraints" / f"{lock}.txt").read_text().lower()
        assert names <= set(re.findall(r"^([\w.-]+)==", text, re.MULTILINE)), lock


def test_the_version_is_found_in_dpkgs_status(tmp_path: Path) -> None:
    text = STATUS.format(status="install ok installed", version="10.16.1.11-1+cuda13.2")
    put(tmp_path, "var/lib/dpkg/status", text)
    done = find(tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "tensorrt_cu13_bindings==10.16.1.11"), done.stderr


@pytest.mark.parametrize("header", [HEADER, HEADER_BY_OTHER_MACROS])
def test_the_version_is_found_in_a_header(tmp_path: Path, header: str) -> None:
    put(tmp_path, "usr/include/x86_64-linux-gnu/NvInferVersion.h", header)
    (tmp_path / "usr/local/cuda-13.2").mkdir(parents=True)
    done = find(tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "tensorrt_cu13_bindings==10.16.1.11"), done.stderr


def test_cuda_is_found_in_its_own_version_file(tmp_path: Path) -> None:
    put(tmp_path, "usr/include/x86_64-linux-gnu/NvInferVersion.h", HEADER)
    put(tmp_path, "usr/local/cuda/version.json", json.dumps({"cuda": {"name": "CUDA SDK", "version": "12.6.3"}}))
    assert find(tmp_path).stdout.strip() == "tensorrt_cu12_bindings==10.16.1.11"


def test_a_package_that_was_removed_does_not_count(tmp_path: Path) -> None:
    text = STATUS.format(status="deinstall ok config-files", version="10.13.3.9-1+cuda13.0")
    put(tmp_path, "var/lib/dpkg/status", text)
    put(tmp_path, "usr/include/x86_64-linux-gnu/NvInferVersion.h", HEADER)
    (tmp_path / "usr/local/cuda-13.2").mkdir(parents=True)
    assert find(tmp_path).stdout.strip() == "tensorrt_cu13_bindings==10.16.1.11"


def test_without_tensorrt_it_says_what_it_looked_for(tmp_path: Path) -> None:
    put(tmp_path, "var/lib/dpkg/status", "Package: libc6\nStatus: install ok installed\nVersion: 2.39\n")
    (tmp_path / "usr/local/cuda-13.2").mkdir(parents=True)
    done = find(tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    for place in ("TensorRT", "libnvinfer", "/var/lib/dpkg/status", "NvInferVersion.h"):
        assert place in done.stderr


def test_without_cuda_it_says_what_it_looked_for(tmp_path: Path) -> None:
    put(tmp_path, "usr/include/x86_64-linux-gnu/NvInferVersion.h", HEADER)
    done = find(tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert "CUDA" in done.stderr
    assert "/usr/local/cuda" in done.stderr


def test_two_versions_are_not_chosen_between(tmp_path: Path) -> None:
    for name, version in (("libnvinfer10", "10.16.1.11-1+cuda13.2"), ("libnvinfer11", "11.0.0.114-1+cuda13.3")):
        text = f"Package: {name}\nStatus: install ok installed\nVersion: {version}\n"
        put(tmp_path, f"var/lib/dpkg/status.d/{name}", text)
    done = find(tmp_path)
    assert done.returncode == 3
    assert "10.16.1.11, 11.0.0.114" in done.stderr
