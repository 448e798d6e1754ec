"""Canonical JSON and the content hash built on it: the identity contract of runs, requests and sentences.

Two values have the same hash exactly when their canonical JSON is the same. Settings pass through the typed
configuration before they come here, so 1 and 1.0 have already become one of the two.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

HASH_HEX_DIGITS = 24  # 96 bits: no collision in any store that fits a disk, short enough to read and paste

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


def canonical_json(value: Json) -> str:
    """Sorted keys, no spaces, UTF-8 characters as they are.

    ValueError for NaN and infinities at any depth, TypeError for what is no JSON.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain
    )


def content_hash(value: Json) -> str:
    """First 24 hexadecimal digits of SHA-256 over the canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:HASH_HEX_DIGITS]


def file_sha256(path: Path) -> str:
    """Full SHA-256 of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _plain(value: object) -> object:
    """The dict of any other mapping: frozen dataclasses hold read-only ones, and ``json`` knows only dict."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no canonical form")
