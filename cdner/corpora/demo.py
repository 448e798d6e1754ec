"""The two corpora that come with cdner, so that the whole method runs without a download.

``newsdesk`` (source, coarse types) and ``film`` (target, eleven fine types in confusable pairs) were
written for this project, sentence by sentence; they are small and teach nothing about the state of the art.
Does not know the labels' definitions (``prompts/types/`` does).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import cast

from cdner.corpora.conll import ConllReader
from cdner.errors import unknown_name
from cdner.files import file_sha256
from cdner.types import Corpus, Role, Split

_FOLDER = Path(__file__).with_name("demo")
ROLES: Mapping[str, Role] = MappingProxyType({"newsdesk": "source", "film": "target"})


def _sum_files() -> Mapping[tuple[str, Split], str]:
    files = sorted(_FOLDER.glob("*/*.txt"))
    return MappingProxyType({(file.parent.name, cast(Split, file.stem)): file_sha256(file) for file in files})


FILES: Mapping[tuple[str, Split], str] = _sum_files()  # (domain, split) -> SHA-256 of the file's bytes


def read_demo(domain: str, split: Split) -> Corpus:
    """Read one split, strictly. UsageError for a domain or a split that is not shipped."""
    if domain not in ROLES:
        raise unknown_name("demo corpus", domain, ROLES)
    if (domain, split) not in FILES:
        raise unknown_name(
            f"split of {domain}", split, [name for shipped, name in FILES if shipped == domain]
        )
    return ConllReader().read(_FOLDER / domain / f"{split}.txt", domain=domain, split=split, strict=True)
