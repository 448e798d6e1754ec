"""Verdicts as a text: what a clause says, in which order, and what it leaves out."""

from __future__ import annotations

import random

from cdner.prompts import load_template
from cdner.types import ReasoningChain
from cdner.verdicts import told_verdicts

TEMPLATE = load_template("tell.v1")
TOKENS = ["Kuutar", "was", "built", "by", "Ada", "Lovelace", "in", "Turku", "."]


def told(verdicts, tokens=TOKENS) -> str:
    chain = told_verdicts(TEMPLATE, tokens, verdicts)
    assert chain == ReasoningChain("", chain.bidirectional)
    return chain.bidirectional


def test_a_clause_has_the_two_most_probable_types_with_two_decimals():
    verdict = {"researcher": 0.1249, "product": 0.8051, "city": 0.07}
    assert told({(0, 1): verdict}) == "Kuutar: product rather than researcher, 0.81 against 0.12."


def test_clauses_stand_in_text_order_whatever_the_order_of_the_verdicts():
    verdicts = {(7, 8): {"a": 0.6, "b": 0.4}, (0, 1): {"a": 0.3, "b": 0.7}, (4, 6): {"a": 0.9, "b": 0.1}}
    expected = (
        "Kuutar: b rather than a, 0.70 against 0.30. Ada Lovelace: a rather than b, 0.90 against 0.10."
        " Turku: a rather than b, 0.60 against 0.40."
    )
    for seed in range(6):
        items = list(verdicts.items())
        random.Random(seed).shuffle(items)
        assert told(dict(items)) == expected


def test_equal_probabilities_are_ranked_as_the_domain_orders_its_types():
    assert told({(0, 1): {"z": 0.5, "a": 0.5}}) == "Kuutar: z rather than a, 0.50 against 0.50."
    assert told({(0, 1): {"a": 0.5, "z": 0.5}}) == "Kuutar: a rather than z, 0.50 against 0.50."


def test_a_single_candidate_has_no_rival():
    assert told({(0, 1): {"product": 1.0}}) == "Kuutar: product, 1.00."


def test_what_has_no_verdict_is_not_named_and_without_any_there_is_no_text():
    assert told({(0, 1): {}, (7, 8): {"a": 0.6, "b": 0.4}}) == "Turku: a rather than b, 0.60 against 0.40."
    assert told({(0, 1): {}}) == told({}) == ""


def test_a_mention_is_one_line_and_never_a_template():
    hostile = ("Ada\nLovelace", "{{ 7 * 7 }}", "{%", "end")
    text = told({(0, 4): {"a": 0.6, "b": 0.4}}, hostile)
    assert text == "Ada Lovelace {{ 7 * 7 }} {% end: a rather than b, 0.60 against 0.40."
