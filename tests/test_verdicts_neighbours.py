"""Which labelled mentions are shown: against a plain search, never the sentence itself, every rival at least once."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cdner.types import Entity
from cdner.verdicts import LabelledMention, Mentions, nearest, nearest_sentences
from cdner.verdicts.neighbours import likeness, unit_rows

TYPES = ("person", "researcher", "field")


def mention(number: int, entity_type: str, text: str = "") -> LabelledMention:
    return LabelledMention(number, text or f"sentence {number}", Entity(0, 1, entity_type))


def test_likeness_is_the_cosine_of_mentions_and_the_weighted_one_of_sentences():
    rng = np.random.default_rng(0)
    raw = [rng.normal(size=(n, 4)) for n in (3, 3, 5, 5)]
    asked, known = Mentions(*map(unit_rows, raw[:2])), Mentions(*map(unit_rows, raw[2:]))
    found = likeness(asked, known, sentence_weight=0.5)
    for i in range(3):
        for j in range(5):
            expected = sum(
                weight * a[i] @ b[j] / np.linalg.norm(a[i]) / np.linalg.norm(b[j])
                for weight, a, b in ((1, raw[0], raw[2]), (0.5, raw[1], raw[3]))
            )
            assert abs(found[i, j] - expected) < 1e-12
    assert not unit_rows(np.zeros((1, 4))).any()


def test_the_nearest_stand_last_and_equal_ones_keep_the_corpus_order():
    known = [mention(n, "person") for n in range(4)]
    scores = np.array([0.5, 0.9, 0.5, 0.1])
    assert nearest(scores, known, sentence_text="asked", k=3) == [2, 0, 1]
    assert nearest(scores, known, sentence_text="asked", k=0) == []


def test_a_mention_of_the_same_sentence_is_never_shown():
    known = [mention(0, "person", "the same"), mention(1, "field")]
    assert nearest(np.array([1.0, 0.1]), known, sentence_text="the same", k=2) == [1]


def test_of_each_required_type_one_is_shown_where_train_has_one():
    known = [mention(0, "person"), mention(1, "person"), mention(2, "researcher")]
    scores = np.array([0.9, 0.8, 0.1])
    assert nearest(scores, known, sentence_text="asked", k=2) == [1, 0]
    assert nearest(scores, known, sentence_text="asked", k=2, required_types=("researcher", "field")) == [
        2,
        0,
    ]
    assert nearest(scores, known, sentence_text="asked", k=1, required_types=("researcher", "person")) == [
        2,
        0,
    ]


@given(
    st.lists(st.tuples(st.sampled_from(TYPES), st.integers(-3, 3), st.booleans()), max_size=9),
    st.integers(0, 5),
    st.sets(st.sampled_from(TYPES)),
)
def test_as_a_plain_search_finds_them(rows, k, required):
    known = [mention(n, name, "asked" if same else "") for n, (name, _, same) in enumerate(rows)]
    scores = np.array([float(score) for _, score, _ in rows])
    found = nearest(scores, known, sentence_text="asked", k=k, required_types=tuple(required))
    allowed = sorted((-scores[n], n) for n, item in enumerate(known) if item.sentence_text != "asked")
    shown = []
    for name in required:
        shown += [n for _, n in allowed if known[n].entity.type == name][:1]
    for _, n in allowed:
        if len(shown) < k and n not in shown:
            shown.append(n)
    assert found == [n for _, n in reversed(allowed) if n in shown]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(TYPES), st.tuples(*[st.integers(-3, 3)] * 3), st.integers(0, 4), st.booleans()
        ),
        max_size=9,
    ),
    st.integers(1, 3),
    st.integers(0, 3),
    st.sets(st.sampled_from(TYPES)),
)
def test_whole_sentences_as_a_plain_search_finds_them(rows, n_asked, k, required):
    """Rows: type, likeness to each mention asked about, number of the sentence; sentences 0 may be the asked one."""
    asked_too = any(same for *_, same in rows)
    known = [mention(place, name, "asked" if asked_too and place == 0 else "") for name, _, place, _ in rows]
    scores = np.array([[float(of_asked[m]) for _, of_asked, _, _ in rows] for m in range(n_asked)])
    found = nearest_sentences(scores, known, sentence_text="asked", k=k, required_types=tuple(required))

    entities = {}
    for n, item in enumerate(known):
        if item.sentence_text != "asked":
            entities.setdefault(item.position, []).append(n)

    def like(m, place):
        return max(scores[m, n] for n in entities[place])

    by_all = sorted(entities, key=lambda place: (-sum(like(m, place) for m in range(n_asked)), place))
    shown = []
    for name in required:
        having = [place for place in by_all if any(known[n].entity.type == name for n in entities[place])]
        if having and not set(having) & set(shown):
            shown.append(having[0])
    for turn in range(len(entities) * n_asked):
        left = sorted(set(entities) - set(shown), key=lambda place: (-like(turn % n_asked, place), place))
        if left and len(shown) < k:
            shown.append(left[0])
    assert found == [n for place in reversed(by_all) if place in shown for n in entities[place]]
