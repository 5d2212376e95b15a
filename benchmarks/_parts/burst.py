"""One client used by everything at once: threads of its process, and forked children with threads of their own.

In      a JSON object on the command line: a model, its repository, options of `TritonModel`, how many children, threads and requests.
Out     a JSON object: how many answers were right and wrong, errors by their text, children that ended and that hung.

A separate program, because a process that forks must not be doing anything else. Every third request was prepared
before the threads and the children started. Right answers are the golden ones.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clients import ClientError, PreparedRequest, Tls, TritonModel, published
from planwright import console
from planwright.golden import Group

MOST_ROWS = 3
AGREE = 1e-3  # relative and absolute: merging requests changes float32 by less, another sample's answer differs by more


@dataclass(frozen=True)
class BurstJob:
    """The requests to send.

    Attributes:
        group: Golden samples of one shape.
        children, threads: Processes, and threads in each of them and in the parent.
        requests: Of each thread.
        limit_s: A child that has not ended by then counts as hung.
    """

    group: Group
    children: int
    threads: int
    requests: int
    limit_s: float


class Burst:
    """One client with a prepared request, and the threads of this process that use both."""

    def __init__(self, job: BurstJob, model: TritonModel) -> None:
        self.job, self.model = job, model
        self.prepared: list[tuple[Group, PreparedRequest]] = []
        for index in range(min(MOST_ROWS, len(job.group))):
            group = job.group.take([index])
            self.prepared.append((group, model.prepare(group.inputs)))

    def start(self, seed: int) -> list[tuple[threading.Thread, Counter[str]]]:
        found: list[tuple[threading.Thread, Counter[str]]] = []
        for index in range(self.job.threads):
            counts = Counter[str]()
            found.append((threading.Thread(target=self._work, args=(1000 * seed + index, counts)), counts))
            found[-1][0].start()
        return found

    def _work(self, seed: int, counts: Counter[str]) -> None:
        random = np.random.default_rng(seed)
        for number in range(self.job.requests):
            try:
                counts["right" if self.once(random, prepared=number % 3 == 2) else "WRONG"] += 1
            except ClientError as error:
                counts[f"{type(error).__name__}: {error.faults[0].what}: {error.faults[0].why}"] += 1
            except Exception as error:
                counts[f"not a ClientError: {type(error).__name__}: {error}"] += 1

    def once(self, random: Any, *, prepared: bool) -> bool:
        """Send one request; True where the answer is the golden one."""
        if prepared:
            group, request = self.prepared[random.integers(len(self.prepared))]
            return agrees(group, request.infer())
        chosen = random.integers(len(self.job.group), size=random.integers(1, MOST_ROWS + 1))
        group = self.job.group.take(chosen.tolist())
        return agrees(group, self.model.infer_batch(group.inputs))


def agrees(group: Group, answers: Any) -> bool:
    return all(
        array.shape == answers[name].shape and np.allclose(array, answers[name], rtol=AGREE, atol=AGREE)
        for name, array in group.outputs.items()
    )


def total(started: list[tuple[threading.Thread, Counter[str]]], limit_s: float) -> Counter[str]:
    found, deadline = Counter[str](), time.monotonic() + limit_s
    for thread, counts in started:
        thread.join(max(deadline - time.monotonic(), 0.1))
        found.update({"hung threads": 1} if thread.is_alive() else counts)
    return found


def burst(job: BurstJob, model: TritonModel) -> Counter[str]:
    """Use one client from threads and forked children at once, and once more at the end."""
    shared = Burst(job, model)
    shared.once(np.random.default_rng(0), prepared=False)
    here = shared.start(0)  # so that it forks while connections are in use
    folder = Path(tempfile.mkdtemp(prefix="planwright-burst-"))  # not in a with: a child would delete it
    children = {child(shared, seed, folder): folder / f"{seed}.json" for seed in range(1, job.children + 1)}
    found = total(here, job.limit_s)
    deadline = time.monotonic() + job.limit_s
    for pid, path in children.items():
        found[f"children {'ended' if wait(pid, deadline) == 0 else 'HUNG OR FAILED'}"] += 1
        found.update(json.loads(path.read_text()) if path.exists() else {})
    shutil.rmtree(folder)
    last = [shared.once(np.random.default_rng(1), prepared=prepared) for prepared in (False, True)]
    found["right at the end"] += sum(last)
    return found


def child(shared: Burst, seed: int, folder: Path) -> int:
    """Fork a child that sends its share of the requests; returns its process id."""
    time.sleep(0.01)  # so that forks meet the parent's requests at different moments
    pid = os.fork()
    if pid:
        return pid
    found = total(shared.start(seed), shared.job.limit_s)
    shared.model.close()
    (folder / f"{seed}.json").write_text(json.dumps(found))
    if seed % 2:
        os._exit(0)
    sys.exit(0)  # the interpreter's shutdown must not touch the parent's resources either


def wait(pid: int, deadline: float) -> int:
    """Return the status of a child, which is killed at the deadline."""
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def main(given: dict[str, Any]) -> None:
    version = published.served(Path(given["repository"]), given["model"])
    assert version is not None
    tls = Tls(**given["tls"]) if given.get("tls") else None
    with TritonModel(given["model"], tls=tls, **given["options"]) as model:
        counts = {key: given[key] for key in ("children", "threads", "requests", "limit_s")}
        job = BurstJob(version.golden().groups[0], **counts)
        found = burst(job, model)
    console.emit_json(found)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
