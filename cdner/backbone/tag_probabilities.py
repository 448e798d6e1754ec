"""From the probabilities of tags to entities, and to each entity's distribution over types. Knows no model.

Entities: the most probable sequence of tags among those that are BIO, where I-t stands behind B-t or I-t only (Viterbi
1967). A model with few examples is often sure of a span and not of its type; the most probable tag of each word by
itself then breaks the span where the type changes ("B-person I-researcher").

Types: for a span of words w and a type t, q_t(w) = P(B-t at w) + P(I-t at w), read at the word's first sub-token; the
score of t is the mean of log q_t(w) over the words of the span; the scores' softmax over the domain's types is the
distribution. It says which type the span has, given that it is an entity: P(O) has no part in it. Its most probable
type may be another than the entity's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cdner.spans import bio_to_entities
from cdner.types import Entity, FloatArray

Distribution = Mapping[str, float]  # every type of the domain -> probability, sum 1


def read_tags(
    log_probabilities: FloatArray, labels: Sequence[str], types: Sequence[str], *, each: bool
) -> tuple[tuple[Entity, ...], tuple[Distribution, ...], int]:
    """Entities, the distribution of each, and how many words' own best tags are an orphan I-, of one sentence.

    ``log_probabilities`` (words, labels): natural logarithms, each row's probabilities sum to 1. ``each``: the most
    probable tag of each word, where an orphan starts an entity (``cdner.spans.bio_to_entities``).
    """
    entities, n_orphans = bio_to_entities([labels[number] for number in log_probabilities.argmax(-1)])
    if n_orphans and not each:
        entities, _ = bio_to_entities([labels[number] for number in best_sequence(log_probabilities, labels)])
    columns = [[labels.index(f"B-{name}"), labels.index(f"I-{name}")] for name in types]
    of_types: FloatArray = np.logaddexp.reduce(log_probabilities[:, columns], axis=-1)  # (words, types)
    found = tuple(_distribution(of_types[e.start : e.end], types) for e in entities)
    return entities, found, n_orphans


def best_sequence(log_probabilities: FloatArray, labels: Sequence[str]) -> NDArray[np.int64]:
    """(words,) numbers of labels: the BIO sequence with the highest sum of (words, labels) log-probabilities.

    Between equal sums the label that comes first in ``labels`` wins.
    """
    n_words, n_labels = log_probabilities.shape
    follows = np.array([[_may_follow(before, label) for label in labels] for before in ("O", *labels)])
    barred = np.where(follows, 0.0, -np.inf)
    best = log_probabilities[0] + barred[0]  # a sentence begins as if behind an O
    came_from: NDArray[np.int64] = np.zeros((n_words, n_labels), dtype=np.int64)
    for word in range(1, n_words):
        sums = best[:, None] + barred[1:]
        came_from[word] = sums.argmax(axis=0)
        best = sums.max(axis=0) + log_probabilities[word]
    path = np.empty(n_words, dtype=np.int64)
    path[-1] = best.argmax()
    for word in range(n_words - 1, 0, -1):
        path[word - 1] = came_from[word, path[word]]
    return path


def _may_follow(before: str, label: str) -> bool:
    return not label.startswith("I-") or before in (label, f"B-{label[2:]}")


def _distribution(of_types: FloatArray, types: Sequence[str]) -> Distribution:
    scores = of_types.mean(axis=0)
    weights = np.exp(scores - scores.max())
    return dict(zip(types, (weights / weights.sum()).tolist(), strict=True))
