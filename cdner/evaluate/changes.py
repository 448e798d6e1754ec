"""What two settings make of the same sentences: entities fixed and broken, type decisions, confused pairs.

Pure comparing of predictions; whether a change is more than chance is asked in ``cdner.evaluate.significance``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cdner.spans import index_by_span
from cdner.types import Entity, Prediction, Sentence

Pair = tuple[str, str]  # (gold type, the type taken for it)


@dataclass(frozen=True, slots=True)
class EntityChange:
    """A gold entity that only one setting got right (exact span and type)."""

    sentence: int  # index into the sentences compared
    entity: Entity
    change: Literal["fixed", "broken"]  # right only after; right only before
    before: str | None  # the type predicted for its exact span; None: no entity was predicted there
    after: str | None


@dataclass(frozen=True, slots=True)
class TypeDecisions:
    """The types both settings gave to gold spans that both found exactly."""

    n_both_right: int
    n_fixed: int  # wrong before, right after
    n_broken: int  # right before, wrong after
    n_both_wrong: int


@dataclass(frozen=True, slots=True)
class ConfusedPairs:
    """How often gold entities of a type got each other type on their exact span."""

    n_gold: Mapping[str, int]  # by gold type
    n_before: Mapping[Pair, int]  # pairs that do not occur are left out
    n_after: Mapping[Pair, int]


def entity_changes(
    gold: Sequence[Sentence], before: Sequence[Prediction], after: Sequence[Prediction]
) -> tuple[EntityChange, ...]:
    """In text order. ValueError when the three differ in length."""
    changes = []
    for index, entity, old, new in _outcomes(gold, before, after):
        if (old == entity.type) != (new == entity.type):
            changes.append(EntityChange(index, entity, "fixed" if new == entity.type else "broken", old, new))
    return tuple(changes)


def type_decisions(
    gold: Sequence[Sentence], before: Sequence[Prediction], after: Sequence[Prediction]
) -> TypeDecisions:
    """Over the gold spans that both predicted exactly. ValueError when the three differ in length."""
    decided: Counter[tuple[bool, bool]] = Counter(
        (old == entity.type, new == entity.type)
        for _, entity, old, new in _outcomes(gold, before, after)
        if old is not None and new is not None
    )
    return TypeDecisions(
        n_both_right=decided[True, True],
        n_fixed=decided[False, True],
        n_broken=decided[True, False],
        n_both_wrong=decided[False, False],
    )


def confused_pairs(
    gold: Sequence[Sentence], before: Sequence[Prediction], after: Sequence[Prediction]
) -> ConfusedPairs:
    """Counts before and after; n / n_gold is R_M (equation 11) of these predictions. ValueError as above."""
    n_gold: Counter[str] = Counter()
    n_before: Counter[Pair] = Counter()
    n_after: Counter[Pair] = Counter()
    for _, entity, old, new in _outcomes(gold, before, after):
        n_gold[entity.type] += 1
        for counts, predicted in ((n_before, old), (n_after, new)):
            if predicted not in (None, entity.type):
                counts[entity.type, str(predicted)] += 1
    return ConfusedPairs(n_gold, n_before, n_after)


def _outcomes(
    gold: Sequence[Sentence], before: Sequence[Prediction], after: Sequence[Prediction]
) -> Iterator[tuple[int, Entity, str | None, str | None]]:
    """Every gold entity with the types predicted for its exact span."""
    for index, (sentence, old, new) in enumerate(zip(gold, before, after, strict=True)):
        old_types, new_types = index_by_span(old.entities), index_by_span(new.entities)
        for entity in sentence.entities:
            span = entity.start, entity.end
            yield index, entity, old_types.get(span), new_types.get(span)
