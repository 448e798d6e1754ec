"""Whether a stored or loaded corpus is the one that cdner ships or has a checksum of, by reading its file here again.

A checksum in a run's settings is what somebody wrote there; only the file tells which sentences belong to it.
"""

from __future__ import annotations

from typing import cast

from cdner.corpora import crossner, demo
from cdner.errors import InputError
from cdner.files import cache_root
from cdner.steps.importing import crossner_folder
from cdner.types import Corpus, Split


def known_checksum(domain: str, split: str) -> str | None:
    """SHA-256 of the file of a demo or CrossNER corpus; None for other corpora."""
    key = (domain, cast(Split, split))
    return demo.FILES.get(key) or crossner.FILES.get(key)


def own_reading(domain: str, split: str) -> Corpus | None:
    """The corpus as this machine reads it; None where its file is not here. Fetches nothing."""
    if (domain, split) in demo.FILES:
        return demo.read_demo(domain, cast(Split, split))
    folder = crossner_folder(None) or cache_root() / "crossner"
    try:
        return crossner.read_folder(folder, domain=domain, split=cast(Split, split))
    except InputError:
        return None


def difference(found: Corpus, own: Corpus) -> str:
    """Where the first one is not the second; empty where they are equal."""
    if len(found.sentences) != len(own.sentences):
        return f"it has {len(found.sentences)} sentences, the file {len(own.sentences)}"
    for position, (ours, theirs) in enumerate(zip(own.sentences, found.sentences, strict=True)):
        if ours.tokens != theirs.tokens:
            return f"its sentence {position} has other tokens than the file"
        if sorted(map(repr, ours.entities)) != sorted(map(repr, theirs.entities)):
            return f"its sentence {position} has other entities than the file"
    if (found.types, found.n_repaired_tags) != (own.types, own.n_repaired_tags):
        return "its types or its number of repaired tags are not those of the file"
    return ""
