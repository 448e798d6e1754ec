"""What a model is called in identities: by the content of its weights, on the shelf or in a user's folder.

A path is not an identity: moving a folder changes nothing, replacing its weights changes every answer. Imports no
torch.
"""

from __future__ import annotations

from pathlib import Path

from cdner.backbone.checksums import remembered_sha256
from cdner.backbone.shelf import find
from cdner.hashing import content_hash


def weights_identity(model: str) -> str:
    """``<name>@<checksum>`` for a model of the shelf, fetched or not; ``<folder name>@<content hash>``; else the name.

    A name of the shelf is not a folder: ``./NAME`` is.
    """
    if known := find(model):
        return known.identity
    folder = Path(model)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        return model
    return f"{folder.resolve().name}@{content_hash([remembered_sha256(file) for file in files])}"
