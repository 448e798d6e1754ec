"""The models that are served right now: by ``cdner serve`` on this machine, and at base URLs.

``cdner serve`` leaves two files a server in the cache folder, ``<host>-<pid>.json`` and the same with ``.key``, so that
other commands find it. They are used only if they belong to the user alone, the process lives, and it serves that
model to that key. The endpoints of a vLLM server that have nothing to do with completions are asked with plain
``http.client``: no proxy, no redirect, no retry. An answer that does not come is a value, not an error.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode, urlsplit

from pydantic import BaseModel, ValidationError

from cdner.config import Execution
from cdner.files import cache_root
from cdner.llm.chat.exchange import redaction
from cdner.llm.openai import check_base_url, key_for, read_key

LOOPBACK = "127.0.0.1"
_QUICK_SECONDS = 5.0
_MOVING_SECONDS = 600.0  # weights go to host memory and back, or come from a disk again


class _Model(BaseModel):
    id: str
    max_model_len: int | None = None


class _Models(BaseModel):
    data: list[_Model]


class _Sleeping(BaseModel):
    is_sleeping: bool


@dataclass(frozen=True, slots=True)
class ServedModel:
    name: str
    max_model_len: int | None  # tokens of prompt and answer together, where the server tells


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Of the server on ``port``; ``api_key`` is never in a repr."""

    port: int
    api_key: str

    def __repr__(self) -> str:
        return f"Endpoints(port={self.port})"

    def is_healthy(self) -> bool:
        return self._status("GET", "/health") == http.HTTPStatus.OK

    def models(self) -> tuple[ServedModel, ...]:
        """What is served; empty if the server does not answer, or not to this key."""
        status, body = self._ask("GET", "/v1/models")
        if status != http.HTTPStatus.OK:
            return ()
        try:
            listed = _Models.model_validate_json(body)
        except ValidationError:
            return ()
        return tuple(ServedModel(model.id, model.max_model_len) for model in listed.data)

    def is_sleeping(self) -> bool | None:
        """None if the server does not know of sleep."""
        _, body = self._ask("GET", "/is_sleeping")
        try:
            return _Sleeping.model_validate_json(body).is_sleeping
        except ValidationError:
            return None

    def sleep(self, level: Literal[1, 2]) -> bool:
        """Weights to host memory (1) or away (2), KV cache away. False if the server does not sleep now."""
        return self._moved(f"/sleep?{urlencode({'level': level})}") and self.is_sleeping() is True

    def wake(self, level: Literal[1, 2]) -> bool:
        """Undo ``sleep(level)``; after level 2 the weights are loaded again, before the KV cache takes its room."""
        if level == 1:
            done = self._moved("/wake_up")
        else:
            done = (
                self._moved("/wake_up?tags=weights")
                and self._moved("/collective_rpc", {"method": "reload_weights"})
                and self._moved("/wake_up?tags=kv_cache")
            )
        return done and self.is_sleeping() is False

    def _moved(self, path: str, body: object = None) -> bool:
        return self._status("POST", path, body, seconds=_MOVING_SECONDS) == http.HTTPStatus.OK

    def _status(self, method: str, path: str, body: object = None, *, seconds: float = _QUICK_SECONDS) -> int:
        return self._ask(method, path, body, seconds=seconds)[0]

    def _ask(
        self, method: str, path: str, body: object = None, *, seconds: float = _QUICK_SECONDS
    ) -> tuple[int, bytes]:
        """(status, body); status 0 if there is no answer."""
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=seconds)
        headers = {"Authorization": f"Bearer {self.api_key}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()


_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Listed:
    model: str  # "" if the server did not say
    max_model_len: int | None
    base_url: str
    state: str  # "serves", or why it does not
    pid: int | None = None  # of the ``cdner serve`` that keeps it


def listed_here() -> list[Listed]:
    """Models of this machine's ``cdner serve``; one that is just starting again does not answer."""
    rows = []
    for server in running_servers():
        models = Endpoints(urlsplit(server.base_url).port or 0, server.api_key).models()
        rows += [
            Listed(model.name, model.max_model_len, server.base_url, "serves", server.pid) for model in models
        ]
        if not models:
            rows.append(Listed(server.served_name, None, server.base_url, "does not answer", server.pid))
    return rows


def listed_at(base_urls: Sequence[str]) -> list[Listed]:
    """Models of OpenAI-compatible servers, asked with OPENAI_API_KEY. BackendError for an unusable address."""
    rows: list[Listed] = []
    for base_url in base_urls:
        check_base_url(base_url)
        rows += _ask(base_url, key_for(base_url, read_key(required=False), Execution(base_urls=(base_url,))))
    return rows


def _ask(base_url: str, key: str) -> list[Listed]:
    import openai

    shown = redaction(key)(base_url)
    with openai.OpenAI(api_key=key or "no-key", base_url=base_url, timeout=_SECONDS, max_retries=0) as client:
        try:
            models = list(client.models.list())
        except openai.APIStatusError as error:
            return [Listed("", None, shown, f"refuses: status {error.status_code}")]
        except openai.OpenAIError:  # no connection, no answer in time, no list
            return [Listed("", None, shown, "does not answer")]
    return [Listed(model.id, _length(model.model_extra), shown, "serves") for model in models]


def _length(extra: dict[str, object] | None) -> int | None:
    """vLLM's addition to the list."""
    length = (extra or {}).get("max_model_len")
    return length if isinstance(length, int) else None


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server of somebody else's process: asked, never put to sleep, never stopped."""

    model: str  # what it loaded: a folder or a hub name
    served_name: str  # what requests call it
    base_url: str
    pid: int  # of the ``cdner serve`` that keeps it
    api_key: str = field(repr=False)


class _State(BaseModel):
    """What stands in the file; the key does not."""

    host: str
    pid: int
    model: str
    served_name: str
    base_url: str


@contextlib.contextmanager
def published(*, model: str, served_name: str, base_url: str, api_key: str) -> Iterator[Path]:
    """Let other commands find a server of this process as long as the context lasts; yields the key's file."""
    host, pid = socket.gethostname(), os.getpid()
    folder = _folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    state = folder / f"{host}-{pid}.json"
    key = state.with_suffix(".key")
    content = _State(host=host, pid=pid, model=_known_as(model), served_name=served_name, base_url=base_url)
    try:
        _write(key, api_key)
        _write(state, content.model_dump_json())
        yield key
    finally:
        state.unlink(missing_ok=True)
        key.unlink(missing_ok=True)


def running_servers() -> list[RunningServer]:
    """Servers of living ``cdner serve`` processes on this machine; files of dead ones are removed."""
    found = []
    for file in sorted(_folder().glob("*.json")):
        try:
            if not all(_is_private(one) for one in (file.parent, file, file.with_suffix(".key"))):
                continue
            state = _State.model_validate_json(file.read_bytes())
            key = file.with_suffix(".key").read_text(encoding="utf-8")
        except (OSError, ValueError):  # going or coming just now
            continue
        if state.host != socket.gethostname() or not _is_ours(state.base_url):
            continue
        if not _is_alive(state.pid):
            file.unlink(missing_ok=True)
            file.with_suffix(".key").unlink(missing_ok=True)
            continue
        found.append(RunningServer(state.model, state.served_name, state.base_url, state.pid, key))
    return found


def running_server(model: str) -> RunningServer | None:
    """A server of ``model`` (a folder or a hub name, as ``model_location`` gives it) that answers now."""
    for server in running_servers():
        port = urlsplit(server.base_url).port
        if server.model != _known_as(model) or port is None:
            continue
        if server.served_name in {served.name for served in Endpoints(port, server.api_key).models()}:
            return server
    return None


def _is_ours(base_url: str) -> bool:
    """Whether it is an address on the loopback with a port."""
    try:
        parts = urlsplit(base_url)
        return parts.hostname == LOOPBACK and bool(parts.port)
    except ValueError:  # a port that is not a number
        return False


def _is_private(path: Path) -> bool:
    """Whether the file or folder belongs to this user, nobody else can write or read it, and it is not a link."""
    found = path.lstat()
    return not stat.S_ISLNK(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _known_as(model: str) -> str:
    """A folder by its absolute path, whatever it was called."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _folder() -> Path:
    return cache_root() / "servers"


def _write(file: Path, content: str) -> None:
    """Whole or not at all, readable by the user alone from its first moment."""
    partial = file.with_name(f".{file.name}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(content)
    partial.rename(file)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process has the number now
        return False
    return True
