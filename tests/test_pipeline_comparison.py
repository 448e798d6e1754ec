"""Comparisons of stored runs: what is paired, what is refused, and that every number is the one of the parts."""

from __future__ import annotations

import numpy as np
import pytest
from compared_stores import ComparedStore, compared_store

from cdner.compare.comparison import (
    ComparedRuns,
    by_domain,
    changed_entities,
    changed_pairs,
    compare_f1,
    compare_types,
    load_pair,
)
from cdner.compare.queries import quantified_model
from cdner.errors import UsageError
from cdner.evaluate import score
from cdner.evaluate.changes import type_decisions
from cdner.store import Store
from cdner.store.find import find_prediction_run


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> ComparedStore:
    return compared_store(tmp_path_factory.mktemp("compared") / "cdner.duckdb")


@pytest.fixture
def store(found: ComparedStore) -> Store:
    return Store(found.path)


def pair(found: ComparedStore, key: str, seed: int = 0) -> ComparedRuns:
    runs = [found.settings[f"{key}/{side}/{seed}"].predict for side in ("before", "after")]
    return load_pair(Store(found.path), *runs)


# --- finding runs -------------------------------------------------------------------------------------------


def test_a_run_is_named_by_label_by_the_beginning_of_its_id_or_by_its_evaluation(found, store):
    setting = found.settings["rivers/test/after/0"]
    for name in ("brooks:full/test", setting.predict, setting.predict[:10], found.evaluate[:10]):
        assert find_prediction_run(store, name) == setting.predict


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("brook:full/test", r"No experiment in the store named 'brook'\. Did you mean 'brooks'\?"),
        ("brooks:ful/test", r"Did you mean 'predict:full/test'\?"),
        ("zzz", "No predict run begins with 'zzz'"),
        ("", "A predict and an evaluate run begin with ''"),
    ],
)
def test_a_name_that_fits_no_run_is_refused(store, name, message):
    with pytest.raises(UsageError, match=message):
        find_prediction_run(store, name)


def test_a_train_run_is_refused_by_its_step(found, store):
    with pytest.raises(UsageError, match="is of step train; this needs a predict run"):
        find_prediction_run(store, found.settings["odes/test/after/0"].train)


# --- pairing ------------------------------------------------------------------------------------------------


def test_a_pair_holds_the_predictions_of_both_for_every_sentence(found):
    pair_found = pair(found, "rivers/test")
    assert pair_found.gold == found.corpora["rivers/test"].sentences
    assert len(pair_found.before) == len(pair_found.after) == 80
    assert pair_found.before != pair_found.after
    assert (pair_found.domain, pair_found.split, pair_found.positions) == ("rivers", "test", tuple(range(80)))


def test_other_corpora_and_other_sentences_are_refused_with_both_named(found, store):
    rivers, odes = (found.settings[f"{name}/test/before/0"].predict for name in ("rivers", "odes"))
    with pytest.raises(UsageError, match=rf"{rivers} predicts rivers/test .*{odes} predicts odes/test"):
        load_pair(store, rivers, odes)
    dev = found.settings["rivers/dev/before/0"].predict
    with pytest.raises(UsageError, match=r"rivers/test .* predicts rivers/dev"):
        load_pair(store, rivers, dev)
    with pytest.raises(UsageError, match=r"predicts 80 sentences of rivers/test .* 7, not all the same"):
        load_pair(store, rivers, found.partial.predict)


def test_seeds_are_grouped_by_domain_in_the_order_given(found):
    pairs = [pair(found, "odes/test"), pair(found, "rivers/test"), pair(found, "odes/test", 1)]
    groups = by_domain(pairs)
    assert [[pairs.index(p) for p in group] for group in groups] == [[0, 2], [1]]


def test_two_splits_and_a_run_given_twice_are_refused(found):
    with pytest.raises(UsageError, match="different splits: dev, test"):
        by_domain([pair(found, "rivers/test"), pair(found, "rivers/dev")])
    with pytest.raises(UsageError, match="stands twice on the same side"):
        by_domain([pair(found, "rivers/test"), pair(found, "rivers/test")])


def test_seeds_that_predict_different_sentences_are_refused(found, store):
    partial = load_pair(store, found.partial.predict, found.partial.predict)
    with pytest.raises(UsageError, match="different sentences of rivers/test"):
        by_domain([pair(found, "rivers/test"), partial])


