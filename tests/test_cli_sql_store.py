"""``cdner sql``, ``store``, ``models`` and ``backends`` as a user meets them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli_stores import Shell, StudyStore, start_cdner, study_store

from cdner.models.shelf import find, shelf
from cdner.store import Store


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyStore:
    return study_store(tmp_path_factory.mktemp("study") / "cdner.duckdb")


@pytest.fixture
def cdner(capsys, study) -> Shell:
    return Shell(capsys, study.path)


def test_sql_answers_in_four_formats(cdner):
    query = "SELECT mention, count(*) AS n FROM gold_entity WHERE mention = 'Act' GROUP BY ALL"
    assert json.loads(cdner("sql", query, "--json").out) == [{"mention": "Act", "n": 1}]
    assert cdner("sql", query, "--nl").out == '{"mention": "Act", "n": 1}\n'
    assert cdner("sql", query, "--csv").out == "mention,n\nAct,1\n"
    assert cdner("sql", query).out.split()[-3:] == ["Act", "│", "1"]


def test_a_table_of_sql_shows_ids_whole_because_they_are_asked_for_again(cdner, study):
    assert study.predict in cdner("sql", "SELECT run_id FROM run WHERE step = 'predict'").out


def test_sql_reads_a_file_or_standard_input(cdner, tmp_path, monkeypatch):
    import io

    (tmp_path / "q.sql").write_text("SELECT 'ü' AS letter -- a comment\n", encoding="utf-8")
    assert json.loads(cdner("sql", "--file", tmp_path / "q.sql", "--json").out) == [{"letter": "ü"}]
    monkeypatch.setattr("sys.stdin", io.StringIO("SELECT 2 AS n"))
    assert json.loads(cdner("sql", "--file", "-", "--json").out) == [{"n": 2}]


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        ((), 2, "one statement or --file"),
        (("SELECT 1", "--file", "x.sql"), 2, "one statement or --file"),
        (("--file", "/nowhere/x.sql"), 1, "Cannot read /nowhere/x.sql"),
        (("SELEC 1",), 2, "SQL: "),
        (("SELECT * FROM leaderbord",), 2, "leaderboard"),
        (("DELETE FROM run",), 2, "Only SELECT is allowed"),
        (("SELECT 1; SELECT 2",), 2, "One statement"),
        (("FROM read_text('/etc/hostname')",), 2, "disabled"),
        (("SELECT 1", "--max-rows", "0"), 2, "x>=1"),
        (("SELECT 1 AS a, 2 AS a", "--json"), 2, "Two columns are named 'a'"),
    ],
)
def test_sql_refuses_on_one_line(cdner, arguments, code, wanted):
    shown = cdner("sql", *arguments)
    assert shown.code == code
    assert wanted in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)


def test_sql_says_when_rows_are_cut_off(cdner):
    cut = cdner("sql", "FROM range(5)", "--max-rows", 3, "--nl")
    assert cut.out.count("\n") == 3
    assert cut.err == "The first 3 rows; there are more: --max-rows N.\n"
    whole = cdner("sql", "FROM range(3)", "--max-rows", 3, "--nl")
    assert (whole.out.count("\n"), whole.err) == (3, "")


def test_a_query_that_has_a_name_takes_its_parameters_in_both_forms(cdner, study):
    named = json.loads(cdner("sql", "@most_confused", "--domain", "parliament", "--json").out)
    assert [(r["gold_type"], r["predicted_type"], r["n_confused"]) for r in named] == [
        ("party", "[red]law", 1),
        ("party", "politician", 1),
    ]
    for arguments in (("--predicted", "politician"), ("--param", "predicted=politician")):
        assert json.loads(cdner("sql", "@most_confused", *arguments, "--json").out) == named[1:]
    assert json.loads(cdner("sql", "@most_confused", "--limit", 1, "--json").out) == named[:1]
    assert json.loads(cdner("sql", "@most_confused", "--run", study.predict[:6], "--json").out) == named
    assert cdner("sql", "@most_confused", "--domain", "films", "--nl").out == ""
    own = cdner(
        "sql", "SELECT mention FROM gold_entity WHERE entity_type = $gold", "--gold", "[red]law", "--nl"
    )
    assert own.out == '{"mention": "Act"}\n'


def test_an_experiment_is_named_by_its_file_too(cdner, tmp_path):
    (tmp_path / "x.toml").write_text('name = "study"\n[corpora]\nsource = "newsdesk"\ntarget = "film"\n')
    by_name = cdner("sql", "@most_confused", "--experiment", "study", "--csv")
    by_file = cdner("sql", "@most_confused", "--experiment", tmp_path / "x.toml", "--csv")
    assert by_file == by_name
    assert by_name.out.count("\n") == 3


def test_queries_are_listed_and_shown(cdner):
    from cdner.store.sql import named_queries

    listed = json.loads(cdner("sql", "--list", "--json").out)
    assert [row["query"] for row in listed] == list(named_queries())
    (limit,) = (
        p
        for row in listed
        if row["query"] == "most_confused"
        for p in row["parameters"]
        if p["name"] == "limit"
    )
    assert limit == {"name": "limit", "kind": "integer", "default": 20, "meaning": "rows at most"}
    assert "@most_confused" in cdner("sql", "--list").out
    shown = {cdner("sql", "--show", name).out for name in ("most_confused", "@most_confused")}
    assert shown == {named_queries()["most_confused"].sql}


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("@most_confusd",), "Did you mean 'most_confused'?"),
        (("--show", "most_confusd"), "Did you mean 'most_confused'?"),
        (("@most_confused", "--param", "domian=ai"), "Did you mean 'domain'?"),
        (("@most_confused", "--param", "domain"), "NAME=VALUE"),
        (("@most_confused", "--domain", "a", "--param", "domain=b"), "given twice"),
        (("@missed_by_all_seeds", "--param", "min_seeds=two"), "$min_seeds must be of kind integer"),
        (("SELECT 1", "--domain", "a"), "has no $domain"),
        (("SELECT $domain",), "--param domain=VALUE"),
        (("SELECT 1", "--list"), "Give one statement"),
        (("--show", "most_confused", "--domain", "a"), "run no query"),
        (("SELECT 1", "--force"), "--force goes with --parquet"),
        (("SELECT 1", "--parquet", "x.parquet", "--json"), "not both"),
        (("SELECT 1", "--parquet", "no/such/x.parquet"), "no such folder"),
        (("SELECT 1 AS a, 2 AS a", "--parquet", "x.parquet"), "Two columns are named 'a'"),
    ],
)
def test_sql_refuses_what_its_queries_do_not_know(cdner, arguments, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = cdner("sql", *arguments)
    assert shown.code == 2
    assert wanted in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert list(tmp_path.iterdir()) == []


def test_many_rows_go_through_in_pieces_and_none_is_lost(cdner):
    for options in ("--csv", "--nl"):
        shown = cdner("sql", "SELECT range AS n FROM range(12345)", "--max-rows", 20000, options)
        numbers = [int(line.strip('{}"n: ')) for line in shown.out.splitlines()[options == "--csv" :]]
        assert numbers == list(range(12345))
    cut = cdner("sql", "SELECT range AS n FROM range(12345)", "--max-rows", 12344, "--csv")
    assert (cut.out.count("\n"), cut.err) == (12345, "The first 12344 rows; there are more: --max-rows N.\n")


def test_parquet_is_written_whole_and_replaced_only_by_force(cdner, tmp_path):
    file = tmp_path / "x.parquet"
    shown = cdner(
        "sql",
        "SELECT mention FROM gold_entity WHERE entity_type = $gold",
        "--gold",
        "[red]law",
        "--parquet",
        file,
    )
    assert (shown.code, shown.out, shown.err) == (0, "", f"{file}: 1 rows\n")
    again = cdner("sql", "SELECT 1", "--parquet", file)
    assert again.code == 2
    assert "--force" in again.err
    assert cdner("sql", "SELECT 1", "--parquet", file, "--force").code == 0


def test_results_go_to_stdout_and_everything_else_to_stderr(tmp_path):
    child = start_cdner("--store", tmp_path / "s.duckdb", "import", "demo", "--nl")
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0
    assert len([json.loads(line) for line in out.splitlines()]) == 5
    assert [line for line in err.splitlines() if line.startswith("import film/")]
    quiet = start_cdner("--store", tmp_path / "q.duckdb", "--quiet", "import", "demo", "--nl")
    out_quiet, err_quiet = quiet.communicate(timeout=120)
    assert err_quiet == ""
    assert out_quiet == out


def test_verify_finds_nothing_in_a_sound_store_and_the_fault_in_another(capsys, tmp_path):
    path = tmp_path / "s.duckdb"
    study_store(path)
    cdner = Shell(capsys, path)
    sound = cdner("store", "verify")
    assert sound.code == 0
    assert "no problem found" in sound.out
    assert json.loads(cdner("store", "verify", "--json").out) == []
    with Store(path).transaction() as connection:
        connection.execute("UPDATE sentence SET tokens = list_append(tokens, 'more') WHERE text LIKE '%Bob'")
    broken = cdner("store", "verify", "--json")
    assert broken.code == 1
    assert {row["table"] for row in json.loads(broken.out)} >= {"sentence"}
    assert broken.err.startswith("Error: ")
    assert str(path) in broken.err


def test_a_file_that_is_no_store_is_named(capsys, tmp_path):
    path = tmp_path / "letter.duckdb"
    path.write_text("Dear all")
    shown = Shell(capsys, path)("runs")
    assert shown.code == 1
    assert "letter.duckdb is not a DuckDB file" in shown.err


def test_backends_lists_each_with_its_implementation(cdner):
    from cdner.registry import names

    rows = json.loads(cdner("backends", "--json").out)
    assert {row["backend"]: row["implementation"] for row in rows} == names("backend")


def test_models_says_what_is_here_and_what_is_not(cdner, tmp_path, monkeypatch):
    monkeypatch.setenv("CDNER_CACHE", str(tmp_path))
    rows = {row["name"]: row for row in json.loads(cdner("models", "--json").out)}
    assert set(rows) == {*(model.called for model in shelf()), "wordnet"}
    assert {row["where"] for name, row in rows.items() if name != "wordnet"} == {"not fetched"}
    assert rows["all-mpnet-base-v2"] | {"where": ""} == {
        "name": "all-mpnet-base-v2",
        "what": "all-mpnet-base-v2",
        "purpose": "tagger",
        "parameters": 109_486_464,
        "licence": "Apache-2.0",
        "download_bytes": 404_534_822,
        "disk_bytes": 438_700_000,
        "memory_bytes": find("all-mpnet-base-v2").memory_bytes,
        "sources": "index, hub",
        "where": "",
    }
    folder = tmp_path / "models" / "smollm2-135m-instruct"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"")
    rows = {row["name"]: row for row in json.loads(cdner("models", "--json").out)}
    assert Path(rows["embedded"]["where"]) == folder
    shown = cdner("models").out
    assert "qwen2.5-coder-1.5b" in shown and "1.54B" in shown and "4.70 GB" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_models_fetch_states_the_disk_and_brings_each_name(cdner, tiny_shelf):
    done = cdner("models", "fetch", "tiny-encoder", "tiny-zip", "tiny")
    assert done.code == 0
    assert done.out.splitlines() == [
        f"tiny-encoder: {tiny_shelf.models / 'tiny-encoder'}",
        f"tiny-zip: {tiny_shelf.models / 'tiny-zip'}",
        f"tiny: {tiny_shelf.models / 'tiny-llm'}",
    ]
    assert f"of disk in {tiny_shelf.models.parent} (" in done.err.splitlines()[0]
    assert cdner("models", "fetch", "tiny-llm").err == ""


def test_models_fetch_without_room_is_one_line_and_fetches_nothing(cdner, tmp_path, monkeypatch, tiny_shelf):
    free = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    done = cdner("models", "fetch", "tiny-encoder")
    assert done.code == 1
    assert done.err.startswith("Error: Not enough room: ") and done.err.count("\n") == 1
    assert not tiny_shelf.models.exists() and not tiny_shelf.downloads.exists()


def test_models_fetch_from_a_hub_is_asked_for(cdner, tiny_shelf):
    done = cdner("models", "fetch", "tiny-zip", "--from", "hub")
    assert (done.code, "The hub has no copy of 'tiny-zip'" in done.err) == (1, True)


def test_models_fetch_names_what_it_can_fetch(cdner):
    shown = cdner("models", "fetch", "wordnt")
    assert shown.code == 2
    assert "Did you mean 'wordnet'?" in shown.err
    misplaced = cdner("models", "--json", "fetch", "wordnet")
    assert misplaced.code == 2
    assert "fetch" in misplaced.err
