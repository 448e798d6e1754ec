"""From the probabilities of tags to entities, and to each entity's distribution over types. Knows no model.

Rule for a span of words w and a type t: q_t(w) = P(B-t at w) + P(I-t at w), read at the word's first sub-token; the
score of t is the mean of log q_t(w) over the words of the span; the scores' softmax over the domain's types is the
distribution. It says which type the span has, given that it is an entity: P(O) has no part in it. Entities follow the
most probable tags, so that the most probable type of a span may be another than the entity's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cdner.spans import bio_to_entities
from cdner.types import Entity, FloatArray

Distribution = Mapping[str, float]  # every type of the domain -> probability, sum 1


def read_tags(
    log_probabilities: FloatArray, labels: Sequence[str], types: Sequence[str]
) -> tuple[tuple[Entity, ...], tuple[Distribution, ...], int]:
    """Entities, the distribution of each, and the number of orphan I- tags, of one sentence.

    ``log_probabilities`` (words, labels): natural logarithms, each row's probabilities sum to 1.
    """
    tags = [labels[number] for number in log_probabilities.argmax(-1)]
    entities, n_orphans = bio_to_entities(tags)
    columns = [[labels.index(f"B-{name}"), labels.index(f"I-{name}")] for name in types]
    of_types: FloatArray = np.logaddexp.reduce(log_probabilities[:, columns], axis=-1)  # (words, types)
    found = tuple(_distribution(of_types[e.start : e.end], types) for e in entities)
    return entities, found, n_orphans


def _distribution(of_types: FloatArray, types: Sequence[str]) -> Distribution:
    scores = of_types.mean(axis=0)
    weights = np.exp(scores - scores.max())
    return dict(zip(types, (weights / weights.sum()).tolist(), strict=True))
