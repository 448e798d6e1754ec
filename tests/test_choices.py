"""Log-probabilities of choices as a completion's text and back; what cannot be one is never taken for certainty."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdner.choices import ChoiceScores, checked_scores, normalised, read_scores, scores_text

figures = st.none() | st.floats(max_value=0, min_value=-700)


@given(st.lists(figures, min_size=1), st.sampled_from(["logits", "top_logprobs", "sampled"]))
def test_what_is_written_is_read(log_probs, origin):
    scores = ChoiceScores(tuple(log_probs), origin)
    read = read_scores(scores_text(scores), n_choices=len(log_probs))
    assert read.origin == origin
    for before, after in zip(log_probs, read.log_probs, strict=True):
        assert (before is None) == (after is None)
        assert before is None or abs(before - after) <= 5.1e-5


@pytest.mark.parametrize("bad", [math.nan, 0.5, math.inf, -math.inf, "-1", True, [], {}])
def test_what_is_no_log_probability_is_counted_and_unknown(bad):
    scores = checked_scores([-1.0, bad, None], "top_logprobs")
    assert scores.log_probs == (-1.0, None, None)
    assert (scores.n_invalid, scores.n_missing) == (1, 2)
    assert read_scores(scores_text(scores), n_choices=3) == scores


def test_a_probability_of_one_may_be_rounded_above_it():
    assert checked_scores([1e-9], "logits") == ChoiceScores((0.0,), "logits")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("person", "not the scores"),
        ("[]", "no list"),
        ('{"log_probs": 1, "origin": "logits"}', "no list"),
        ('{"log_probs": [-1], "origin": "guess"}', "unknown origin"),
        ('{"log_probs": [-1], "origin": "logits"}', "of 1 choices, not of 2"),
        ('{"log_probs": [-1, -2], "origin": "logits", "n_invalid": -1}', "n_invalid"),
        ('{"log_probs": [-1, -2], "origin": "logits", "n_invalid": true}', "n_invalid"),
    ],
)
def test_another_text_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        read_scores(text, n_choices=2)


def test_a_nan_inside_a_stored_text_is_unknown():
    text = json.dumps({"log_probs": [math.nan, -1.0], "origin": "logits"})
    assert read_scores(text, n_choices=2).log_probs == (None, -1.0)


def test_probabilities_sum_to_one_and_missing_ones_are_as_small_as_the_smallest_known():
    shares = normalised(ChoiceScores((math.log(0.6), None, math.log(0.1)), "top_logprobs"))
    assert shares == pytest.approx((0.75, 0.125, 0.125))
    assert normalised(ChoiceScores((None, None), "sampled")) == (0.5, 0.5)
    assert normalised(ChoiceScores((-2000.0, -2001.0), "logits"))[0] == pytest.approx(1 / (1 + math.exp(-1)))
