"""Scores and errors by hand, against plain loops, and against seqeval and nervaluate."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import example, given
from nervaluate import Evaluator
from random_corpora import paired_corpora, seeded_pair
from seqeval.metrics.v1 import precision_recall_fscore_support
from seqeval.scheme import IOB2

from cdner.errors import InputError
from cdner.evaluate import ErrorRow, ScoreRow, error_proportions, evaluate_predictions, score
from cdner.spans import entities_to_bio
from cdner.types import Corpus, Entity, Prediction, Sentence

TYPES = ("poet", "city", "river")
METRICS = ("strict", "span", "mention_multiset", "mention_set")
GOLD = (
    Sentence(("Ode", "to", "Rome", ",", "Rome"), (Entity(0, 3, "poet"), Entity(4, 5, "city"))),
    Sentence(("Po", "and", "Po"), (Entity(0, 1, "river"), Entity(2, 3, "river"))),
    Sentence(("nothing",)),
)
PREDICTED = (
    Prediction("", (Entity(0, 1, "poet"), Entity(2, 3, "city"), Entity(4, 5, "river"))),
    Prediction("", (Entity(0, 1, "river"),)),
    Prediction("", (Entity(0, 1, "city"),)),
)


def _row(rows: Sequence[ScoreRow], metric: str, entity_type: str) -> ScoreRow:
    (found,) = [row for row in rows if (row.metric, row.entity_type) == (metric, entity_type)]
    return found


def _counts(row: ScoreRow) -> tuple[int, int, int]:
    return row.n_gold, row.n_predicted, row.n_correct


# --- by hand ------------------------------------------------------------------------------------------------


def test_strict_counts_span_and_type() -> None:
    rows = score(GOLD, PREDICTED, TYPES)
    assert _counts(_row(rows, "strict", "*")) == (4, 5, 1)
    assert _row(rows, "strict", "*").precision == 0.2
    assert _row(rows, "strict", "*").recall == 0.25
    assert _row(rows, "strict", "*").f1 == pytest.approx(2 / 9)
    assert _row(rows, "strict", "river") == ScoreRow("strict", "river", 2, 2, 1, 0.5, 0.5, 0.5)
    assert _row(rows, "strict", "city") == ScoreRow("strict", "city", 1, 2, 0, 0.0, 0.0, 0.0)


def test_span_ignores_the_type_and_has_one_row() -> None:
    rows = [row for row in score(GOLD, PREDICTED, TYPES) if row.metric == "span"]
    assert [(row.entity_type, *_counts(row)) for row in rows] == [("*", 4, 5, 2)]


def test_mentions_compare_surfaces_and_repeats_count_in_the_multiset_only() -> None:
    rows = score(GOLD, PREDICTED, TYPES)
    # "Rome" as city is right although it is the other Rome; one of the two "Po" is found
    assert _counts(_row(rows, "mention_multiset", "*")) == (4, 5, 2)
    assert _counts(_row(rows, "mention_set", "*")) == (3, 5, 2)
    assert _counts(_row(rows, "mention_multiset", "river")) == (2, 2, 1)
    assert _counts(_row(rows, "mention_set", "river")) == (1, 2, 1)


def test_a_mention_predicted_more_often_than_it_occurs_is_correct_once_per_occurrence() -> None:
    gold = (Sentence(("Po", "and", "Po"), (Entity(0, 1, "river"),)),)
    predicted = (Prediction("", (Entity(0, 1, "river"), Entity(2, 3, "river"))),)
    assert _counts(_row(score(gold, predicted, TYPES), "mention_multiset", "*")) == (1, 2, 1)


def test_mentions_are_compared_within_their_sentence() -> None:
    gold = (Sentence(("Po",), (Entity(0, 1, "river"),)), Sentence(("Po",)))
    predicted = (Prediction("", ()), Prediction("", (Entity(0, 1, "river"),)))
    assert _counts(_row(score(gold, predicted, TYPES), "mention_set", "*")) == (1, 1, 0)


def test_repeated_mentions_are_counted_within_their_sentence_and_type() -> None:
    poes = ("Po", "Po", "Po", "Po", "Po")
    once, twice = (Entity(0, 1, "river"),), (Entity(0, 1, "river"), Entity(1, 2, "river"))
    cities = (Entity(2, 3, "city"), Entity(3, 4, "city"))
    gold = (Sentence(poes, (*once, *cities)), Sentence(poes, twice))
    predicted = (Prediction("", twice), Prediction("", ()))
    rows = score(gold, predicted, TYPES)
    assert _counts(_row(rows, "mention_multiset", "*")) == (5, 2, 1)
    assert _counts(_row(rows, "mention_multiset", "river")) == (3, 2, 1)
    assert _counts(_row(rows, "mention_multiset", "city")) == (2, 0, 0)
    assert _counts(_row(rows, "mention_set", "*")) == (3, 1, 1)


def test_macro_is_the_mean_over_types_that_occur() -> None:
    rows = score(GOLD, PREDICTED, (*TYPES, "unseen"))
    macro = _row(rows, "strict", "macro")
    assert macro.f1 == pytest.approx((0 + 0 + 0.5) / 3)
    assert _counts(macro) == _counts(_row(rows, "strict", "*"))
    assert _row(rows, "strict", "unseen") == ScoreRow("strict", "unseen", 0, 0, 0, 0.0, 0.0, 0.0)


def test_rows_stand_in_metric_and_type_order() -> None:
    rows = score(GOLD, PREDICTED, TYPES)
    per_metric = [("*", "macro", *TYPES) if metric != "span" else ("*",) for metric in METRICS]
    expected = [(metric, name) for metric, names in zip(METRICS, per_metric, strict=True) for name in names]
    assert [(row.metric, row.entity_type) for row in rows] == expected


def test_error_proportions_tell_boundary_missed_misclassified_and_spurious_apart() -> None:
    rows = {row.entity_type: row for row in error_proportions(GOLD, PREDICTED, TYPES)}
    assert list(rows) == ["*", *TYPES]
    assert rows["poet"] == ErrorRow("poet", 1, 0, 0, 1, 1, 0, 0, 1.0, 1.0, 0.0)
    assert rows["city"] == ErrorRow("city", 1, 0, 1, 0, 0, 0, 1, 1.0, 0.0, 1.0)
    assert rows["river"] == ErrorRow("river", 2, 1, 0, 1, 0, 1, 0, 0.5, 0.5, 0.0)
    assert rows["*"] == ErrorRow("*", 4, 1, 1, 2, 1, 1, 1, 0.75, 0.5, 0.25)


def test_nothing_at_all_scores_zero_everywhere() -> None:
    for row in (*score((), (), TYPES), *score(GOLD[2:], (Prediction("", ()),), TYPES)):
        assert (*_counts(row), row.precision, row.recall, row.f1) == (0, 0, 0, 0.0, 0.0, 0.0)
    errors = error_proportions((), (), TYPES)
    assert len(errors) == 1 + len(TYPES)
    for error in errors:
        assert (error.n_gold, error.error_proportion) == (0, 0.0)


def test_a_missing_prediction_is_refused() -> None:
    for function in (score, error_proportions):
        with pytest.raises(InputError, match="3 gold sentences but 2 predictions"):
            function(GOLD, PREDICTED[:2], TYPES)


def test_a_type_outside_the_domain_is_refused() -> None:
    with pytest.raises(InputError, match="outside the domain: river"):
        score(GOLD, PREDICTED, ("poet", "city"))


# --- plain loops --------------------------------------------------------------------------------------------

PAIRS = paired_corpora(TYPES, TYPES, "test")


def _many() -> tuple[Corpus, tuple[Prediction, ...]]:
    """Enough that unlike mentions fall into one bucket."""
    sentences, predictions = seeded_pair(3, n_sentences=2_000, types=TYPES)
    return Corpus("many", "test", sentences, types=TYPES), predictions


@given(PAIRS)
@example(_many())
def test_scores_equal_plain_loops(pair: tuple[Corpus, tuple[Prediction, ...]]) -> None:
    sentences, predictions = pair[0].sentences, pair[1]
    rows = score(sentences, predictions, TYPES)
    for name in TYPES:
        counted = dict.fromkeys(("strict", "mention_multiset", "mention_set"), 0)
        for sentence, prediction in zip(sentences, predictions, strict=True):
            gold = [e for e in sentence.entities if e.type == name]
            seen = [e for e in prediction.entities if e.type == name]
            counted["strict"] += sum(e in gold for e in seen)
            gold_texts = [" ".join(sentence.tokens[e.start : e.end]) for e in gold]
            seen_texts = [" ".join(sentence.tokens[e.start : e.end]) for e in seen]
            counted["mention_set"] += len(set(gold_texts) & set(seen_texts))
            for text in seen_texts:
                if text in gold_texts:
                    gold_texts.remove(text)
                    counted["mention_multiset"] += 1
        for metric, n_correct in counted.items():
            assert _row(rows, metric, name).n_correct == n_correct
    n_spans = 0
    for sentence, prediction in zip(sentences, predictions, strict=True):
        n_spans += len(
            {(e.start, e.end) for e in sentence.entities} & {(e.start, e.end) for e in prediction.entities}
        )
    assert _row(rows, "span", "*").n_correct == n_spans


@given(PAIRS)
def test_micro_counts_are_the_sum_over_types(pair: tuple[Corpus, tuple[Prediction, ...]]) -> None:
    rows = score(pair[0].sentences, pair[1], TYPES)
    for metric in ("strict", "mention_multiset", "mention_set"):
        per_type = [_counts(_row(rows, metric, name)) for name in TYPES]
        assert _counts(_row(rows, metric, "*")) == tuple(
            sum(column) for column in zip(*per_type, strict=True)
        )


@given(PAIRS)
def test_errors_equal_plain_loops(pair: tuple[Corpus, tuple[Prediction, ...]]) -> None:
    sentences, predictions = pair[0].sentences, pair[1]
    rows = {row.entity_type: row for row in error_proportions(sentences, predictions, TYPES)}
    for name in TYPES:
        n = dict.fromkeys(("gold", "right", "wrong", "boundary", "gone", "spurious"), 0)
        for sentence, prediction in zip(sentences, predictions, strict=True):
            for gold in sentence.entities:
                if gold.type != name:
                    continue
                n["gold"] += 1
                exact = [p for p in prediction.entities if (p.start, p.end) == (gold.start, gold.end)]
                overlapping = [p for p in prediction.entities if p.start < gold.end and gold.start < p.end]
                if exact:
                    n["right" if exact[0].type == name else "wrong"] += 1
                else:
                    n["boundary" if overlapping else "gone"] += 1
            for p in prediction.entities:
                touched = any(p.start < g.end and g.start < p.end for g in sentence.entities)
                n["spurious"] += p.type == name and not touched
        row = rows[name]
        assert (row.n_gold, row.n_correct, row.n_misclassified) == (n["gold"], n["right"], n["wrong"])
        assert (row.n_boundary, row.n_not_found, row.n_spurious) == (n["boundary"], n["gone"], n["spurious"])
        assert row.n_missed == n["boundary"] + n["gone"]
        assert row.error_proportion == (
            (row.n_missed + row.n_misclassified) / n["gold"] if n["gold"] else 0.0
        )


@given(PAIRS)
def test_all_tables_at_once_are_the_tables_one_by_one(pair: tuple[Corpus, tuple[Prediction, ...]]) -> None:
    sentences, predictions = pair[0].sentences, pair[1]
    found = evaluate_predictions(sentences, predictions, TYPES)
    assert found.scores == score(sentences, predictions, TYPES)
    assert found.errors == error_proportions(sentences, predictions, TYPES)
    counted = Counter(
        (gold.type, seen.type)
        for sentence, prediction in zip(sentences, predictions, strict=True)
        for gold, seen in product(sentence.entities, prediction.entities)
        if (gold.start, gold.end) == (seen.start, seen.end)
    )
    assert found.confusion.tolist() == [[counted[gold, seen] for seen in TYPES] for gold in TYPES]


@given(PAIRS)
def test_errors_and_strict_recall_add_up_to_one(pair: tuple[Corpus, tuple[Prediction, ...]]) -> None:
    rows = score(pair[0].sentences, pair[1], TYPES)
    for error in error_proportions(pair[0].sentences, pair[1], TYPES):
        recall = _row(rows, "strict", error.entity_type).recall
        if error.n_gold:
            assert error.missed_proportion + error.misclassified_proportion + recall == pytest.approx(1.0)


# --- oracles ------------------------------------------------------------------------------------------------


def _tags(sentences: Sequence[Sentence], items: Sequence[Sentence | Prediction]) -> list[list[str]]:
    return [
        entities_to_bio(len(sentence.tokens), item.entities)
        for sentence, item in zip(sentences, items, strict=True)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_strict_scores_equal_seqeval(seed: int) -> None:
    sentences, predictions = seeded_pair(seed, n_sentences=200, types=TYPES)
    rows = score(sentences, predictions, TYPES)
    tags = _tags(sentences, sentences), _tags(sentences, predictions)
    order = sorted(TYPES)  # seqeval's order of types
    per_type = precision_recall_fscore_support(*tags, average=None, scheme=IOB2)
    for position, name in enumerate(order):
        row = _row(rows, "strict", name)
        expected = [float(column[position]) for column in per_type]
        assert [row.precision, row.recall, row.f1, row.n_gold] == pytest.approx(expected)
    for average, name in (("micro", "*"), ("macro", "macro")):
        row = _row(rows, "strict", name)
        expected = precision_recall_fscore_support(*tags, average=average, scheme=IOB2)[:3]
        assert [row.precision, row.recall, row.f1] == pytest.approx([float(value) for value in expected])


@pytest.mark.parametrize("seed", range(3))
def test_strict_and_span_scores_equal_nervaluate(seed: int) -> None:
    sentences, predictions = seeded_pair(seed, n_sentences=200, types=TYPES)
    rows = score(sentences, predictions, TYPES)
    evaluator = Evaluator(
        _tags(sentences, sentences), _tags(sentences, predictions), tags=list(TYPES), loader="list"
    )
    found = evaluator.evaluate()["overall"]
    for theirs, ours in (("strict", "strict"), ("exact", "span")):
        row, result = _row(rows, ours, "*"), found[theirs]
        assert _counts(row) == (result.possible, result.actual, result.correct)
        expected = [result.precision, result.recall, result.f1]
        assert [row.precision, row.recall, row.f1] == pytest.approx(expected)


def test_the_oracles_saw_every_kind_of_error() -> None:
    sentences, predictions = seeded_pair(0, n_sentences=200, types=TYPES)
    total = error_proportions(sentences, predictions, TYPES)[0]
    kinds = (total.n_correct, total.n_misclassified, total.n_boundary, total.n_not_found, total.n_spurious)
    assert min(kinds) >= 20


def test_a_hundred_thousand_sentences_take_about_half_a_second() -> None:
    """Loops over Counters take 4 s; the bound allows for a busy machine."""
    sentences, predictions = seeded_pair(0, n_sentences=5_000, types=TYPES)
    sentences, predictions = sentences * 20, predictions * 20
    started = time.process_time()
    score(sentences, predictions, TYPES)
    error_proportions(sentences, predictions, TYPES)
    assert time.process_time() - started < 2
