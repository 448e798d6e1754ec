"""The labelled mentions of train that are most like a mention: the evidence an LLM is shown with a question.

Takes vectors, knows no model. Likeness: cosine of the mentions' vectors plus a weight times the cosine of their
sentences' vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cdner.types import Entity, FloatArray


class LabelledMention(NamedTuple):
    """A gold entity of train."""

    position: int  # of its sentence in the corpus
    sentence_text: str
    entity: Entity


@dataclass(frozen=True, slots=True, eq=False)
class Mentions:
    """Vectors of n mentions and of the sentences they stand in, each row of length 1; both (n, d)."""

    of_mention: FloatArray
    of_sentence: FloatArray


def unit_rows(vectors: FloatArray) -> FloatArray:
    """(n, d) with every row scaled to length 1; a zero row stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: FloatArray = vectors / np.where(lengths == 0, 1.0, lengths)
    return scaled


def likeness(asked: Mentions, known: Mentions, *, sentence_weight: float) -> FloatArray:
    """(n_asked, n_known)."""
    scores: FloatArray = asked.of_mention @ known.of_mention.T
    scores += sentence_weight * (asked.of_sentence @ known.of_sentence.T)
    return scores


def nearest(
    scores: FloatArray,
    known: Sequence[LabelledMention],
    *,
    sentence_text: str,
    k: int,
    required_types: Sequence[str] = (),
) -> list[int]:
    """Indices into ``known`` of the mentions to show with each of m mentions of one sentence, the nearest last.

    ``scores``: (m, n_known) likeness to the mentions asked about. In turn each of them adds the known one nearest to it
    that is not chosen yet, until ``k`` are chosen; they are ordered by the likeness to any. Mentions of a sentence with
    the same text are never shown: they would give the answer away. Of each required type at least one is among them
    where train has one; there are then more than ``k`` only if more types than that are required. Equal scores: the
    earlier mention is nearer.
    """
    best = scores.max(axis=0)
    allowed = np.array([item.sentence_text != sentence_text for item in known], dtype=bool)
    order = [int(index) for index in np.argsort(-best, kind="stable") if allowed[index]]
    chosen: list[int] = []
    for entity_type in dict.fromkeys(required_types):
        chosen += [index for index in order if known[index].entity.type == entity_type][:1]
    taken = set(chosen)
    of_mention = [iter([int(i) for i in np.argsort(-row, kind="stable") if allowed[i]]) for row in scores]
    while len(taken) < min(k, len(order)):
        for nearest_first in of_mention:
            index = next((index for index in nearest_first if index not in taken), None)
            if index is not None and len(taken) < k:
                taken.add(index)
    return [index for index in reversed(order) if index in taken]
