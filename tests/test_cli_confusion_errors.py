"""``cdner confusion``, ``cdner errors`` and ``cdner runs`` on a store filled by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cli_stores import HOSTILE, MARKUP, TARGET_TYPES, Shell, StudyStore, finish_run, start_cdner, study_store

from cdner.cli.confusion import EXAMPLE_QUERIES
from cdner.cli.errors import KINDS
from cdner.store import Store
from cdner.store.runs import begin_attempt, finish_attempt, label_experiment, run_spec


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyStore:
    return study_store(tmp_path_factory.mktemp("study") / "cdner.duckdb")


@pytest.fixture
def cdner(capsys, study) -> Shell:
    return Shell(capsys, study.path)


# --- confusion -------------------------------------------------------------------------------------------


def test_the_heat_map_has_every_score_in_its_row_and_column(cdner, study, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    shown = cdner("confusion", "show")
    assert (shown.code, shown.err) == (0, "")
    assert f"v_conf of run {study.quantify[:8]}" in shown.out
    figures = dict(
        re.fullmatch(r"(\d .+ -> \S+) +(.+)", line.strip()).groups()  # type: ignore[union-attr]
        for line in shown.out.splitlines()
        if line[:1].isdigit()
    )
    for i, name in enumerate(("1 PER -> politician", "2 ORG -> party", "3 PER -> [red]law")):
        expected = ["-" if i == j else f"{study.matrix.scores[i, j]:.2f}" for j in range(3)]
        assert figures[name].split() == expected


def test_prefixes_use_the_source_corpus_s_short_names_and_rivals_have_their_scores(cdner):
    out = cdner("confusion", "show").out
    table = [re.split(r"\s*│\s*", line) for line in out.splitlines() if "│" in line]
    assert [[cell.strip() for cell in row] for row in table] == [
        ["PER -> politician", "party (0.750)", ""],
        ["ORG -> party", "politician (0.500)", ""],
        ["PER -> [red]law", "no clear rival", "not recognised by M_src"],
    ]


def test_the_machine_formats_give_a_row_a_pair(cdner, study):
    rows = json.loads(cdner("confusion", "show", "--json").out)
    assert len(rows) == 6
    assert {(row["run_id"], row["dimension"]) for row in rows} == {(study.quantify, "v_conf")}
    found = {(row["gold_type"], row["confused_type"]): row["score"] for row in rows}
    for i, gold in enumerate(TARGET_TYPES):
        for j, confused in enumerate(TARGET_TYPES):
            assert found.get((gold, confused)) == (None if i == j else study.matrix.scores[i, j])


def test_another_dimension_is_another_matrix(cdner, study):
    rows = json.loads(cdner("confusion", "show", "--dimension", "u_sim", "--json").out)
    assert rows[0]["score"] == study.matrix.scores[0, 1] / 2
    missing = cdner("confusion", "show", "--dimension", "R_M")
    assert missing.code == 1
    assert "no R_M" in missing.err


@pytest.mark.parametrize("width", [10, 30, 40, 80, 160])
def test_the_heat_map_goes_on_in_blocks_where_the_terminal_is_narrow(cdner, monkeypatch, width, study):
    monkeypatch.setenv("COLUMNS", str(width))
    shown = cdner("confusion", "show")
    assert shown.code == 0
    assert max(map(len, shown.out.splitlines())) <= max(width, 30)
    figures = re.findall(r"(?<![\d(.])\d\.\d\d\b(?!\d)", shown.out)
    if width >= 30:
        assert sorted(figures) == sorted(
            f"{study.matrix.scores[i, j]:.2f}" for i in range(3) for j in range(3) if i != j
        )


@pytest.mark.parametrize(
    "name", [("RUN",), ("BEGINNING",), ("--experiment", "study"), ("-e", "FILE"), ("--target", "parliament")]
)
def test_a_quantify_run_is_named_in_four_ways(cdner, study, name, tmp_path):
    (tmp_path / "another_name.toml").write_text('name = "study"\n')
    words = {
        "RUN": study.quantify,
        "BEGINNING": study.quantify[:6],
        "FILE": str(tmp_path / "another_name.toml"),
    }
    rows = json.loads(cdner("confusion", "show", *(words.get(part, part) for part in name), "--json").out)
    assert rows[0]["run_id"] == study.quantify


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("zzz",), "No quantify run begins with 'zzz'"),
        (("PREDICT",), "is of step predict; this needs a quantify run"),
        (("--experiment", "studi"), "Did you mean 'study'?"),
        (("--target", "parlament"), "Did you mean 'parliament'?"),
        (("--target", "parliament", "--experiment", "study"), "Give one of"),
        (("--dimension", "v"), "v_conf"),
        (("--experiment", "nowhere.toml"), "No experiment file nowhere.toml"),
    ],
)
def test_a_run_that_cannot_be_found_is_one_line_that_says_why(cdner, study, arguments, wanted):
    shown = cdner("confusion", "show", *(study.predict if part == "PREDICT" else part for part in arguments))
    assert shown.code == 2
    assert wanted in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)


def test_a_source_domain_has_no_quantify_run(cdner):
    shown = cdner("confusion", "show", "--target", "press")
    assert shown.code == 1
    assert "no finished quantify run for 'press'" in shown.err


def test_a_beginning_of_several_runs_is_refused_with_their_ids(capsys, tmp_path):
    store = Store(tmp_path / "s.duckdb")
    specs = [run_spec("quantify", 1, {"seed": seed}, ()) for seed in range(17)]  # 17 ids, 16 first letters
    for spec in specs:
        begin_attempt(store, spec, {})
    ids = [spec.run_id for spec in specs]
    repeated = next(letter for letter in "0123456789abcdef" if sum(i.startswith(letter) for i in ids) > 1)
    shown = Shell(capsys, store.path)("confusion", "show", repeated)
    assert shown.code == 2
    assert all(run_id in shown.err for run_id in sorted(i for i in ids if i.startswith(repeated))[:5])


def test_the_latest_label_wins_where_an_experiment_has_changed(capsys, tmp_path):
    study = study_store(tmp_path / "s.duckdb")
    store = Store(study.path)
    later = finish_run(store, "predict", seed=9)
    label_experiment(store, "study", [(later, "predict:full/test")])
    assert json.loads(Shell(capsys, store.path)("errors", "-e", "study", "--json").out) == []


def test_an_unfinished_quantify_run_is_not_the_latest(capsys, tmp_path):
    study = study_store(tmp_path / "s.duckdb")
    finish_run(Store(study.path), "quantify", seed=9, status="failed")
    shown = Shell(capsys, study.path)("confusion", "show", "--json")
    assert json.loads(shown.out)[0]["run_id"] == study.quantify


def test_the_help_shows_queries_that_give_the_same_facts(cdner, study):
    shown = " ".join(cdner("confusion", "show", "--help").out.split())
    answers = []
    for query in EXAMPLE_QUERIES:
        assert f'cdner sql "{query}"' in shown
        answers.append(json.loads(cdner("sql", query.replace("RUN_ID", study.quantify), "--json").out))
    matrix, prefixes, rivals = answers
    pairs = json.loads(cdner("confusion", "show", "--json").out)
    by_query = {(row["gold_type"], row["confused_type"]): row["score"] for row in matrix if row["score"]}
    assert by_query == {(row["gold_type"], row["confused_type"]): row["score"] for row in pairs}
    assert [(row["gold_type"], row["prefix"], row["is_flagged"]) for row in prefixes] == [
        ("politician", "person", False),
        ("party", "organisation", False),
        ("[red]law", "person", True),
    ]
    assert [(row["gold_type"], row["rival"], row["score"]) for row in rivals] == [
        ("politician", "party", 0.75),
        ("party", "politician", 0.5),
    ]
    assert "cdner sql @confusion --run RUN_ID" in shown
    named = json.loads(cdner("sql", "@confusion", "--run", study.quantify, "--json").out)
    assert {(row["gold_type"], row["confused_type"]): row["v_conf"] for row in named} == by_query


# --- errors ----------------------------------------------------------------------------------------------

EXPECTED = {
    "type": [(0, "party", "politician", HOSTILE), (1, "party", "[red]law", MARKUP)],
    "missed": [(1, "[red]law", None, "Act"), (2, "party", None, "New Green Party")],
    "spurious": [(2, None, "politician", "Bob")],
    "boundary": [(2, "party", "party", "New Green Party")],
}


@pytest.mark.parametrize("kind", KINDS)
def test_errors_lists_exactly_the_errors_of_a_kind(cdner, study, kind):
    rows = json.loads(cdner("errors", study.predict, "--kind", kind, "--json").out)
    found = [
        (row["position"], row.get("gold_type"), row.get("predicted_type"), row["mention"]) for row in rows
    ]
    assert found == EXPECTED[kind]
    if kind == "missed":
        assert [row["is_boundary"] for row in rows] == [False, True]
    if kind == "boundary":
        assert rows[0]["predicted_mention"] == "Green Party"


def test_errors_of_an_experiment_are_those_of_its_prediction_run(cdner, study):
    by_label = cdner("errors", "--experiment", "study", "--setting", "full", "--split", "test", "--nl")
    assert by_label.out == cdner("errors", study.predict[:7], "--nl").out
    assert by_label.out.count("\n") == 2
    other = cdner("errors", "--experiment", "study", "--split", "dev")
    assert other.code == 2
    assert "Did you mean 'predict:full/test'?" in other.err


def test_errors_are_filtered_by_type_and_limited_with_a_word_about_it(cdner, study):
    rows = json.loads(cdner("errors", study.predict, "--predicted", "politician", "--json").out)
    assert [row["position"] for row in rows] == [0]
    assert json.loads(cdner("errors", study.predict, "--gold", "politician", "--json").out) == []
    cut = cdner("errors", study.predict, "--limit", 1, "--nl")
    assert cut.out.count("\n") == 1
    assert cut.err == "The first 1; there are more: --limit N.\n"
    assert cdner("errors", study.predict, "--limit", 2, "--nl").err == ""


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((), "Name one predict run"),
        (("RUN", "--experiment", "study"), "Name one predict run"),
        (("RUN", "--gold", "partei"), "Did you mean 'party'?"),
        (("RUN", "--predicted", "x"), "Known: [red]law, party, politician"),
        (("RUN", "--kind", "missed", "--predicted", "party"), "have no predicted type"),
        (("RUN", "--limit", "0"), "x>=1"),
        (("x' OR 1=1 --",), "No predict run begins with"),
    ],
)
def test_wrong_requests_for_errors_are_usage_errors(cdner, study, arguments, wanted):
    shown = cdner("errors", *(study.predict if part == "RUN" else part for part in arguments))
    assert shown.code == 2
    assert wanted in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    "command", [("errors", "-e", "study"), ("corpora", "show", "parliament", "--split", "test")]
)
def test_hostile_text_of_a_corpus_is_inert_in_a_terminal(study, command):
    child = start_cdner("--store", study.path, *command, FORCE_COLOR="1", COLUMNS="160")
    out, _ = child.communicate(timeout=60)
    assert "\\x1b[31mred\\x1b[0m" in out
    assert "\x1b[31m" not in out
    assert MARKUP in out


# --- runs ------------------------------------------------------------------------------------------------


def test_runs_lists_all_with_their_labels_and_state(cdner, study):
    rows = json.loads(cdner("runs", "--json").out)
    assert len(rows) == 5
    of = {row["run_id"]: row for row in rows}
    assert of[study.predict]["labels"] == ["study/predict:full/test"]
    assert (of[study.predict]["step"], of[study.predict]["state"]) == ("predict", "done")
    table = cdner("runs").out
    assert all(run_id[:8] in table for run_id in of)
    assert "study/quantify:target" in table


def test_runs_are_filtered_by_step_and_experiment_and_limited(cdner, study, tmp_path):
    def ids(*arguments: object) -> set[str]:
        return {row["run_id"] for row in json.loads(cdner("runs", *arguments, "--json").out)}

    assert ids("--step", "quantify") == {study.quantify}
    assert ids("--experiment", "study") == {study.quantify, study.predict}
    (tmp_path / "e.toml").write_text('name = "study"\n')
    assert ids("--experiment", tmp_path / "e.toml", "--step", "predict") == {study.predict}
    assert len(ids("--limit", 2)) == 2
    assert ids("--step", "reason") == set()
    unknown = cdner("runs", "--experiment", "studi")
    assert (unknown.code, unknown.out) == (2, "")
    assert "Did you mean 'study'?" in unknown.err


def test_a_failed_run_shows_its_error_in_the_table(capsys, tmp_path):
    store = Store(tmp_path / "s.duckdb")
    attempt = begin_attempt(store, run_spec("train", 1, {}, ()), {})
    finish_attempt(store, attempt, "failed", "the disk is full")
    shown = Shell(capsys, store.path)("runs")
    assert "the disk is full" in shown.out
    assert "failed" in shown.out


def test_without_a_store_a_listing_says_what_to_do_and_makes_none(capsys, tmp_path):
    cdner = Shell(capsys, tmp_path / "none.duckdb")
    for command in (
        ["runs"],
        ["corpora"],
        ["errors", "x"],
        ["confusion", "show"],
        ["sql", "SELECT 1"],
        ["store", "verify"],
    ):
        shown = cdner(*command)
        assert (shown.code, shown.out) == (1, "")
        assert "There is no store at" in shown.err
    assert not Path(cdner.store).exists()
