"""Random gold and predicted entities for tests of confusion and evaluation.

Small sentences over a small vocabulary: exact hits, wrong types, overlaps and repeats all become frequent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from cdner.types import Corpus, Domain, Entity, Prediction, Role, Sentence, Split, TypeEntry

VOCABULARY = ("north", "river", "seven")
MAX_TOKENS = 8


def domain(
    name: str, types: Sequence[str], role: Role = "target", shorts: Sequence[str] | None = None
) -> Domain:
    entries = zip(types, shorts or types, strict=True)
    return Domain(
        name, role, tuple(TypeEntry(type_, short, type_, "", "", f"A {type_}.") for type_, short in entries)
    )


def entities(n_tokens: int, pieces: Sequence[tuple[int, int]], types: Sequence[str]) -> tuple[Entity, ...]:
    """Cut a sentence into (length, type index) pieces from the left; index -1 is outside every entity."""
    found, start = [], 0
    for length, index in pieces:
        if start + length > n_tokens:
            break
        if index >= 0:
            found.append(Entity(start, start + length, types[index]))
        start += length
    return tuple(found)


def _pieces(n_types: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    return st.lists(st.tuples(st.integers(1, 3), st.integers(-1, n_types - 1)), max_size=MAX_TOKENS)


@st.composite
def paired_corpora(
    draw: st.DrawFn, gold_types: Sequence[str], predicted_types: Sequence[str], split: Split
) -> tuple[Corpus, tuple[Prediction, ...]]:
    """A corpus of domain "random" and one prediction per sentence."""
    sentences, predictions = [], []
    for _ in range(draw(st.integers(0, 6))):
        tokens = tuple(draw(st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=MAX_TOKENS)))
        gold = draw(_pieces(len(gold_types)))
        # Half of the time the prediction keeps the gold's cuts, so that exact spans with wrong types occur.
        cuts = draw(st.one_of(_pieces(len(predicted_types)), st.just(gold)))
        seen = [(length, index % len(predicted_types) if index >= 0 else -1) for length, index in cuts]
        sentences.append(Sentence(tokens, entities(len(tokens), gold, gold_types)))
        predictions.append(Prediction("", entities(len(tokens), seen, predicted_types)))
    return Corpus("random", split, tuple(sentences)), tuple(predictions)


def seeded_pair(
    seed: int, *, n_sentences: int, types: Sequence[str]
) -> tuple[tuple[Sentence, ...], tuple[Prediction, ...]]:
    """Many sentences, fast; about half of the gold spans are found and most of those keep their type."""
    rng = np.random.default_rng(seed)
    sentences, predictions = [], []
    for _ in range(n_sentences):
        n_tokens = int(rng.integers(1, 15))
        tokens = tuple(VOCABULARY[index] for index in rng.integers(0, len(VOCABULARY), n_tokens))
        pieces = list(
            zip(
                rng.integers(1, 4, n_tokens).tolist(),
                rng.integers(-1, len(types), n_tokens).tolist(),
                strict=True,
            )
        )
        noisy = [
            (
                int(rng.integers(1, 4)) if rng.random() < 0.15 else length,
                int(rng.integers(-1, len(types))) if rng.random() < 0.3 else index,
            )
            for length, index in pieces
        ]
        sentences.append(Sentence(tokens, entities(n_tokens, pieces, types)))
        predictions.append(Prediction("", entities(n_tokens, noisy, types)))
    return tuple(sentences), tuple(predictions)