# --- figures ------------------------------------------------------------------------------------------------


def strict_f1(found: ComparedStore, key: str, side: str, seed: int) -> float:
    runs = pair(found, key, seed)
    types = found.corpora[key].types
    rows = score(runs.gold, runs.before if side == "before" else runs.after, types)
    return next(row.f1 for row in rows if (row.metric, row.entity_type) == ("strict", "*"))


def test_f1_before_and_after_are_the_means_of_the_evaluated_scores(found):
    groups = by_domain([pair(found, key, seed) for key in ("rivers/test", "odes/test") for seed in (0, 1)])
    rows = {(row.metric, row.domain): row for row in compare_f1(groups, n_resamples=100)}
    assert list(rows) == [(m, d) for m in ("strict", "span") for d in ("rivers", "odes", "*")]
    for name in ("rivers", "odes"):
        row = rows["strict", name]
        scores = {
            side: [strict_f1(found, f"{name}/test", side, s) for s in (0, 1)] for side in ("before", "after")
        }
        assert row.before.mean == pytest.approx(np.mean(scores["before"]))
        assert row.after.deviation == pytest.approx(np.std(scores["after"], ddof=1))
        assert row.difference.value == pytest.approx(np.mean(scores["after"]) - np.mean(scores["before"]))
        assert row.difference.low < row.difference.value < row.difference.high
    pooled = rows["strict", "*"]
    per_domain = [rows["strict", name].difference for name in ("rivers", "odes")]
    assert pooled.difference.value == pytest.approx(np.mean([d.value for d in per_domain]))
    assert pooled.n_sentences == 160
    assert pooled.difference.high - pooled.difference.low < max(d.high - d.low for d in per_domain)


def test_a_domain_s_figures_do_not_depend_on_how_many_others_stand_behind_it(found):
    alone = compare_f1(by_domain([pair(found, "rivers/test")]), n_resamples=100)
    among = compare_f1(by_domain([pair(found, "rivers/test"), pair(found, "odes/test")]), n_resamples=100)
    assert alone[0] == among[0]


def test_each_pair_of_runs_has_its_own_mcnemar_test(found):
    groups = by_domain([pair(found, "rivers/test", seed) for seed in (0, 1)])
    rows = compare_types(groups)
    assert [(row.domain, row.seed) for row in rows] == [("rivers", 1), ("rivers", 2)]
    for row, runs in zip(rows, groups[0], strict=True):
        assert row.decisions == type_decisions(runs.gold, runs.before, runs.after)
        assert row.decisions.n_fixed > 2 * row.decisions.n_broken
        assert row.p_value < 0.01


def test_changed_entities_carry_their_pair_and_number(found):
    groups = by_domain([pair(found, "rivers/test", seed) for seed in (0, 1)])
    changes = changed_entities(groups)
    assert {number for _, number, _ in changes} == {1, 2}
    for runs, number, change in changes:
        assert runs is groups[0][number - 1]
        assert change.entity in runs.gold[change.sentence].entities


def test_confused_pairs_are_counted_over_seeds_and_v_conf_is_that_of_the_model(found, store):
    groups = by_domain([pair(found, "rivers/test", seed) for seed in (0, 1)])
    changes = changed_pairs(store, groups)
    assert changes
    sizes = [abs(change.n_after - change.n_before) for change in changes]
    assert sizes == sorted(sizes, reverse=True)
    assert 0 not in sizes
    for change in changes:
        n_gold = sum(
            2
            for s in found.corpora["rivers/test"].sentences
            for e in s.entities
            if e.type == change.gold_type
        )
        assert (change.n_gold, change.ratio_before) == (n_gold, change.n_before / n_gold)
        i, j = (found.matrix.types.index(name) for name in (change.gold_type, change.confused_type))
        assert change.v_conf_before == found.matrix.scores[i, j]
        assert change.v_conf_after is None


def test_only_a_quantify_run_on_dev_of_the_same_domain_and_model_counts(found, store):
    assert quantified_model(store, found.settings["rivers/test/before/0"].predict)
    assert quantified_model(store, found.settings["rivers/test/before/1"].predict) is None
    assert quantified_model(store, found.settings["odes/test/before/0"].predict) is None
