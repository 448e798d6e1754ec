"""``cdner export``: which predictions are meant, what other tools count in them, and that nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_stores import Shell
from query_stores import CELLS, N_SENTENCES, SETTINGS, Told, told_store
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

from cdner.export.command import FORMATS
from cdner.registry import names


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return told_store(tmp_path_factory.mktemp("export") / "cdner.duckdb")


@pytest.fixture
def cdner(capsys, told) -> Shell:
    return Shell(capsys, told.store.path)


def test_every_registered_format_can_be_chosen():
    assert set(FORMATS) == names("export").keys()


@pytest.mark.parametrize("setting", SETTINGS)
def test_seqeval_counts_the_stored_f1_in_the_conll_file(cdner, told, tmp_path, setting):
    file = tmp_path / "x.conll"
    shown = cdner("export", f"{CELLS[1]}:{setting}/test", file, "--to", "conll")
    n_sentences = N_SENTENCES // 2 if setting == "llm_only" else N_SENTENCES
    assert (shown.code, shown.out) == (0, "")
    assert shown.err == f"{file}: {n_sentences} sentences of films/test\n"
    blocks = [block.split("\n") for block in file.read_text(encoding="utf-8").rstrip("\n").split("\n\n")]
    assert len(blocks) == n_sentences
    gold, predicted = ([[line.split(" ")[column] for line in block] for block in blocks] for column in (1, 2))
    with told.store.reading() as connection:
        (stored,) = connection.execute(
            "SELECT f1 FROM score WHERE run_id = ? AND metric_family = 'strict' AND entity_type = '*'",
            [told.runs[CELLS[1], f"evaluate:{setting}/test"]],
        ).fetchone()
    assert f1_score(gold, predicted, mode="strict", scheme=IOB2) == pytest.approx(stored, abs=1e-12)
    assert 0 < stored < 1


def test_runs_are_named_by_id_by_part_and_by_what_scored_them(cdner, told, tmp_path):
    part, label = (CELLS[0], "extract:llm_only/test"), "evaluate:llm_only/test"
    wanted = (f"{CELLS[0]}:llm_only/test", told.runs[part], told.runs[part][:12], told.runs[CELLS[0], label])
    texts = set()
    for number, name in enumerate(wanted):
        assert cdner("--quiet", "export", name, tmp_path / str(number), "--to", "jsonl").err == ""
        texts.add((tmp_path / str(number)).read_text(encoding="utf-8"))
    assert len(texts) == 1
    assert {json.loads(line)["run_id"] for line in texts.pop().splitlines()} == {told.runs[part]}


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [
        ("nothing", ("--to", "conll"), "No predict run begins with 'nothing'"),
        (f"{CELLS[0]}:ful/test", ("--to", "conll"), "Did you mean 'predict:full/test'"),
        ("matrx:full/test", ("--to", "conll"), "No experiment in the store named 'matrx'"),
        (f"{CELLS[0]}:full/test", ("--to", "conl"), "'conl' is not one of"),
        (f"{CELLS[0]}:full/test", (), "--to"),
    ],
)
def test_a_wrong_name_is_one_line(cdner, tmp_path, name, options, wanted):
    shown = cdner("export", name, tmp_path / "x", *options)
    assert shown.code == 2
    assert wanted in shown.err
    assert (shown.out, shown.err.count("\n"), list(tmp_path.iterdir())) == ("", 1, [])


def test_an_existing_target_stays_unless_forced_and_a_foreign_folder_stays_anyway(cdner, tmp_path):
    name = f"{CELLS[0]}:full/test"
    (tmp_path / "file").write_text("mine")
    assert cdner("export", name, tmp_path / "file", "--to", "jsonl").code == 2
    assert (tmp_path / "file").read_text() == "mine"
    assert cdner("export", name, tmp_path / "file", "--to", "jsonl", "--force").code == 0
    assert (tmp_path / "file").read_text().count("\n") == N_SENTENCES
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    for to, wanted in (("datasets", "holds thesis.tex"), ("conll", "is a folder, not a file")):
        shown = cdner("export", name, tmp_path / "folder", "--to", to, "--force")
        assert shown.code == 2
        assert wanted in shown.err
    assert (tmp_path / "folder" / "thesis.tex").read_text() == "mine"
    assert cdner("export", name, tmp_path / "data", "--to", "datasets").code == 0
    whole = (tmp_path / "data" / "test.jsonl").read_text()
    (tmp_path / "data" / "test.jsonl").write_text(whole.partition("\n")[0] + "\n")
    assert cdner("export", name, tmp_path / "data", "--to", "datasets", "--force").code == 0
    assert (tmp_path / "data" / "test.jsonl").read_text().count("\n") == N_SENTENCES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "file", "folder"]
    nowhere = cdner("export", name, tmp_path / "no" / "x", "--to", "conll")
    assert "there is no such folder" in nowhere.err


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(cdner, tmp_path, monkeypatch):
    def half(exported, path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("cdner.formats.json_lines.write_json_lines", half)
    (tmp_path / "x").write_text("old")
    shown = cdner("export", f"{CELLS[0]}:full/test", tmp_path / "x", "--to", "jsonl", "--force")
    assert (shown.code, (tmp_path / "x").read_text()) == (1, "old")
    assert "No space left on device" in shown.err
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_without_spacy_the_way_out_is_named(cdner, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    shown = cdner("export", f"{CELLS[0]}:full/test", tmp_path / "x", "--to", "spacy")
    assert shown.code == 2
    assert "pip install 'cdner[export]'" in shown.err
    assert list(tmp_path.iterdir()) == []


def test_label_studio_gets_its_interface_on_stdout(cdner, tmp_path):
    shown = cdner("export", f"{CELLS[0]}:full/test", tmp_path / "x", "--to", "labelstudio")
    assert shown.out.startswith("<View>")
    assert '<Label value="director"/>' in shown.out
    assert (
        json.loads((tmp_path / "x").read_text())[0]["predictions"][0]["model_version"]
        == f"{CELLS[0]}:full/test"
    )


def test_errors_lists_those_of_the_llm_alone_too(cdner, told):
    by_part = cdner("errors", "-e", CELLS[0], "--setting", "llm_only", "--kind", "missed", "--nl")
    by_id = cdner("errors", told.runs[CELLS[0], "extract:llm_only/test"], "--kind", "missed", "--nl")
    assert by_part.out == by_id.out
    assert by_part.out.count("\n") > 0
