"""Label sets: reads ``types/<domain>.toml``, or makes one from the bare labels of a user's own corpus.

Knows nothing of corpora: whether a corpus uses exactly these labels is checked where it is imported.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from cdner.errors import InputError, UsageError, unknown_name
from cdner.files import resource_root
from cdner.prompts.files import FileModel, checked_name, prompt_roots, read_toml
from cdner.types import Domain, Role, TypeEntry

OneLine = Annotated[str, Field(min_length=1, pattern=r"^\S([^\r\n]*\S)?$")]
Synset = Annotated[str, Field(pattern=r"^([^\s.]\S*\.[nvars]\.\d\d)?$")]


_AVERAGES = frozenset({"*", "macro"})  # what a row of scores is called that is of no type


class _TypeRow(FileModel):
    name: OneLine
    short: OneLine | None = None
    phrase: OneLine
    lemma: str = ""
    synset: Synset = ""
    gloss: Annotated[str, Field(pattern=r"^(\S([^\r\n]*\S)?)?$")] = ""
    definition: OneLine


class _TypesFile(FileModel):
    domain: OneLine
    role: Role
    also_for: list[OneLine] = Field(default_factory=list)
    type: Annotated[list[_TypeRow], Field(min_length=1)]


def load_domain(name: str, extra: Path | None = None) -> Domain:
    """The label set of a domain or of a corpus that shares one (``also_for``), under the name asked for.

    ``extra`` is a directory shaped like ``prompts/``, looked into before $CDNER_PROMPTS and the shipped one.
    UsageError for an unknown or unsafe name, InputError (naming the file) for a broken file.
    """
    checked_name("domain", name)
    for root in prompt_roots(extra):
        path = root / "types" / f"{name}.toml"
        if path.is_file():
            return _as_domain(name, _read_types(path))
        for other in sorted((root / "types").glob("*.toml")):
            types_file = _read_types(other)
            if name in types_file.also_for:
                return _as_domain(name, types_file)
    raise unknown_name("domain", name, domain_names(extra))


@cache
def shipped_glosses() -> dict[str, str]:
    """WordNet sense -> its gloss, of all shipped label sets."""
    folder = resource_root("prompts") / "types"
    return {row.synset: row.gloss for path in sorted(folder.glob("*.toml")) for row in _read_types(path).type}


def domain_names(extra: Path | None = None) -> tuple[str, ...]:
    """Every name ``load_domain`` knows, sorted."""
    names: set[str] = set()
    for root in prompt_roots(extra):
        for path in (root / "types").glob("*.toml"):
            types_file = _read_types(path)
            names.update([types_file.domain, *types_file.also_for])
    return tuple(sorted(names))


def domain_from_labels(name: str, labels: Sequence[str], role: Role) -> Domain:
    """A label set nobody has described: phrase and definition are the label as words, no WordNet sense."""
    repeated = [label for label, count in Counter(labels).items() if count > 1]
    if repeated or not labels or not all(label.strip() for label in labels):
        raise UsageError(f"Domain '{name}' needs distinct, non-empty labels; got {list(labels)}.")
    if problem := _unusable(labels):
        raise UsageError(f"Domain '{name}': {problem}. Rename it in the files.")
    entries = []
    for label in labels:
        phrase = _as_words(label)
        entries.append(
            TypeEntry(name=label, short=label, phrase=phrase, lemma="", synset="", definition=phrase)
        )
    return Domain(name=name, role=role, entries=tuple(entries))


def _unusable(labels: Sequence[str]) -> str:
    """Why a label cannot be a type's name, "" if all can."""
    for label in labels:
        if label in _AVERAGES:
            return f"no type can be called '{label}', which names an average of scores"
        if not label.isprintable():
            return f"the label {label[:40]!a} has characters that cannot be seen"
    return ""


def _as_words(label: str) -> str:
    """ "PoliticalParty" and "political_party" become "political party"; an all-capitals label stays."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", label)
    words = re.sub(r"[\W_]+", " ", apart).strip() or label
    return words if words.isupper() else words.lower()


def _read_types(path: Path) -> _TypesFile:
    types_file = read_toml(path, _TypesFile)
    if types_file.domain != path.stem:
        raise InputError(f"{path}: 'domain' is '{types_file.domain}', but the file is named '{path.stem}'.")
    if problem := _unusable([row.name for row in types_file.type]):
        raise InputError(f"{path}: {problem}.")
    if senseless := [row.name for row in types_file.type if row.gloss and not row.synset]:
        raise InputError(
            f"{path}: type '{senseless[0]}' has a gloss but no synset. A text of your own is the definition."
        )
    for key, values in (
        ("name", [row.name for row in types_file.type]),
        ("short", [row.short or row.name for row in types_file.type]),
    ):
        repeated = [value for value, count in Counter(values).items() if count > 1]
        if repeated:
            raise InputError(f"{path}: two types have the {key} '{repeated[0]}'.")
    return types_file


def _as_domain(name: str, types_file: _TypesFile) -> Domain:
    entries = tuple(
        TypeEntry(
            name=row.name,
            short=row.short or row.name,
            phrase=row.phrase,
            lemma=row.lemma,
            synset=row.synset,
            definition=row.definition,
            gloss=row.gloss,
        )
        for row in types_file.type
    )
    return Domain(name=name, role=types_file.role, entries=entries)
