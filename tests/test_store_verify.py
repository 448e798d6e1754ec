"""``store verify`` finds each kind of damage, names the row, and is silent about a sound store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from store_examples import GENERATION, import_corpus, prediction, start_run

from cdner.files import file_sha256
from cdner.store import Store
from cdner.store.llm_log import save_completions, save_reasoning, save_requests, save_template
from cdner.store.models import save_checkpoint
from cdner.store.predictions import save_predictions
from cdner.store.runs import label_experiment
from cdner.store.verify import verify
from cdner.types import Completion, Entity, FitResult, Message, ReasoningChain, ReasoningRequest, Sampling


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A sound store with something of every kind."""
    folder = tmp_path_factory.mktemp("sound")
    store = Store(folder / "cdner.duckdb")
    corpus_run = import_corpus(store)
    run_id = start_run(store, "predict", corpus_run)
    items = [(0, prediction(Entity(0, 1, "actor")), GENERATION)]
    save_predictions(store, run_id, items, corpus_run_id=corpus_run)
    checkpoint = folder / "checkpoints" / "m"
    checkpoint.mkdir(parents=True)
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(b"weights")
    save_checkpoint(store, start_run(store, "train"), FitResult(checkpoint, (), 1, file_sha256(weights)))
    request = ReasoningRequest((Message("user", "q"),), Sampling(5, temperature=0.25, stop=("x",)))
    ids = save_requests(store, "openai", "m", [request])
    save_completions(store, "r1", [(ids[0], Completion("a", "stop", 1, 0, 1))])
    save_reasoning(store, start_run(store, "reason"), [(0, ids[0], ReasoningChain("a", "b"))])
    save_template(store, "pbrc.v1", "text")
    label_experiment(store, "demo", [("planned, never begun", "full")])
    return store


@pytest.fixture
def store(sound: Store, tmp_path: Path) -> Store:
    """A copy to damage; checkpoints are found beside it because their paths are relative."""
    shutil.copytree(sound.directory, tmp_path / "copy")
    return Store(tmp_path / "copy" / "cdner.duckdb")


def test_a_sound_store_has_no_problem(store):
    assert verify(store) == []


@pytest.mark.parametrize(
    ("damage", "table", "message"),
    [
        ("UPDATE run SET settings = '{\"seed\": 7}' WHERE step = 'predict'", "run", "settings or inputs"),
        ("UPDATE run_input SET position = 1, input_run_id = run_id", "run", "settings or inputs"),
        ("DELETE FROM run WHERE step = 'train'", "attempt", "is not in run"),
        ("UPDATE sentence SET tokens = ['x'] WHERE text = 'nothing here'", "sentence", "hash"),
        ("UPDATE sentence SET text = 'x' WHERE text = 'nothing here'", "sentence", "hash"),
        ("DELETE FROM sentence WHERE text = 'nothing here'", "corpus_sentence", "is not in sentence"),
        ("DELETE FROM corpus_sentence WHERE position = 0", "gold_entity", "is not in corpus_sentence"),
        ("DELETE FROM corpus_sentence WHERE position = 0", "prediction", "no such sentence"),
        ("DELETE FROM corpus", "prediction_corpus", "is not in corpus"),
        ("DELETE FROM prediction", "predicted_entity", "is not in prediction"),
        ("UPDATE prompt_text SET text = 'other'", "prompt_text", "hash"),
        ("UPDATE prompt_text SET text = 'other'", "request", "hash"),
        ("UPDATE request SET model = 'other'", "request", "hash"),
        ("UPDATE request SET sampling = json_merge_patch(sampling, '{\"seed\": 5}')", "request", "hash"),
        ("INSERT INTO request FROM request", "request", "more than one row"),
        ("INSERT INTO request_message FROM request_message", "request_message", "more than one row"),
        ("INSERT INTO prompt_text FROM prompt_text", "prompt_text", "more than one row"),
        ("INSERT INTO completion FROM completion", "completion", "more than one row"),
        ("DELETE FROM request", "completion", "is not in request"),
        ("DELETE FROM request", "reasoning", "is not in request"),
        ("UPDATE template SET text = 'other'", "template", "hash"),
        ("UPDATE checkpoint SET path = 'checkpoints/gone'", "checkpoint", "no weights"),
        ("UPDATE checkpoint SET weights_sha256 = 'x'", "checkpoint", "have changed"),
    ],
)
def test_damage_is_found_and_named(store, damage, table, message):
    with store.transaction() as connection:
        connection.execute(damage)
    assert any(problem.table == table and message in problem.message for problem in verify(store)), verify(
        store
    )


def test_changed_weights_are_found(store):
    (store.directory / "checkpoints" / "m" / "model.safetensors").write_bytes(b"Weights")
    (problem,) = verify(store)
    assert problem.table == "checkpoint"
    assert "have changed" in problem.message
