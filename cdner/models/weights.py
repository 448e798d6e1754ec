"""Checkpoints on disk and the checksums of weights, which identify a model.

A checkpoint is a folder that any user of transformers can load, plus a file ``cdner.json`` (``Card``). Folders appear
under their name only when they are complete and synchronised to disk.

A model is identified by the content of its weights and not by a path: moving a folder changes nothing, replacing its
weights changes every run id. Weights are gigabytes, so SHA-256 sums are remembered between commands, in one small file
of the cache for each weight file. A remembered sum is used only while path, size, inode, and both times of the file
are unchanged; if it is lost or broken, the weights are read again. Imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ValidationError

from cdner.config import BackboneChoice, Settings, Training
from cdner.errors import ModelError
from cdner.files import cache_root, canonical_json, content_hash, file_sha256, replacing
from cdner.models.shelf import find

CARD = "cdner.json"
_SHA256 = re.compile("[0-9a-f]{64}")
# Two writes within one tick of the file system's clock give the same times. The sum of a file that is younger than
# this when it is read is not remembered (git's index has the same rule).
YOUNG_SECONDS = 2.0


class Card(Settings):
    """The contents of ``cdner.json``."""

    base: BackboneChoice
    settings: Training
    best_epoch: int
    weights_sha256: str


def read_card(folder: Path) -> Card:
    """ModelError if the folder has no readable card."""
    path = folder / CARD
    try:
        return Card.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise ModelError(
            f"{folder} is not a checkpoint of cdner: {CARD} is missing or broken. Train again."
        ) from error


def write_card(folder: Path, card: Card) -> None:
    (folder / CARD).write_text(canonical_json(card.identity()) + "\n", encoding="utf-8")


def write_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Let ``fill`` write to a temporary folder, then put it in the place of ``target``, completely or not at all.

    Raises ModelError if weights cannot be written, OSError for other files.
    """
    from safetensors import SafetensorError

    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(target) as scratch:
            scratch.mkdir()
            fill(scratch)
    except SafetensorError as error:  # for a full disk too, instead of OSError
        raise ModelError(f"{target} cannot be written: {error}.") from error


def weights_sha256(folder: Path) -> str:
    """SHA-256 of the weights: of the only safetensors file, or over the sums of all shards in name order."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no safetensors weights.")
    sums = [remembered_sha256(file) for file in files]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def checked(folder: Path, sha256: str) -> Path:
    """The folder of a checkpoint, if its weights have this ``weights_sha256``. Raises ModelError otherwise.

    Call it with the sum from the store before the checkpoint is opened. A file that has not changed since it was last
    read is not read again.
    """
    if not folder.is_dir():
        raise ModelError(f"No checkpoint at {folder}. Train it first.")
    if (found := weights_sha256(folder)) != sha256:
        raise ModelError(
            f"The weights in {folder} are not the ones that were trained: their SHA-256 is {found[:12]}... instead of "
            f"{sha256[:12]}... Put the original files back, or train again with --force."
        )
    return folder


def weights_identity(model: str) -> str:
    """``<name>@<checksum>`` for a model of the shelf, fetched or not; ``<folder name>@<content hash>``; else the name.

    A name of the shelf always means the model of the shelf; write ``./NAME`` for a folder of that name.
    """
    if known := find(model):
        return known.identity
    folder = Path(model)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        return model
    return f"{folder.resolve().name}@{content_hash([remembered_sha256(file) for file in files])}"


def remembered_sha256(file: Path) -> str:
    """SHA-256 of the file's bytes, read only if it has changed since it was last read. OSError if it cannot be read."""
    record, before = _record(file), _state(file)
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
        sha256 = known.pop("sha256")
        if known == asdict(before) and _SHA256.fullmatch(sha256):
            return str(sha256)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        pass  # lost or broken
    started = time.time()
    sha256 = file_sha256(file)
    youngest = max(before.mtime_ns, before.ctime_ns) / 1e9
    if youngest < started - YOUNG_SECONDS and _state(file) == before:
        with contextlib.suppress(OSError):  # a cache that cannot be written
            record.parent.mkdir(parents=True, exist_ok=True)
            with replacing(record) as made:
                made.write_text(json.dumps({**asdict(before), "sha256": sha256}), encoding="utf-8")
            _forget_removed_files(record.parent)
    return sha256


def _forget_removed_files(folder: Path) -> None:
    for record in folder.glob("*.json"):
        try:
            is_left = Path(json.loads(record.read_text(encoding="utf-8"))["path"]).exists()
        except (OSError, ValueError, KeyError, TypeError):
            is_left = False
        if not is_left:
            record.unlink(missing_ok=True)


def _record(file: Path) -> Path:
    name = hashlib.sha256(str(file.resolve()).encode(errors="surrogateescape")).hexdigest()
    return cache_root() / "checksums" / f"{name[:24]}.json"


@dataclass(frozen=True, slots=True)
class _State:
    path: str
    size: int  # bytes
    mtime_ns: int
    ctime_ns: int  # a program can restore mtime after it has rewritten a file, but not ctime
    inode: int


def _state(file: Path) -> _State:
    found = file.stat()
    return _State(str(file.resolve()), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
