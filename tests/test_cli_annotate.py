"""``cdner annotate`` by its command line: what is written and printed, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pipeline_experiments import CALLS, calls, cdner, copy_of, finished_store, shared_folder, sql

from cdner.store import Store
from cdner.store.corpora import find_corpus_run, load_corpus
from cdner.store.find import find_labelled_run
from cdner.store.llm_log import load_reasoning
from cdner.store.predictions import load_predictions

ROWS = [
    {"id": 7, "text": "Mara Holt's film  won in Oslo."},
    {"id": 8, "text": "Nobody left.", "note": {"by": "J."}},
    {"id": 9, "text": "The Lantern Society met Tomas Reyl."},
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: read only, and nobody else's models."""
    return copy_of(finished_store("seq2seq"), tmp_path_factory.mktemp("annotating"))


@pytest.fixture(autouse=True)
def _log_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared_folder()
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def written(folder: Path) -> list[dict[str, object]]:
    """All rows of an output folder, in block order."""
    return [
        json.loads(line)
        for path in sorted(folder.glob("block-*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def test_rows_keep_their_columns_and_get_entities_with_offsets_in_the_text(store, rows, tmp_path):
    ran = cdner(
        store, "annotate", rows, tmp_path / "out", "--run", "tiny:source/train", "--block-size", 2, "--json"
    )
    assert ran.code == 0, ran.err
    found = written(tmp_path / "out")
    assert [{key: row[key] for key in ROWS[n]} for n, row in enumerate(found)] == ROWS
    assert found[0]["tokens"] == ["Mara", "Holt", "'s", "film", "won", "in", "Oslo", "."]
    entities = [(row, entity) for row in found for entity in row["predicted"]]  # type: ignore[attr-defined]
    assert entities, "grounded decoding finds some"
    for row, entity in entities:
        assert row["text"][entity["start"] : entity["end"]] == entity["text"]
        tokens = row["tokens"][entity["start_token"] : entity["end_token"]]
        assert "".join(entity["text"].split()) == "".join(tokens)
    summary = {"blocks": 2, "found": 0, "sentences": 3, "bad_rows": 0}
    assert summary.items() <= ran.rows[0].items()
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert manifest["is_complete"]


@pytest.mark.parametrize("change", ["weights", "path"])
def test_another_model_in_the_place_of_the_trained_one_is_refused(change, store, rows, tmp_path):
    """By every command that opens it: annotate, explain, and predict."""
    copied = copy_of(store, tmp_path / "copy")
    runs = sql(copied, "SELECT run_id, path FROM checkpoint")
    folders = [copied.parent / path for _, path in runs]
    if change == "weights":
        for folder, other in zip(folders, [*folders[1:], folders[0]], strict=True):
            (folder / "model.safetensors").rename(folder / "mine")
            shutil.copy(store.parent / "checkpoints" / other.name / "model.safetensors", folder)
            (folder / "mine").unlink()
        refusal = "are not the ones that were trained"
    else:
        shutil.copytree(copied.parent / "checkpoints", tmp_path / "elsewhere")
        with Store(copied).transaction() as connection:
            connection.execute("UPDATE checkpoint SET path = '../elsewhere/' || run_id")
        refusal = "names weights outside its folder"
    for command in (
        ("annotate", rows, tmp_path / "out", "--run", "tiny:source/train"),
        ("explain", "--sentence", "Mara Holt's film won.", "-e", "tiny", "--setting", "full"),
        ("predict", "-e", copied.parent / "tiny.toml", "--setting", "without_all", "--force"),
    ):
        ran = cdner(copied, "--quiet", *command)
        assert ran.code == 1, command
        assert refusal in ran.err.splitlines()[-1], command
    assert not (tmp_path / "out").exists()


def test_the_same_command_again_finds_every_block_and_loads_nothing(store, rows, tmp_path, monkeypatch):
    command = ("annotate", rows, tmp_path / "out", "--run", "tiny:without_all", "--json")
    first = cdner(store, *command)
    monkeypatch.setattr("cdner.models.open_backbone", None)
    second = cdner(store, *command)
    assert [ran.rows[0]["found"] for ran in (first, second)] == [0, 1]


def test_a_run_is_named_by_setting_split_or_id_and_the_entities_are_the_models(store, rows, tmp_path):
    ((train,),) = sql(store, "SELECT run_id FROM experiment_run WHERE label = 'train:without_all'")
    names = ("tiny:without_all", "tiny:without_all/test", train[:10])
    for n, name in enumerate(names):
        ran = cdner(store, "--quiet", "annotate", rows, tmp_path / str(n), "--run", name)
        assert (ran.code, ran.err) == (0, "")
    first, *others = (
        json.loads((tmp_path / str(n) / "_manifest.json").read_text())["made_of"]["method"]["model"]
        for n in range(len(names))
    )
    assert others == [first, first]
    assert first["run_id"] == train


def test_sentences_of_the_corpus_get_the_reasoning_and_the_entities_of_the_experiment(store, tmp_path):
    known = Store(store)
    predicted = load_predictions(known, find_labelled_run(known, "tiny", "predict:full/test"))
    corpus_run = find_corpus_run(known, "film", "test")
    assert corpus_run
    sentences = [load_corpus(known, corpus_run).sentences[position] for position in predicted]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"tokens": sentence.tokens}) + "\n" for sentence in sentences))
    for run in ("tiny:full/test", "tiny:full"):
        out = tmp_path / run.replace("/", "-")
        ran = cdner(store, "--quiet", "annotate", rows, out, "--run", run)
        assert (ran.code, ran.err) == (0, "")
        if run.endswith("/test"):  # a train run has the default decoding
            assert [row["generated"] for row in written(out)] == [p.generated for p in predicted.values()]
            found = [
                [(one["type"], one["start_token"], one["end_token"]) for one in row["predicted"]]  # type: ignore[attr-defined]
                for row in written(out)
            ]
            assert found == [[(e.type, e.start, e.end) for e in p.entities] for p in predicted.values()]
        texts = load_reasoning(known, find_labelled_run(known, "tiny", "reason:full/test"))
        chains = [(row["initial_reasoning"], row["bidirectional_reasoning"]) for row in written(out)]
        assert chains == [(texts[p].initial, texts[p].bidirectional) for p in predicted]
    assert len(calls()) == 2 * len(sentences)
    ran = cdner(store, "annotate", rows, tmp_path / "other", "--run", "tiny:full", "--model", "another")
    assert "its texts were written by recorded" in ran.err


