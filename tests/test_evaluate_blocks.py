"""Counted in parts or all at once: the same tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_corpora import paired_corpora

from cdner.errors import InputError
from cdner.evaluate import evaluate_parts, evaluate_predictions
from cdner.types import Corpus, Entity, Prediction, Sentence

TYPES = ("poet", "city", "river", "unseen")


@given(pair=paired_corpora(TYPES[:3], TYPES[:3], "dev"), size=st.integers(1, 4))
def test_parts_of_any_size_make_the_tables_of_the_whole(
    pair: tuple[Corpus, tuple[Prediction, ...]], size: int
) -> None:
    corpus, predictions = pair
    starts = range(0, len(predictions), size)
    parts = [(corpus.sentences[n : n + size], predictions[n : n + size]) for n in starts]
    found = evaluate_parts(iter(parts), TYPES)
    whole = evaluate_predictions(corpus.sentences, predictions, TYPES)
    assert found.scores == whole.scores
    assert found.errors == whole.errors
    assert found.confusion.tolist() == whole.confusion.tolist()


def test_a_type_outside_the_domain_is_refused_in_whatever_part_it_is() -> None:
    sentence = Sentence(("Po",), (Entity(0, 1, "river"),))
    good, bad = ([sentence], [Prediction("", ())]), ([sentence], [Prediction("", (Entity(0, 1, "lake"),))])
    with pytest.raises(InputError, match="outside the domain: lake"):
        evaluate_parts([good, bad], TYPES)
