"""The door for Python: what it predicts is what the command line predicts, and fitting is the same run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pipeline_experiments import copy_of, finished_store, sql, write_experiment

import cdner as package
from cdner import Recognizer
from cdner.api import FoundEntity
from cdner.errors import InputError, ModelError, UsageError
from cdner.store import Store
from cdner.store import predictions as stored_predictions
from cdner.store.corpora import load_corpus


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return copy_of(finished_store("seq2seq"), tmp_path / "copy")


def test_it_predicts_what_is_stored_of_the_same_run(store: Path) -> None:
    ((run_id, corpus_run),) = sql(
        store,
        "SELECT run_id, corpus_run_id FROM prediction_corpus JOIN experiment_run USING (run_id)"
        " WHERE label = 'predict:without_all/test'",
    )
    stored = stored_predictions.load_predictions(Store(store), run_id)
    sentences = load_corpus(Store(store), corpus_run).sentences
    with Recognizer.load(store, run_id) as recognizer:
        found = recognizer.predict([sentences[position].tokens for position in stored], batch_size=4)
    assert [
        [(entity.start_token, entity.end_token, entity.type) for entity in entities] for entities in found
    ] == [
        [(entity.start, entity.end, entity.type) for entity in prediction.entities]
        for prediction in stored.values()
    ]
    assert any(found), "a comparison of nothing with nothing"


class Fixed:
    """Stands where the model does: finds the second and third token."""

    def predict(self, sentences, log):  # type: ignore[no-untyped-def]
        from cdner.types import Entity, Prediction

        return [
            (Prediction("", (Entity(1, 3, "song"),), {}, ({"song": 0.75, "album": 0.25},)), None)
            for _ in sentences
        ]

    def close(self) -> None: ...


def test_offsets_count_characters_of_the_text_as_it_was_given(store: Path) -> None:
    recognizer = Recognizer.load(store, _train_run(store))
    recognizer._predictor = Fixed()  # type: ignore[assignment]
    text = "Sie  sang\t«Über😀 alles»."
    (first,), nothing = recognizer.predict([text, "  "])
    assert text[first.start : first.end] == first.text == "sang\t«"
    assert (first.score, first.runner_up) == (0.75, "album")
    ((of_tokens,),) = recognizer.predict([["a", "bc", "d"]])
    assert of_tokens == FoundEntity("bc d", "song", 2, 6, 1, 3, 0.75, "album")
    assert nothing == []


def _train_run(store: Path) -> str:
    ((run_id,),) = sql(store, "SELECT run_id FROM experiment_run WHERE label = 'train:without_all'")
    return str(run_id)


def test_fitting_is_the_run_of_the_command_line_and_is_found_again(tmp_path: Path) -> None:
    rows = [(f"Ada{i} sang", [(0, 4 + len(str(i)) - 1, "singer")]) for i in range(6)]
    rows += [(["the", "Louvre"], [(1, 2, "museum")])]
    experiment = write_experiment(tmp_path, settings=("without_all",))
    parameters = {"experiment": experiment, "domain": "mine", "setting": "without_all"}
    recognizer = Recognizer(tmp_path / "s.duckdb", **parameters)
    assert recognizer.fit(rows, rows[:5]) is recognizer
    assert recognizer.types == ("singer", "museum")
    assert len(recognizer.predict(["Ada1 sang", "the Louvre"])) == 2
    n_attempts = sql(
        tmp_path / "s.duckdb",
        "SELECT count(*) FROM attempt WHERE run_id IN (SELECT run_id FROM run WHERE step = 'train')",
    )
    Recognizer(tmp_path / "s.duckdb", **parameters).fit(rows, rows[:5])
    assert (
        sql(
            tmp_path / "s.duckdb",
            "SELECT count(*) FROM attempt WHERE run_id IN (SELECT run_id FROM run WHERE step = 'train')",
        )
        == n_attempts
    )
    assert recognizer.get_params()["domain"] == "mine"


def test_a_saved_model_predicts_the_same_without_its_store(store: Path, tmp_path: Path) -> None:
    recognizer = Recognizer.load(store, _train_run(store))
    texts = ["Ada Lovelace starred in The Third Man .", "Nobody came ."]
    expected = recognizer.predict(texts)
    recognizer.save(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "## Scores, exact spans and types, percent" in card and "| film | test |" in card
    assert "## Corpora" in card and "| film | train | 6 |" in card
    for file in store.parent.iterdir():
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    again = Recognizer.load_folder(tmp_path / "model")
    assert again.predict(texts) == expected
    assert again.types == recognizer.types
    with pytest.raises(UsageError, match="exists"):
        again.save(tmp_path / "model")
    weights = next((tmp_path / "model").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match="are not those that were saved"):
        Recognizer.load_folder(tmp_path / "model")
    (tmp_path / "model" / "recognizer.json").write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match="is not a saved recognizer"):
        Recognizer.load_folder(tmp_path / "model")


def test_a_model_that_needs_an_llm_is_not_saved(store: Path, tmp_path: Path) -> None:
    ((run_id,),) = sql(store, "SELECT run_id FROM experiment_run WHERE label = 'train:full'")
    with pytest.raises(UsageError, match="asks an LLM"):
        Recognizer.load(store, run_id).save(tmp_path / "model")


def test_what_is_missing_is_said(store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no store at"):
        Recognizer.load(tmp_path / "none.duckdb", "own:fused")
    with pytest.raises(UsageError, match="experiment in the store"):
        Recognizer.load(store, "nothing:full")
    with pytest.raises(UsageError, match="no model yet"):
        Recognizer(store).predict("Ada sang")
    with pytest.raises(UsageError, match="give dev sentences"):
        Recognizer(store, setting="fused").fit([(["a"], [(0, 1, "x")])])
    with pytest.raises(InputError, match="overlaps another entity"):
        Recognizer(store).fit([(["a", "b"], [(0, 2, "x"), (1, 2, "y")])])


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, cdner; print([m for m in ('torch', 'duckdb', 'click', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'Recogniser'"):
        _ = package.Recogniser  # type: ignore[attr-defined]
