"""``cdner import`` and ``cdner corpora``: what comes in, what is refused, and how it is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_stores import Shell

COLUMN_FILE = "Ann B-person\nLee I-person\nspoke O\n\nActs I-law\nof O\nBonn B-place\n"


@pytest.fixture(scope="module")
def demo_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cdner.cli import run_cli

    path = tmp_path_factory.mktemp("demo") / "cdner.duckdb"
    assert run_cli(["--store", str(path), "--quiet", "import", "demo"]) == 0
    return path


@pytest.fixture
def demo(capsys, demo_store) -> Shell:
    return Shell(capsys, demo_store)


@pytest.fixture
def cdner(capsys, tmp_path, monkeypatch) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(capsys, tmp_path / "cdner.duckdb")


def test_the_demo_is_imported_once_and_found_afterwards(demo):
    first = demo("import", "demo", "--json")
    rows = json.loads(first.out)
    assert {(row["domain"], row["split"]) for row in rows} == {
        *(("newsdesk", split) for split in ("train", "dev")),
        *(("film", split) for split in ("train", "dev", "test")),
    }
    assert first.err == "", "a second import finds the first and has nothing to report"
    assert len(json.loads(demo("runs", "--json").out)) == 5


def test_corpora_lists_what_was_imported(demo):
    rows = {(row["domain"], row["split"]): row for row in json.loads(demo("corpora", "--json").out)}
    assert rows["film", "test"]["n_sentences"] == 60
    assert rows["film", "test"]["role"] == "target"
    assert rows["newsdesk", "train"]["role"] == "source"
    assert demo("corpora", "--csv").out.splitlines()[0].startswith("domain,split,role,n_sentences")
    assert "sentences" in demo("corpora").out


def test_show_prints_sentences_in_order_with_their_entities(demo):
    rows = json.loads(demo("corpora", "show", "film", "--split", "dev", "--limit", 40, "--json").out)
    assert [row["position"] for row in rows] == list(range(40))
    for row in rows:
        tokens = row["text"].split(" ")
        for entity in row["entities"]:
            assert " ".join(tokens[entity["start_token"] : entity["end_token"]]) == entity["mention"]
    first = rows[0]["entities"][0]
    assert f"{first['type']}: {first['mention']}" in demo("corpora", "show", "film", "--split", "dev").out


def test_show_filters_by_type_and_says_how_many_there_are(demo):
    shown = demo("corpora", "show", "film", "--type", "director", "--limit", 2, "--json")
    rows = json.loads(shown.out)
    assert len(rows) == 2
    assert {entity["type"] for row in rows for entity in row["entities"]} == {"director"}
    n_all = int(shown.err.split(" of ")[1].split()[0])
    everything = json.loads(
        demo("corpora", "show", "film", "--type", "director", "--limit", 60, "--json").out
    )
    assert len(everything) == n_all > 2


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        (("flim",), 2, "Did you mean 'film'?"),
        (("film", "--type", "directr"), 2, "Did you mean 'director'?"),
        (("newsdesk", "--split", "test"), 1, "newsdesk/test, only train, dev"),
        (("film", "--split", "tset"), 2, "'test'"),
        (("film", "--limit", "0"), 2, "x>=1"),
    ],
)
def test_show_names_what_it_cannot_find(demo, arguments, code, wanted):
    shown = demo("corpora", "show", *arguments)
    assert shown.code == code
    assert wanted in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)


def test_a_format_before_show_is_not_silently_ignored(demo):
    shown = demo("corpora", "--json", "show", "film")
    assert shown.code == 2
    assert "cdner corpora show --json" in shown.err


def test_column_files_are_repaired_and_the_repairs_counted(cdner, tmp_path):
    (tmp_path / "train.txt").write_text(COLUMN_FILE)
    shown = cdner("import", "conll", "train.txt", "--domain", "law", "--json")
    assert shown.code == 0
    (row,) = json.loads(shown.out)
    assert (row["split"], row["n_sentences"], row["n_entities"], row["n_types"]) == ("train", 2, 3, 3)
    assert row["n_repaired_tags"] == 1
    shown = json.loads(cdner("corpora", "show", "law", "--json").out)
    assert [[entity["mention"] for entity in row["entities"]] for row in shown] == [
        ["Ann Lee"],
        ["Acts", "Bonn"],
    ]


def test_strict_refuses_what_would_be_repaired_and_names_file_and_line(cdner, tmp_path):
    (tmp_path / "train.txt").write_text(COLUMN_FILE)
    shown = cdner("import", "conll", "train.txt", "--domain", "law", "--strict")
    assert shown.code == 1
    assert "Error: train.txt, line 5: " in shown.err
    assert not cdner.store.exists(), "nothing is half-written"


def test_one_bad_file_among_several_leaves_the_store_as_it_was(cdner, tmp_path):
    (tmp_path / "train.txt").write_text(COLUMN_FILE)
    (tmp_path / "dev.txt").write_text("Ann B-person\nLee\n")
    shown = cdner("import", "conll", "train.txt", "dev.txt", "--domain", "law")
    assert shown.code == 1
    assert "dev.txt, line 2" in shown.err
    assert not cdner.store.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        (("part.txt", "--domain", "law"), 2, "part.txt: which split is it?"),
        (("nowhere.txt", "--domain", "law", "--split", "dev"), 2, "'nowhere.txt' does not exist"),
        (("part.txt", "--domain", "../law", "--split", "dev"), 2, "'../law'"),
        (("part.txt", "--split", "dev"), 2, "--domain"),
        (("part.txt", "--domain", "law", "--split", "dev", "--types", "person"), 1, "law, place"),
        ((), 2, "FILES"),
    ],
)
def test_an_import_that_cannot_be_is_refused_on_one_line(cdner, tmp_path, arguments, code, wanted):
    (tmp_path / "part.txt").write_text(COLUMN_FILE)
    shown = cdner("import", "conll", *arguments)
    assert shown.code == code
    assert wanted in shown.err
    assert shown.out == ""
    assert [line for line in shown.err.splitlines() if line.startswith("Error: ")] == shown.err.splitlines()[
        -1:
    ]


def test_types_give_the_label_order_and_split_and_role_are_stored(cdner, tmp_path):
    (tmp_path / "part.txt").write_text(COLUMN_FILE)
    order = "place, person,law"
    shown = cdner(
        *(
            "import",
            "conll",
            "part.txt",
            "--domain",
            "law",
            "--split",
            "dev",
            "--role",
            "source",
            "--types",
            order,
        )
    )
    assert shown.code == 0
    (row,) = json.loads(cdner("corpora", "--json").out)
    assert (row["split"], row["role"]) == ("dev", "source")
    types = json.loads(cdner("sql", "SELECT entity_type FROM domain_type ORDER BY position", "--json").out)
    assert [row["entity_type"] for row in types] == ["place", "person", "law"]


def test_crossner_comes_from_a_folder_with_its_counts(cdner, shared_data):
    shown = cdner("import", "crossner", "--domain", "ai", "--from", shared_data / "crossner", "--json")
    assert shown.code == 0
    found = [(row["split"], row["n_sentences"]) for row in json.loads(shown.out)]
    assert found == [("train", 100), ("dev", 350), ("test", 431)]


def test_crossner_from_a_folder_without_its_files_says_which(cdner, tmp_path):
    (tmp_path / "empty").mkdir()
    shown = cdner("import", "crossner", "--domain", "ai", "--from", "empty")
    assert shown.code == 1
    assert "ai/train.txt" in shown.err
    absent = cdner("import", "crossner", "--domain", "ai", "--from", "absent")
    assert absent.code == 2
    assert "'absent' does not exist" in absent.err
