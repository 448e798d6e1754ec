"""What two settings make of the same sentences, by hand and against plain loops."""

from __future__ import annotations

import pytest
from random_corpora import seeded_pair

from cdner.evaluate.changes import EntityChange, TypeDecisions, confused_pairs, entity_changes, type_decisions
from cdner.types import Entity, Prediction, Sentence

GOLD = (
    Sentence(("a", "b", "c", "d"), (Entity(0, 1, "poet"), Entity(1, 2, "city"), Entity(2, 4, "river"))),
    Sentence(("e", "f"), (Entity(0, 1, "city"), Entity(1, 2, "city"))),
)
BEFORE = (
    Prediction("", (Entity(0, 1, "poet"), Entity(1, 2, "poet"), Entity(2, 3, "river"))),
    Prediction("", (Entity(0, 1, "river"), Entity(1, 2, "city"))),
)
AFTER = (
    Prediction("", (Entity(0, 1, "poet"), Entity(1, 2, "city"), Entity(2, 4, "river"))),
    Prediction("", (Entity(0, 1, "river"), Entity(1, 2, "poet"))),
)


def test_an_entity_is_fixed_or_broken_when_only_one_setting_has_span_and_type() -> None:
    assert entity_changes(GOLD, BEFORE, AFTER) == (
        EntityChange(0, Entity(1, 2, "city"), "fixed", "poet", "city"),
        EntityChange(0, Entity(2, 4, "river"), "fixed", None, "river"),
        EntityChange(1, Entity(1, 2, "city"), "broken", "city", "poet"),
    )


def test_type_decisions_look_only_at_spans_that_both_found() -> None:
    """The river was found by one alone."""
    assert type_decisions(GOLD, BEFORE, AFTER) == TypeDecisions(1, 1, 1, 1)


def test_confused_pairs_count_wrong_types_on_exact_spans() -> None:
    found = confused_pairs(GOLD, BEFORE, AFTER)
    assert found.n_gold == {"poet": 1, "city": 3, "river": 1}
    assert found.n_before == {("city", "poet"): 1, ("city", "river"): 1}
    assert found.n_after == {("city", "river"): 1, ("city", "poet"): 1}


def test_lists_of_different_length_are_refused() -> None:
    for function in (entity_changes, type_decisions, confused_pairs):
        with pytest.raises(ValueError, match="shorter"):
            function(GOLD, BEFORE, AFTER[:1])


def test_changes_and_decisions_equal_plain_loops() -> None:
    types = ("poet", "city", "river")
    gold, before = seeded_pair(1, n_sentences=300, types=types)
    after = tuple(
        Prediction("", old.entities if index % 3 else sentence.entities[::2])
        for index, (sentence, old) in enumerate(zip(gold, before, strict=True))
    )
    n = dict.fromkeys(("fixed", "broken", "rr", "rw", "wr", "ww"), 0)
    for sentence, old, new in zip(gold, before, after, strict=True):
        for entity in sentence.entities:
            was, is_now = entity in old.entities, entity in new.entities
            n["fixed"] += is_now and not was
            n["broken"] += was and not is_now
            if all(
                any((e.start, e.end) == (entity.start, entity.end) for e in x.entities) for x in (old, new)
            ):
                n[("r" if was else "w") + ("r" if is_now else "w")] += 1
    changes = entity_changes(gold, before, after)
    assert sum(change.change == "fixed" for change in changes) == n["fixed"] > 0
    assert sum(change.change == "broken" for change in changes) == n["broken"] > 0
    assert type_decisions(gold, before, after) == TypeDecisions(n["rr"], n["wr"], n["rw"], n["ww"])