def test_bad_rows_stop_before_anything_is_written_or_are_counted(store, rows, tmp_path):
    with rows.open("a") as file:
        file.write('{"id": 10}\n')
    command = ("annotate", rows, tmp_path / "out", "--run", "tiny:without_all")
    ran = cdner(store, "--quiet", *command)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "rows.jsonl, line 4: no 'text'." in ran.err
    assert not (tmp_path / "out").exists()
    ran = cdner(store, *command, "--on-bad-row", "skip", "--json")
    assert (ran.code, ran.rows[0]["bad_rows"], ran.rows[0]["sentences"]) == (0, 1, 3)
    assert "Left out: " in ran.err
    assert [row["id"] for row in written(tmp_path / "out")] == [7, 8, 9]


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("--run", "tinny:without_all"), 2, "Did you mean 'tiny'?"),
        (("--run", "tiny:without_al"), 2, "Did you mean 'train:without_all'?"),
        (("--run", "zzz"), 2, "No predict run begins with 'zzz'"),
        (("--run", "tiny:without_all", "--column", "title"), 2, "no column 'title'"),
        (("--run", "tiny:without_all", "--actors", "2"), 2, "are for --engine ray"),
        (("--run", "tiny:without_all", "--backend", "openai"), 2, "needs no reasoning text"),
        (("--run", "tiny:without_all", "--set", "predict.decoding=free"), 2, "only execution.* is free"),
        (("--run", "tiny:without_all", "--set", "execution.replay=true"), 2, "do not apply"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(store, rows, tmp_path, options, code, told):
    ran = cdner(store, "--quiet", "annotate", rows, tmp_path / "out", *options)
    assert (ran.code, ran.err.count("\n")) == (code, 1), ran.err
    assert told in ran.err
    assert not (tmp_path / "out").exists()


def test_an_output_of_something_else_is_left_alone(store, rows, tmp_path):
    command = ("--quiet", "annotate", rows, tmp_path / "out", "--run")
    assert cdner(store, *command, "tiny:without_all").code == 0
    before = sorted((path.name, path.read_bytes()) for path in (tmp_path / "out").iterdir())
    for options, told in (
        (("tiny:without_source",), "blocks with another method"),
        (("tiny:without_all", "--block-size", "1"), "blocks with another block_size"),
    ):
        ran = cdner(store, *command, *options)
        assert (ran.code, ran.err.count("\n")) == (2, 1)
        assert told in ran.err
    rows.write_text('{"text": "Another."}\n')
    assert "blocks with another input" in cdner(store, *command, "tiny:without_all").err
    assert sorted((path.name, path.read_bytes()) for path in (tmp_path / "out").iterdir()) == before
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.txt").write_text("all of it")
    ran = cdner(store, "--quiet", "annotate", rows, own, "--run", "tiny:without_all")
    assert (ran.code, "thesis.txt" in ran.err) == (2, True)
    assert [path.name for path in own.iterdir()] == ["thesis.txt"]
    ran = cdner(store, "--quiet", "annotate", rows, own / "thesis.txt", "--run", "tiny:without_all")
    assert (ran.code, "is a file" in ran.err) == (2, True)


def test_without_a_store_there_is_no_model(rows, tmp_path):
    ran = cdner(tmp_path / "none.duckdb", "annotate", rows, tmp_path / "out", "--run", "tiny:full")
    assert (ran.code, "cdner run EXPERIMENT" in ran.err) == (1, True)
    assert not (tmp_path / "none.duckdb").exists()
