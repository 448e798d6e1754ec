"""What a second model makes of a sentence that a first one has read, span by span: for ``cdner explain``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cdner.types import Entity, Sentence

Kind = Literal["same", "type changed", "found", "lost"]


@dataclass(frozen=True, slots=True)
class Change:
    """A span that either model finds, and the type each gives it (None: it does not find it)."""

    start: int
    end: int
    mention: str
    before: str | None
    after: str | None
    kind: Kind


def changes(sentence: Sentence, before: Sequence[Entity], after: Sequence[Entity]) -> list[Change]:
    """Every span that either model finds, in text order."""
    types = [{(entity.start, entity.end): entity.type for entity in found} for found in (before, after)]
    rows = []
    for start, end in sorted(types[0].keys() | types[1].keys()):
        one, other = (found.get((start, end)) for found in types)
        kind: Kind = "found" if one is None else "lost" if other is None else "type changed"
        rows.append(
            Change(
                *(start, end, " ".join(sentence.tokens[start:end])),
                *(one, other, "same" if one == other else kind),
            )
        )
    return rows
