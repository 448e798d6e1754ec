"""Descriptions of entity types (eq. 5): WordNet's gloss C_s, the LLM's text C_e, or texts from outside.

Imports nltk late: the shipped label sets bring their glosses, and only others look into WordNet. Knows no LLM: the
request for C_e is made elsewhere, here its completion is cleaned.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cdner.errors import InputError
from cdner.files import cache_root
from cdner.thoughts import separate_thoughts
from cdner.types import Domain, Progress, TypeEntry

_WAY_OUT = "Run 'cdner models fetch wordnet', or set NLTK_DATA to a data root that holds corpora/wordnet"


@dataclass(frozen=True, slots=True)
class Gloss:
    """C_s of eq. 5."""

    text: str
    origin: Literal["wordnet", "hand"]


@dataclass(frozen=True, slots=True)
class Description:
    """C_e of eq. 5, ready to be embedded."""

    text: str
    malformed: Mapping[str, int] = field(default_factory=dict)  # {"empty_description": 1} when C_s stands in


@dataclass(frozen=True, slots=True)
class ImportedDescriptions:
    texts: Mapping[str, str]  # type -> description, in the domain's order
    n_recovered: int  # entries that were cut off and of which the readable part is used


# --- C_s: WordNet -----------------------------------------------------------------------------------------


def gloss(entry: TypeEntry) -> Gloss:
    """What WordNet says of the entry's sense; an entry without a sense has our own definition.

    The types file usually holds it. Raises InputError if it does not and WordNet is not on this machine or has no such
    sense.
    """
    if not entry.synset:
        return Gloss(entry.definition, "hand")
    if entry.gloss:
        return Gloss(entry.gloss, "wordnet")
    reader = _wordnet()
    if reader is None:
        raise InputError(f"No WordNet for the gloss of '{entry.name}' ({entry.synset}). {_WAY_OUT}.")
    from nltk.corpus.reader.wordnet import WordNetError

    try:
        return Gloss(str(reader.synset(entry.synset).definition()), "wordnet")
    except (WordNetError, ValueError) as error:
        raise InputError(
            f"Type '{entry.name}': WordNet has no sense '{entry.synset}' ({error}). "
            "Pin another in prompts/types, or leave synset empty to use the definition."
        ) from error


def wordnet_root() -> Path:
    """The NLTK data root in cdner's cache, where ``fetch_wordnet`` puts it."""
    return cache_root() / "nltk_data"


def wordnet_available() -> bool:
    """Whether WordNet lies on NLTK's own paths or in cdner's cache; looks, does not load (that takes seconds)."""
    roots = _nltk_with_cache().data.path
    return any(
        (Path(root) / "corpora" / name).exists() for root in roots for name in ("wordnet", "wordnet.zip")
    )


def fetch_wordnet(progress: Progress | None = None) -> None:
    """Download WordNet by NLTK if it is not on this machine. Raises InputError with the reason if that fails."""
    if _wordnet():
        return
    if progress:
        progress.start("WordNet 3.0")
        progress.advance(0, "from NLTK's server")
    failure = _download_from_nltk(wordnet_root())
    if not _wordnet():
        raise InputError(
            f"NLTK cannot download WordNet ({failure or 'what it downloaded cannot be read'}). "
            "Copy an NLTK data root with corpora/wordnet to this machine and set NLTK_DATA to it."
        )


def _wordnet() -> Any | None:  # nltk has no types
    _nltk_with_cache()
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except (LookupError, OSError):  # absent, or a folder that lacks some of its files
        return None
    return wordnet


def _nltk_with_cache() -> Any:  # nltk has no types
    import nltk

    root = str(wordnet_root())
    if root not in nltk.data.path:  # NLTK reads nothing outside this list
        nltk.data.path.append(root)
    return nltk


def _download_from_nltk(root: Path) -> str:
    """The reason why it failed, or nothing."""
    import nltk

    complaints = io.StringIO()
    root.mkdir(parents=True, exist_ok=True, mode=0o755)
    if nltk.download("wordnet", download_dir=str(root), quiet=True, print_error_to=complaints):
        return ""
    return " ".join(complaints.getvalue().replace("[nltk_data]", " ").split()) or "NLTK's download failed"


# --- C_e: the LLM's text ----------------------------------------------------------------------------------

_FENCE = re.compile(r"^\s*```\w*\s*$", re.MULTILINE)
_LABEL = re.compile(
    r"^\W*(?:(?:enriched|enhanced|final)\s+)?(?:description|definition)\s*:\s*", re.IGNORECASE
)
_QUOTES = ('""', "''", "“”", "‘’")


def description_text(completion_text: str, fallback: Gloss) -> Description:
    """The completion without thoughts, fences, a leading label and enclosing quotes, on one line.

    Nothing left = the gloss stands in, counted as ``empty_description``.
    """
    bare = _FENCE.sub(" ", separate_thoughts(completion_text).answer).replace("**", "")
    text = _unquoted(_LABEL.sub("", _unquoted(" ".join(bare.split()))))
    if not any(character.isalnum() for character in text):
        return Description(fallback.text, {"empty_description": 1})
    return Description(text)


def _unquoted(text: str) -> str:
    while len(text) > 1 and text[0] + text[-1] in _QUOTES and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


# --- descriptions from outside ----------------------------------------------------------------------------

_CUT_FIELD = re.compile(r'"(Definition|Guidelines)"\s*:\s*"((?:[^"\\]|\\.)*)', re.DOTALL)
_SENTENCE = re.compile(r".*[.!?]", re.DOTALL)


def read_descriptions(path: Path, domain: Domain) -> ImportedDescriptions:
    """Descriptions of the domain's types from a JSON file ``{domain: {type: entry}}``.

    An entry is a text, or ``{"Definition": ..., "Guidelines": ...}`` as SLIMER publishes them, or
    ``{"raw": ...}``: JSON that was cut off, of which the whole sentences are kept and which is counted.
    InputError names file, domain and type of what is missing or unreadable.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read descriptions from {path}: {error}.") from error
    entries = table.get(domain.name) if isinstance(table, dict) else None
    if not isinstance(entries, dict):
        raise InputError(f"{path} has no domain '{domain.name}': expected {{domain: {{type: text}}}}.")
    texts: dict[str, str] = {}
    n_recovered = 0
    for name in domain.types:
        text, recovered = _entry_text(entries.get(name))
        if not text:
            raise InputError(f"{path}, domain '{domain.name}': no readable description for type '{name}'.")
        texts[name] = text
        n_recovered += recovered
    return ImportedDescriptions(texts, n_recovered)


def _entry_text(entry: object) -> tuple[str, bool]:
    """Text of one entry, and whether it had to be recovered from cut-off JSON."""
    if isinstance(entry, str):
        return entry.strip(), False
    if not isinstance(entry, dict):
        return "", False
    raw = entry.get("raw")
    if isinstance(raw, str):
        return " ".join(_cut_fields(raw)), True
    parts = (entry.get("Definition"), entry.get("Guidelines"))
    return " ".join(part.strip() for part in parts if isinstance(part, str)), False


def _cut_fields(raw: str) -> list[str]:
    parts = []
    for match in _CUT_FIELD.finditer(raw):
        whole = _SENTENCE.match(match.group(2))
        if whole:
            parts.append(re.sub(r'\\(["\\/])', r"\1", whole.group()).replace("\\n", " ").strip())
    return parts
