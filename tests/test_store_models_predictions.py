"""Checkpoints, epoch logs and predictions come out of the store as they went in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from store_examples import CORPUS, GENERATION, import_corpus, prediction, start_run

from cdner.errors import StoreError
from cdner.store import Store
from cdner.store.models import (
    Checkpoint,
    checkpoint_directory,
    load_checkpoint,
    load_epochs,
    save_checkpoint,
    save_epoch,
)
from cdner.store.predictions import load_predictions, predicted_corpus, predicted_positions, save_predictions
from cdner.types import Entity, EpochLog, FitResult, Prediction


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cdner.duckdb")


def test_a_checkpoint_is_relative_to_the_store_and_moves_with_it(store, tmp_path):
    logs = (EpochLog(1, 10, 2.5, None, None, 1.5, 0), EpochLog(2, 20, 1.25, 1.5, 0.75, 1.25, 7))
    save_checkpoint(store, "m", FitResult(tmp_path / "checkpoints" / "m", logs, 2, "abc"))
    assert load_checkpoint(store, "m") == ("checkpoints/m", "abc", 2)
    assert checkpoint_directory(store, load_checkpoint(store, "m")) == tmp_path / "checkpoints" / "m"
    assert load_epochs(store, "m") == logs
    with pytest.raises(StoreError, match="has no checkpoint"):
        load_checkpoint(store, "other")


@pytest.mark.parametrize("path", ["/elsewhere/m", "../m", "checkpoints/../../m", "/elsewhere/checkpoints/m"])
def test_weights_outside_the_stores_folder_are_refused(path, store):
    with pytest.raises(StoreError, match=r"names weights outside its folder, [^\n]+$"):
        checkpoint_directory(store, Checkpoint(path, "abc", 1))


def test_a_folder_of_checkpoints_may_be_a_link_to_another_disk(store, tmp_path):
    inside, outside = tmp_path / "checkpoints", tmp_path.parent / f"{tmp_path.name}-disk"
    (outside / "m").mkdir(parents=True)
    inside.symlink_to(outside)
    save_checkpoint(store, "m", FitResult(inside / "m", (), 1, "abc"))
    assert load_checkpoint(store, "m").path == "checkpoints/m"
    assert checkpoint_directory(store, load_checkpoint(store, "m")) == inside / "m"
    as_stored_before = Checkpoint(str((outside / "m").resolve()), "abc", 1)
    assert checkpoint_directory(store, as_stored_before) == inside / "m"


def test_an_epoch_saved_twice_is_there_once(store):
    log = EpochLog(1, 10, 2.5, None, None, 1.5, 0)
    save_epoch(store, "m", log)
    save_epoch(store, "m", replace(log, train_loss=2.0))
    save_epoch(store, "m", replace(log, epoch=2))
    assert load_epochs(store, "m") == (replace(log, train_loss=2.0), replace(log, epoch=2))
    assert load_epochs(store, "other") == ()


def test_predictions_come_back_and_a_position_again_replaces_what_it_had(store):
    corpus_run = import_corpus(store)
    run_id = start_run(store, "predict", corpus_run)
    first = Prediction(
        '"director": ["Łódź"', (Entity(0, 2, "director"), Entity(3, 4, "actor")), {"truncated": 1}
    )
    save_predictions(
        store, run_id, [(2, prediction(), GENERATION), (0, first, GENERATION)], corpus_run_id=corpus_run
    )
    save_predictions(store, run_id, [], corpus_run_id=corpus_run)
    assert load_predictions(store, run_id) == {0: first, 2: prediction()}
    again = prediction(Entity(1, 2, "misc"))
    save_predictions(store, run_id, [(0, again, GENERATION)], corpus_run_id=corpus_run)
    assert list(load_predictions(store, run_id).items()) == [(0, again), (2, prediction())]
    assert predicted_positions(store, run_id) == {0, 2}
    assert predicted_corpus(store, run_id) == corpus_run
    assert load_predictions(store, "other") == {}


def test_predictions_for_a_sentence_or_corpus_that_is_not_there_are_refused(store):
    corpus_run = import_corpus(store)
    other = import_corpus(store, replace(CORPUS, split="dev"))
    run_id = start_run(store, "predict", corpus_run)
    with pytest.raises(StoreError, match="no sentence at position 4"):
        save_predictions(store, run_id, [(4, prediction(), GENERATION)], corpus_run_id=corpus_run)
    save_predictions(store, run_id, [(0, prediction(), GENERATION)], corpus_run_id=corpus_run)
    with pytest.raises(StoreError, match=f"predicts corpus {corpus_run}, not {other}"):
        save_predictions(store, run_id, [(0, prediction(), GENERATION)], corpus_run_id=other)
