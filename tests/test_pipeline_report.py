"""What a report gathers is what the store's predictions say, and what the other commands say of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from statistics import mean, stdev

import pytest
from report_stores import CELLS, SETTINGS, TYPES, ReportStore, cell_name, shared_report_store

from cdner.compare.comparison import by_domain, compare_f1, load_pair
from cdner.errors import InputError, UsageError
from cdner.evaluate import error_proportions, score
from cdner.report import Report
from cdner.report.charts import error_groups, size_curves
from cdner.report.content import DIMENSIONS, Where, cell_of
from cdner.report.gathering import domain_averages, gather
from cdner.store import Store
from cdner.store.predictions import load_predictions


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> ReportStore:
    return shared_report_store(tmp_path_factory)


@pytest.fixture(scope="module")
def found(filled: ReportStore) -> Report:
    return gather(Store(filled.path), n_resamples=1000)


def predictions(filled: ReportStore, setting: str, n: int, seed: int):
    return tuple(load_predictions(Store(filled.path), filled.predict[setting, n, seed]).values())


def place(setting: str, n: int) -> Where:
    return Where("sizes", (("n_train", str(n)),), "ai", "test", setting)


def test_a_cells_name_is_taken_apart():
    cell = cell_of("figure4@cpu[n_train=20,domains=ai+music,seed=3]")
    assert (cell.study, cell.seed) == ("figure4@cpu", "3")
    assert cell.axes == (("n_train", "20"), ("domains", "ai+music"))
    assert cell_of("plain") == cell_of("plain[]").__class__("plain", "plain", (), "")


def test_seeds_are_averaged_with_their_deviation(filled, found):
    assert len(found.scores) == len(CELLS) // 2 * len(SETTINGS)
    for line in found.scores:
        n = int(line.where.axes[0][1])
        rows = [
            {(row.metric, row.entity_type): row for row in score(filled.corpus.sentences, its, TYPES)}
            for seed in (0, 1)
            for its in [predictions(filled, line.where.setting, n, seed)]
        ]
        f1 = [row["strict", "*"].f1 for row in rows]
        assert (line.f1, line.deviation) == (pytest.approx(mean(f1)), pytest.approx(stdev(f1)))
        assert line.span_f1 == pytest.approx(mean(row["span", "*"].f1 for row in rows))
        assert line.macro_f1 == pytest.approx(mean(row["strict", "macro"].f1 for row in rows))


def test_several_domains_of_a_study_have_an_average_and_one_has_none(found):
    ai = found.scores[0]
    music = replace(ai, where=replace(ai.where, domain="music"), f1=ai.f1 / 2, n_seeds=1)
    placed = [
        replace(score, where=replace(score.where, axes=(("target", score.where.domain), ("shots", "20"))))
        for score in (ai, music)
    ]
    (line,) = domain_averages(placed)
    assert line.where == Where("sizes", (("shots", "20"),), "average", "test", ai.where.setting)
    assert line.f1 == pytest.approx(0.75 * ai.f1)
    assert (line.n_seeds, line.deviation) == (1, None)
    assert domain_averages(placed[:1]) == ()
    assert "average" not in {score.where.domain for score in found.scores}


def test_errors_are_those_evaluation_counts(filled, found):
    for line in found.errors_per_type:
        n = int(line.where.axes[0][1])
        expected: Counter[str] = Counter()
        for seed in (0, 1):
            its = predictions(filled, line.where.setting, n, seed)
            rows = {row.entity_type: row for row in error_proportions(filled.corpus.sentences, its, TYPES)}
            row = rows[line.entity_type]
            for name in ("n_gold", "n_misclassified", "n_boundary", "n_not_found", "n_spurious"):
                expected[name] += getattr(row, name)
        for name, count in expected.items():
            assert getattr(line, name) == count, (line, name)
    n_all = sum(
        line.n_misclassified + line.n_boundary + line.n_not_found + line.n_spurious
        for line in found.errors_per_type
        if line.entity_type == "*"
    )
    assert n_all == len(found.errors)


def test_a_difference_is_what_compare_says_of_the_same_runs(filled, found):
    store = Store(filled.path)
    pairs = [
        load_pair(store, filled.predict["without_all", 10, seed], filled.predict["full", 10, seed])
        for seed in (0, 1)
    ]
    (strict, _) = compare_f1(by_domain(pairs), n_resamples=1000)
    (bar,) = [bar for bar in found.ablations if bar.where == place("full", 10)]
    assert bar.difference
    assert bar.difference.baseline == "without_all"
    assert bar.f1 == pytest.approx(strict.after.mean)
    assert bar.difference.value == pytest.approx(strict.difference.value)
    assert bar.difference.low == pytest.approx(strict.difference.low, abs=0.02)
    assert bar.difference.high == pytest.approx(strict.difference.high, abs=0.02)
    assert bar.low < bar.f1 < bar.high
    (baseline,) = [bar for bar in found.ablations if bar.where == place("without_all", 10)]
    assert baseline.difference is None


def test_a_matrix_is_named_as_a_whole_or_by_its_cell(filled, found):
    store = Store(filled.path)
    assert gather(store, ["sizes"], n_resamples=100).experiments == found.experiments
    one = gather(store, [cell_name(20, 1)], n_resamples=100)
    assert one.experiments == (cell_name(20, 1),)
    assert len(one.models) == len(SETTINGS)
    with pytest.raises(UsageError, match="size"):
        gather(store, ["size"])


def test_cells_share_a_map_and_every_dimension_is_in_it(filled, found):
    (shared,) = found.maps
    assert shared.run_id == filled.quantify
    assert set(shared.scores) == set(DIMENSIONS)
    assert shared.types == TYPES
    assert shared.prefixes == ("person", "location", "location")
    assert shared.scores["v_conf"][0] == (None, 0.7, 0.3)
    assert shared.scores["R_M"][0] == (None, 0.35, 0.15)
    assert shared.rivals["poet"] == ("city",)


def test_models_carry_the_reasoning_they_read_and_others_none(found):
    for model in found.models:
        assert bool(model.reasoning) == (model.where.setting == "full")


def test_published_scores_stand_beside_the_nearest_of_ours_once(found):
    assert len(found.published) > 30
    assert {row.domain for row in found.published} == {"ai"}
    keys = [
        (r.method, r.setting, r.source, r.shots, r.backbone, r.llm, r.f1, r.read_in) for r in found.published
    ]
    assert len(set(keys)) == len(keys)
    assert all(row.why_not for row in found.published if not row.comparable)
    assert all((row.difference is not None) == row.comparable for row in found.published)


def test_a_numeric_axis_becomes_a_curve_a_setting(found):
    (chart,) = size_curves(found)
    assert chart.axis == "n_train"
    assert set(chart.lines) == set(SETTINGS)
    for setting, line in chart.lines.items():
        assert [point.x for point in line] == [10, 20]
        (at_ten,) = [score.f1 for score in found.scores if score.where == place(setting, 10)]
        assert line[0].f1 == at_ten


def test_at_most_three_settings_share_a_figure_of_errors(found):
    lines = [
        type(row)(Where("s", (), "ai", "test", name), "*", 1, 0, 0, 0, 0)
        for name in ("without_source", "without_all", "without_initial", "full")
        for row in found.errors_per_type[:1]
    ]
    (group,) = error_groups(type(found)(*["", "", "", (), (), (), (), tuple(lines), *[()] * 6]))
    assert [rows[0].where.setting for rows in group] == ["without_all", "full", "without_source"]


def test_a_store_without_experiments_says_how_to_get_one(tmp_path):
    with (store := Store(tmp_path / "new.duckdb")).transaction():
        pass
    with pytest.raises(InputError, match="cdner run"):
        gather(store)
