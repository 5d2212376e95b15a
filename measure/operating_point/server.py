"""The server of a sweep or a tune, and changes of its model's settings through the load API.

In      the published model, or the address given with ``--server``.
Out     `ConfigurableModel`: a model on a server whose setting can be changed and is restored.

Our own server runs in explicit mode on a hard-linked copy of the one model: the repository is only read. One throw-away override comes
first, because the first override reloads the model and later changes of instances do not. A server given with ``--server`` gets its
config back, which is verified, also after Ctrl-C: a second Ctrl-C is ignored meanwhile.
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

from measure.operating_point import setting as serving_setting
from measure.operating_point.setting import Config, ServingSetting
from measure.record import server_statistics
from planwright.config_pbtxt import parse
from planwright.errors import Fault, MachineError, PlanwrightError, SpecError, StageError
from planwright.own_server import own_server
from planwright.server_info import SERVER_FILE, ServerInfo
from planwright.triton_admin import RefusedError, TritonAdmin, UnreachableError

LOAD_TIMEOUT_S = 120.0
EXPLICIT = "start it with --model-control-mode=explicit"


class ConfigurableModel:
    def __init__(self, server: ServerInfo, model: str) -> None:
        self.server, self.model = server, model
        self.base = self.config()
        self.published = serving_setting.setting_of(self.base)
        self.identity = server_statistics.Server(server.http_url, server.grpc_url).identity()

    def prepare(self) -> None:
        """Reload the model once, so that later changes of instances need no reload."""
        self._override(self.base)

    def learn_untuned(self) -> ServingSetting:
        """Serve the model with Triton's defaults and return the setting that it chose."""
        self._override(serving_setting.untuned(self.base))
        return serving_setting.setting_of(self.config())

    def set(self, setting: ServingSetting) -> None:
        """Serve the model with `setting`.

        Raises:
            StageError: The server refused it, or reports another one.
        """
        self._override(serving_setting.configured(self.base, setting))
        now = serving_setting.setting_of(self.config())
        if now != setting:
            why = f"it serves {now.label}, requested was {setting.label}"
            fix = "see its log; a server that completes configs by itself needs --disable-auto-complete-config"
            raise StageError("load", Fault("the server did not apply the setting", self.server.http_url, why, fix))

    def restore(self) -> None:
        with _ignore_sigint():
            self._override(self.base)
            now = self.config()
        changed = sorted(key for key in self.base.keys() | now.keys() if self.base.get(key) != now.get(key))
        if changed:
            what, why = f"the config of {self.model} could not be restored", f"different: {', '.join(changed)}"
            fix = "load the model again, or restart the server"
            raise PlanwrightError(Fault(what, self.server.http_url, why, fix))

    def config(self) -> Config:
        """Return the model's config as the server reports it.

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
            raise MachineError(
                Fault("the server stopped responding", self.server.http_url, why, "see its log")
            ) from None
        except RefusedError as error:
            raise _refused(self.server, self.model, error) from None


def published_setting(repository: Path, model: str) -> ServingSetting:
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
    return serving_setting.setting_of(json_format.MessageToDict(message, preserving_proto_field_name=True))


def _refused(server: ServerInfo, model: str, error: RefusedError) -> PlanwrightError:
    url, why = server.http_url, str(error)
    if error.status == 503:
        return MachineError(Fault("the server does not allow its models to be changed", url, why, EXPLICIT))
    if error.status == 403:
        fix = "give its server file: PLANWRIGHT_SERVER_FILE=.planwright/server.json"
        return MachineError(Fault("the server requires an admin key to change its models", url, why, fix))
    return StageError("load", Fault(f"the server refused the config of {model}", url, why, "see its log"))


@contextmanager
def open_model(repository: Path, model: str, scratch: Path, given: str | None) -> Iterator[ConfigurableModel]:
    """Yield the model on a server of its own, or on the given one, whose config is restored."""
    if given:
        served = ConfigurableModel(_given(given), model)
        served.prepare()
        try:
            yield served
        finally:
            served.restore()
        return
    _link(repository / model, scratch / "repository" / model)
    flags = ["--allow-client-shm", "--model-control-mode=explicit", "--load-model", model,
             "--model-repository", str(scratch / "repository")]  # fmt: skip
    with own_server(*flags, file=scratch / "server.json", log=scratch / "serving.txt") as info:
        try:
            served = ConfigurableModel(info, model)
            served.prepare()
            yield served
        except MachineError as error:
            output = " ".join((scratch / "serving.txt").read_text(errors="replace").split("\n")[-6:]).strip()
            raise MachineError(*error.faults, Fault("the last output of the server's launcher", why=output)) from None


def _given(url: str) -> ServerInfo:
    """Return the server at `url`; its key and its other ports come from its server file, where there is one."""
    info = ServerInfo.read(Path(os.environ.get("PLANWRIGHT_SERVER_FILE", SERVER_FILE)))
    host, port = url.removeprefix("http://").rstrip("/").partition(":")[::2]
    if info is not None and info.http_url.rpartition(":")[2] == port:
        if info.mode != "explicit":
            why = f"it runs in mode {info.mode}"
            raise MachineError(Fault("the server does not allow its models to be changed", url, why, EXPLICIT))
        return info
    first = int(port) if port.isdigit() else 8000
    http, grpc, metrics = (f"{host}:{first + number}" for number in range(3))
    return ServerInfo(
        pid=0, id="", http_url=http, grpc_url=grpc, metrics_url=metrics, mode="explicit", admin_key="", log="", repository=""
    )  # fmt: skip


def _link(source: Path, target: Path) -> None:
    """Copy a model folder by hard links, or by bytes where the file system has no links."""

    def copy(old: str, new: str) -> None:
        try:
            os.link(old, new)
        except OSError:
            shutil.copy2(old, new)

    shutil.copytree(source, target, copy_function=copy)


@contextmanager
def _ignore_sigint() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: Any = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
