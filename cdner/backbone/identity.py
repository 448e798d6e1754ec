"""What a model is called in identities: by the content of its weights where they lie in a folder of the user's.

A path is no identity: moving a folder changes nothing, replacing its weights changes every answer. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path

from cdner.backbone.embedded import GGUF_SHA256
from cdner.hashing import content_hash, file_sha256

EMBEDDED = "embedded"


def weights_identity(model: str) -> str:
    """``embedded@<checksum>``, ``<folder name>@<content hash>``, or the name itself (hub names, servers' models)."""
    if model == EMBEDDED:
        return f"{EMBEDDED}@{GGUF_SHA256[:12]}"
    folder = Path(model)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        return model
    return f"{folder.resolve().name}@{content_hash([file_sha256(file) for file in files])}"
