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
    """Indices into ``known`` of the mentions to show, the nearest last.

    ``scores``: (n_known,) likeness to the mention asked about. Mentions of a sentence with the same text are never
    shown: they would give the answer away. Of each required type at least one is among them where train has one; there
    are then more than ``k`` only if more types than that are required. Equal scores: the earlier mention is nearer.
    """
    order = [
        int(index)
        for index in np.argsort(-scores, kind="stable")
        if known[index].sentence_text != sentence_text
    ]
    chosen: list[int] = []
    for entity_type in dict.fromkeys(required_types):
        chosen += [index for index in order if known[index].entity.type == entity_type][:1]
    others = [index for index in order if index not in chosen]
    shown = {*chosen, *others[: max(0, k - len(chosen))]}
    return [index for index in reversed(order) if index in shown]


def nearest_sentences(
    scores: FloatArray,
    known: Sequence[LabelledMention],
    *,
    sentence_text: str,
    k: int,
    required_types: Sequence[str] = (),
) -> list[int]:
    """Indices into ``known`` of all mentions of the ``k`` sentences to show with one sentence, the nearest one last.

    ``scores``: (m, n_known) likeness to the m mentions of the sentence that are asked about. A mention is as like a
    sentence as it is like the mention there that is most like it. In turn each mention adds the sentence most like it
    that is not chosen yet; the chosen ones are ordered by the sum over all mentions. Sentences with the text of the one
    that is asked about are never shown. Of each required type at least one mention is shown where train has one; there
    are then more than ``k`` sentences only if these types need more. Equal likeness: the earlier sentence is nearer.
    """
    rows_of: dict[int, list[int]] = {}
    for index, item in enumerate(known):
        if item.sentence_text != sentence_text:
            rows_of.setdefault(item.position, []).append(index)
    if not rows_of:
        return []
    positions = sorted(rows_of)
    to_sentence = np.stack([scores[:, rows_of[position]].max(axis=1) for position in positions], axis=1)
    chosen: list[int] = []  # columns of ``to_sentence``
    by_sum = [int(column) for column in np.argsort(-to_sentence.sum(axis=0), kind="stable")]
    for entity_type in dict.fromkeys(required_types):
        has_it = [
            column
            for column in by_sum
            if any(known[index].entity.type == entity_type for index in rows_of[positions[column]])
        ]
        if not set(has_it) & set(chosen):
            chosen += has_it[:1]
    preferred = [list(map(int, np.argsort(-row, kind="stable"))) for row in to_sentence]
    for turn in range(len(positions) * len(preferred)):
        if len(chosen) >= k:
            break
        chosen += [column for column in preferred[turn % len(preferred)] if column not in chosen][:1]
    return [index for column in reversed(by_sum) if column in chosen for index in rows_of[positions[column]]]
