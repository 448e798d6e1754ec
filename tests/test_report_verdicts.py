"""Reports of judged experiments: who is right, the weights, and the LLM's type beside a prediction."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from chromium_pages import chromium_page
from judged_stores import OPTIONS, TYPES, experiment, finished
from pipeline_experiments import CALLS, cdner, copy_of, sql

from cdner.report import Report, render_page
from cdner.report.charts import error_groups
from cdner.report.content import ErrorShare, Where
from cdner.report.gathering import gather
from cdner.report.tables import fusion, setting_name, who_is_right
from cdner.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: read only."""
    return copy_of(finished(), tmp_path_factory.mktemp("reported"))


@pytest.fixture(scope="module")
def found(store: Path) -> Report:
    return gather(Store(store), n_resamples=100)


def run_of(store: Path, label: str) -> str:
    ((run_id,),) = sql(store, f"SELECT run_id FROM experiment_run WHERE label = '{label}'")
    return str(run_id)


def test_who_is_right_is_what_the_view_counts(store, found):
    counts = "sum(n_mentions), sum(n_both), sum(n_backbone_only), sum(n_llm_only), sum(n_neither)"
    for split in ("dev", "test"):
        of_run = f"FROM verdict_right WHERE run_id = '{run_of(store, f'judge:without_all/{split}')}'"
        table = who_is_right(found, Where("judged", (), "film", split, "without_all"))
        assert table.rows[0][1:6] == sql(store, f"SELECT {counts} {of_run}")[0]
        assert table.rows[0][1] == sum(table.rows[0][2:6]) > 0
        by_type = {row[0]: row[1:] for row in sql(store, f"SELECT gold_type, {counts} {of_run} GROUP BY 1")}
        assert {row[0]: row[1:6] for row in table.rows[1:]} == by_type
        assert [row[0] for row in table.rows[1:]] == [name for name in TYPES if name in by_type]
        n, both, model, llm, neither = table.rows[0][1:6]
        shares = [100 * (both + model) / n, 100 * (both + llm) / n, 100 * (n - neither) / n]
        assert table.rows[0][6:] == pytest.approx(shares)


def test_weights_are_those_of_the_fuse_run_each_once(store, found):
    table = fusion(found)
    (row,) = table.rows
    stored = dict(
        sql(
            store,
            f"SELECT name, value FROM fusion_weight WHERE run_id = '{run_of(store, 'fuse:fused/test')}'",
        )
    )
    shown = dict(zip([column.name for column in table.columns], row, strict=True))
    assert (shown["Setting"], shown["Model"], shown["LLM"]) == ("fused", stored["backbone"], stored["llm"])
    assert shown["Dev mentions"] == stored["n_dev_mentions"]
    assert [shown[f"Bias of {name}"] for name in TYPES] == [stored[f"bias:{name}"] for name in TYPES]


def test_models_have_the_verdict_on_every_mention_whether_fused_or_not(store, found):
    for split in ("dev", "test"):
        rows = sql(
            store,
            "SELECT position, start_token, end_token, llm_type, llm_probability FROM judged_entity"
            f" WHERE run_id = '{run_of(store, f'judge:without_all/{split}')}' ORDER BY ALL",
        )
        models = [model for model in found.models if model.where.split == split]
        assert {model.where.setting for model in models} == {"without_all", "fused"}
        for model in models:
            said = [
                (position, one.start, one.end, one.type, one.probability)
                for position, verdicts in sorted(model.verdicts.items())
                for one in verdicts
            ]
            assert said == rows


