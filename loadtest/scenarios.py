"""``locust -f loadtest/``: load any published model over HTTP, gRPC and shared memory, in closed and open loops.

In      a running server (python -m serving, or docker compose up triton), the environment and config.yaml (see docs/loadtest.md).
Out     locust's own tables and web page, and runs/<id>/report.json and report.html when the test stops.

A scenario of your own is a class like these, in a file of its own beside this one: copy _example.py, which locust leaves out
because its name begins with ``_``. The project's root is put on the import path, because locust puts only this folder there.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measure.load.user import SETTINGS, Infer, ProfileOfUsers, tag, task


class InferHttp(Infer):
    """HTTP with binary tensors and prebuilt bodies."""

    transport = "http"

    @tag("http")
    @task
    def infer(self) -> None:
        """One request."""
        self.send()


class InferGrpc(Infer):
    """gRPC with prebuilt messages."""

    transport = "grpc"

    @tag("grpc")
    @task
    def infer(self) -> None:
        """One request."""
        self.send()


class InferShm(Infer):
    """gRPC with tensors in system shared memory; on the server's own machine, only with --tags."""

    transport = "shm"

    @tag("shm")
    @task
    def infer(self) -> None:
        """One request."""
        self.send()


class InferCuda(Infer):
    """gRPC with tensors in CUDA shared memory; on the server's own machine, only with --tags."""

    transport = "cuda"

    @tag("cuda")
    @task
    def infer(self) -> None:
        """One request."""
        self.send()


if SETTINGS.users is not None:  # a shape that is merely there would cancel --users and --run-time

    class Users(ProfileOfUsers):
        """As many users as PLANWRIGHT_USERS says at each moment."""
