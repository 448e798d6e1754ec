"""A checkpoint is a folder that any transformers user can load, plus a card of ours (``cdner.json``).

Folders appear under their name only when complete and on disk: written beside, synchronised, renamed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from cdner.config import BackboneChoice, Settings, Training
from cdner.errors import ModelError
from cdner.hashing import canonical_json, file_sha256
from cdner.unfinished import replacing

CARD = "cdner.json"


class Card(Settings):
    """What a checkpoint says of itself."""

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


def weights_sha256(folder: Path) -> str:
    """SHA-256 of the weights: of the one safetensors file, or over the sums of all shards in name order."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no safetensors weights.")
    if len(files) == 1:
        return file_sha256(files[0])
    return hashlib.sha256("".join(file_sha256(file) for file in files).encode()).hexdigest()


def write_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Let ``fill`` write into a scratch folder, then put it in ``target``'s place, whole or not at all.

    ModelError where weights cannot be written; other files raise OSError.
    """
    from safetensors import SafetensorError

    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(target) as scratch:
            scratch.mkdir()
            fill(scratch)
    except SafetensorError as error:  # a full disk among them: its own library knows no OSError
        raise ModelError(f"{target} cannot be written: {error}.") from error


def read_json(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return found