def test_the_page_has_the_section_and_each_error_its_verdict(store, found, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(render_page(found), encoding="utf-8")
    number, error = next(
        (number, error)
        for number, error in enumerate(found.errors)
        if error.kind == "type" and found.models[error.model].where.setting == "fused"
    )
    verdicts = found.models[error.model].verdicts[error.position]
    (said,) = [one for one in verdicts if (one.start, one.end) == (error.start, error.end)]
    with chromium_page() as page:
        page.open(path)
        assert "verdicts" in page.run("[...document.querySelectorAll('main section')].map(s => s.id)")
        headings = page.run("[...document.querySelectorAll('#verdicts h3')].map(it => it.textContent)")
        assert headings == [
            "judged, film/dev, mentions of w/o all",
            "judged, film/test, mentions of w/o all",
            "Weights: judged, film/test",
        ]
        while page.run("document.querySelectorAll('.errors > li').length") <= number:
            page.run("document.querySelector('.more').click()")
        row = f"document.querySelectorAll('.errors > li')[{number}]"
        assert f"LLM: {said.type} {said.probability:.2f}" in page.run(
            f"{row}.querySelector('summary').textContent"
        )
        page.run(f"{row}.querySelector('details').open = true")
        page.run("new Promise(done => setTimeout(done, 50))")
        listed = page.run(f"{row}.querySelector('.verdicts').textContent")
        assert listed.count(":") == 1 + len(verdicts)
        assert page.complaints == []


def test_printed_tables_have_fused_like_any_other_setting(store, tmp_path):
    files = {"--markdown": tmp_path / "r.md", "--latex": tmp_path / "r.tex"}
    arguments = [part for option in files.items() for part in option]
    ran = cdner(store, "report", "judged", *arguments, "--resamples", "100")
    assert ran.code == 0, ran.err
    rows = sql(
        store,
        "SELECT f1, split FROM leaderboard WHERE starts_with(label, 'evaluate:fused/') AND average = 'micro'"
        " AND metric_family = 'strict'",
    )
    assert len(rows) == 2
    for path in files.values():
        text = path.read_text()
        for f1, split in rows:
            assert re.search(rf"film/{split}[^\n]*fused[^\n]*{100 * f1:.2f}", text), (path, split)


def test_settings_are_named_as_people_write_them():
    names = {"fused": "fused", "full_fused": "full, fused", "without_all": "w/o all", "llm_only": "llm only"}
    assert {name: setting_name(name) for name in names} == names


def test_fused_settings_have_a_place_in_the_figure_of_errors(found):
    def chosen(*settings: str) -> list[str]:
        lines = [ErrorShare(Where("s", (), "ai", "test", name), "*", 1, 0, 0, 0, 0) for name in settings]
        (group,) = error_groups(Report(*["", "", "", (), (), (), (), tuple(lines), *[()] * 6]))
        return [rows[0].where.setting for rows in group]

    assert chosen("fused", "without_source", "without_all", "full", "llm_only") == [
        "without_all",
        "full",
        "fused",
    ]
    assert chosen("without_all", "without_source", "llm_only", "fused") == [
        "without_all",
        "fused",
        "without_source",
    ]
    paper = ("without_source", "without_all", "without_backward", "without_initial", "full")
    assert chosen(*paper) == ["without_all", "without_backward", "full"]


def test_a_report_without_verdicts_has_no_such_section(found):
    from dataclasses import replace

    page = render_page(replace(found, verdict_shares=(), fusion_weights=()))
    assert 'id="verdicts"' not in page
    assert 'id="verdicts"' in render_page(found)


def test_the_closing_table_compares_with_the_fused_setting(store, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # a narrow terminal cuts the names of types
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    ran = cdner(store, "--quiet", "run", experiment(tmp_path), *OPTIONS)
    assert ran.code == 0, ran.err
    assert "before = without_all, after = fused" in " ".join(ran.out.split())  # a narrow terminal wraps it
    pairs = {}
    for setting, step in (("without_all", "predict"), ("fused", "fuse")):
        pairs[setting] = {
            (gold, predicted): n
            for gold, predicted, n in sql(
                store,
                "SELECT gold_type, predicted_type, count(*) FROM type_error"
                f" WHERE run_id = '{run_of(store, f'{step}:{setting}/test')}' GROUP BY ALL",
            )
        }
    lines = [
        re.split(r"\s*[│┃]\s*", line.strip()) for line in ran.out.splitlines() if line.startswith("test")
    ]
    lines = [cells for cells in lines if cells[0] == "test" and len(cells) == 8]
    assert len(lines) > 3, ran.out
    for _, gold, confused, _, before, after, *_ in lines:
        assert int(before) == pairs["without_all"].get((gold, confused), 0)
        assert int(after) == pairs["fused"].get((gold, confused), 0)
