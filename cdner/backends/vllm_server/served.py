"""The servers ``cdner serve`` keeps running: what they leave in the cache folder so that other commands find them.

Two files a server, ``<host>-<pid>.json`` and the same with ``.key``, in a folder that only the user can enter. What is
found is used only if its process lives and it serves that model to that key. Starts nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from cdner.backends.vllm_server.endpoints import LOOPBACK, Endpoints
from cdner.resources import cache_root


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
            state = _State.model_validate_json(file.read_bytes())
            key = file.with_suffix(".key").read_text(encoding="utf-8")
        except (OSError, ValidationError):  # going or coming just now
            continue
        if state.host != socket.gethostname() or urlsplit(state.base_url).hostname != LOOPBACK:
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
