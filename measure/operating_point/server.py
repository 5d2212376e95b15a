"""The server of a sweep or a tune, and changes of its settings by the load API.

In      the published model, or the address given with ``--server``.
Out     `Bench`: a server whose model can be set, and is set back.

A server of one's own runs in explicit mode on a hard-linked copy of the one model: the repository is only read. One
throw-away override comes first, because the first override reloads the model and later changes of instances do not. A
given server gets back the config that it had, and that is looked at, also after Ctrl-C: meanwhile a second Ctrl-C is
not heard.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure.operating_point import setting as point_setting
from measure.operating_point.setting import Config, Setting
from measure.record import server_statistics
from planwright.config_pbtxt import parse
from planwright.errors import Fault, MachineError, PlanwrightError, SpecError, StageError
from planwright.own_server import own_server
from planwright.server_info import SERVER_FILE, ServerInfo
from planwright.triton_admin import RefusedError, TritonAdmin, UnreachableError

LOAD_TIMEOUT_S = 120.0
EXPLICIT = "start it with --model-control-mode=explicit"


class Bench:
    """A server and one model on it, whose setting can be changed."""

    def __init__(self, server: ServerInfo, model: str) -> None:
        self.server, self.model = server, model
        self.base = self.config()
        self.published = point_setting.setting_of(self.base)
        self.identity = server_statistics.Server(server.http_url, server.grpc_url).identity()
        self.untuned: Setting | None = None

    def prepare(self) -> None:
        """Reload the model once, so that later changes of instances are in place."""
        self._override(self.base)

    def learn_untuned(self) -> Setting:
        """Let Triton serve the model as if nothing were said about serving, and return the setting that it chose."""
        self._override(point_setting.untuned(self.base))
        self.untuned = point_setting.setting_of(self.config())
        return self.untuned

    def set(self, setting: Setting) -> None:
        """Serve the model with `setting`.

        Raises:
            StageError: The server refused it, or says that it does something else.
        """
        self._override(point_setting.configured(self.base, setting))
        now = point_setting.setting_of(self.config())
        if now != setting:
            why = f"it serves {now.label} where {setting.label} was asked for"
            fix = "see its log; a server that completes configs by itself needs --disable-auto-complete-config"
            raise StageError("load", Fault("the server did not take the setting", self.server.http_url, why, fix))

    def restore(self) -> None:
        """Put back the config that the model had, and look that it is there."""
        with _ignore_sigint():
            self._override(self.base)
            now = self.config()
        changed = sorted(key for key in self.base.keys() | now.keys() if self.base.get(key) != now.get(key))
        if changed:
            raise PlanwrightError(
                Fault(f"the config of {self.model} could not be restored", self.server.http_url,
                      f"different: {', '.join(changed)}", "load the model again, or restart the server")
            )  # fmt: skip

    def config(self) -> Config:
        """Return the model's config as the server tells it.

        Raises:
            MachineError: The server does not answer (exit 3).
        """
        try:
            return TritonAdmin.of(self.server).config(self.model, timeout_s=LOAD_TIMEOUT_S)
        except UnreachableError as error:
            what, fix = f"the server does not answer for '{self.model}'", "see its ready table, or its log"
            raise MachineError(Fault(what, self.server.http_url, str(error), fix)) from None
        except RefusedError as error:
            what = f"the server has no model '{self.model}' ready"
            raise MachineError(Fault(what, self.server.http_url, str(error), "load it first")) from None

    def _override(self, config: Config) -> None:
        try:
            TritonAdmin.of(self.server).load(self.model, config, timeout_s=LOAD_TIMEOUT_S)
        except UnreachableError as error:
            why = f"it does not answer: {error}"
            raise MachineError(Fault("the server is lost", self.server.http_url, why, "see its log")) from None
        except RefusedError as error:
            raise _refused(self.server, self.model, error.status, str(error)) from None


def published_setting(repository: Path, model: str) -> Setting:
    """Return the setting in the published config.pbtxt, for checks before any server is started.

    Raises:
        SpecError: The file is not a config (exit 2).
    """
    from google.protobuf import json_format

    path = repository / model / "config.pbtxt"
    try:
        message = parse(path.read_text(), allow_unknown=True)
    except (OSError, ValueError) as error:
        fix = f"python builders/build_all.py {model}"
        raise SpecError(Fault("the published config cannot be read", str(path), str(error), fix)) from None
    return point_setting.setting_of(json_format.MessageToDict(message, preserving_proto_field_name=True))


def _refused(server: ServerInfo, model: str, code: int, why: str) -> PlanwrightError:
    if code == 503:
        return MachineError(Fault("the server does not let its models be changed", server.http_url, why, EXPLICIT))
    if code == 403:
        fix = "name its server file: PLANWRIGHT_SERVER_FILE=.planwright/server.json"
        return MachineError(Fault("the server wants a key before its models are changed", server.http_url, why, fix))
    return StageError("load", Fault(f"the server did not take {model}'s config", server.http_url, why, "see its log"))


@contextmanager
def bench(repository: Path, model: str, scratch: Path, given: str | None) -> Iterator[Bench]:
    """Yield the model on a server of its own, or on the one given, which gets its config back."""
    if given:
        served = Bench(_given(given), model)
        served.prepare()
        try:
            yield served
        finally:
            served.restore()
        return
    _link(repository / model, scratch / "repository" / model)
    flags = [
        "--allow-client-shm",
        "--model-control-mode=explicit",
        "--load-model",
        model,
        "--model-repository",
        str(scratch / "repository"),
    ]
    with own_server(*flags, file=scratch / "server.json", log=scratch / "serving.txt") as info:
        try:
            served = Bench(info, model)
            served.prepare()
            yield served
        except MachineError as error:
            said = " ".join((scratch / "serving.txt").read_text(errors="replace").split("\n")[-6:]).strip()
            raise MachineError(*error.faults, Fault("the last words of the server's launcher", why=said)) from None


def _given(url: str) -> ServerInfo:
    """Return the server at `url`; its key and its other ports stand in its server file, where there is one."""
    info = ServerInfo.read(Path(os.environ.get("PLANWRIGHT_SERVER_FILE", SERVER_FILE)))
    host, port = url.removeprefix("http://").rstrip("/").partition(":")[::2]
    if info is not None and info.http_url.rpartition(":")[2] == port:
        if info.mode != "explicit":
            why = f"it runs in mode {info.mode}"
            raise MachineError(Fault("the server does not let its models be changed", url, why, EXPLICIT))
        return info
    number = int(port) if port.isdigit() else 8000
    return ServerInfo(0, "", f"{host}:{number}", f"{host}:{number + 1}", f"{host}:{number + 2}", "explicit", "", "", "")


def _link(source: Path, target: Path) -> None:
    """Copy a model folder by hard links, by bytes where the file system has none."""

    def copy(old: str, new: str) -> None:
        try:
            os.link(old, new)
        except OSError:
            shutil.copy2(old, new)

    shutil.copytree(source, target, copy_function=copy)


@contextmanager
def _ignore_sigint() -> Iterator[None]:
    """Ignore SIGINT inside this block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: Any = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
