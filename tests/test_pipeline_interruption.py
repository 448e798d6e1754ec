"""What is killed, interrupted or fails leaves a sound store, and running again goes on from there."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pipeline_experiments import (
    CALLS,
    DELAY,
    DIE_AFTER,
    N_SENTENCES,
    N_TYPES,
    DieAt,
    calls,
    cdner,
    copy_of,
    dump,
    ended,
    finished_store,
    shared_folder,
    sql,
    start_cdner,
    wait_for,
    write_experiment,
)

from cdner.cli import take_signals
from cdner.experiment import execute as execution
from cdner.store import Store

KILLS = (
    DieAt("cdner.store.corpora", "replace_run", n=2),  # inside the import's transaction
    DieAt("cdner.store.models", "save_epoch", after=True),  # between two epochs
    DieAt("cdner.store.models", "save_checkpoint"),  # weights written, not yet in the store
    DieAt("cdner.store.predictions", "save_predictions", n=2, after=True),  # between two chunks
    DieAt("cdner.store.confusion", "save_confusion"),  # ratios stored, scores not
    DieAt("cdner.store.llm_log", "save_reasoning"),  # completions stored, nothing parsed yet
    DieAt("cdner.store.scores", "replace_run", n=2),  # inside the transaction of the scores
)


@pytest.fixture(autouse=True)
def _log_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))


def same_results(store: Path, unbroken: Path) -> None:
    """Every run, request and row of ``store`` is what the unbroken experiment has for the same run."""
    whole, found = dump(unbroken), dump(store)
    run_ids = {row[0] for row in sql(store, "SELECT run_id FROM run")}
    for table, rows in found.items():
        assert len(rows) == len({repr(row) for row in rows}), f"{table} has a row twice"
        if "run_id" in _columns(store, table):
            expected: list[tuple[Any, ...]] = [row for row in whole[table] if row[0] in run_ids]
            assert rows == expected, table
        else:
            assert {repr(row) for row in rows} <= {repr(row) for row in whole[table]}, table


def _columns(store: Path, table: str) -> list[str]:
    return [row[0] for row in sql(store, f"DESCRIBE {table}")]


@pytest.mark.slow
def test_what_is_trained_and_stored_is_not_trained_again(tmp_path: Path) -> None:
    """Killed between the checkpoint's row and the end of the run; a second training would move the folder away."""
    store, log = tmp_path / "s.duckdb", tmp_path / "log"
    command = ("run", write_experiment(tmp_path), "--until", "train:source")
    killed = start_cdner(
        store, *command, log=log, patch=DieAt("cdner.store.models", "save_checkpoint", after=True)
    )
    assert ended(killed) == -signal.SIGKILL, log.read_text()
    trained = dump(store, tables=("checkpoint", "train_log"))
    resumed = start_cdner(store, *command, log=log, patch=DieAt("cdner.models.training", "fit"))
    assert ended(resumed) == 0, log.read_text()
    assert dump(store, tables=("checkpoint", "train_log")) == trained
    # Weights that are not the stored ones are trained again.
    (weights,) = (tmp_path / "checkpoints").rglob("*.safetensors")
    weights.write_bytes(weights.read_bytes() + b"x")
    with Store(store).transaction() as connection:
        connection.execute(
            "UPDATE attempt SET status = 'failed' WHERE run_id IN (SELECT run_id FROM checkpoint)"
        )
    again = start_cdner(store, *command, log=log)
    assert ended(again) == 0, log.read_text()
    assert cdner(store, "store", "verify").code == 0
    assert dump(store, tables=("checkpoint",))["checkpoint"] == trained["checkpoint"]


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_like_an_unbroken_one(tmp_path: Path) -> None:
    store, log = tmp_path / "s.duckdb", tmp_path / "log"
    experiment = write_experiment(tmp_path, settings=("full",))
    for patch in KILLS[:5]:
        process = start_cdner(store, "run", experiment, log=log, patch=patch)
        assert ended(process) == -signal.SIGKILL, (patch, log.read_text())
        verified = cdner(store, "store", "verify")
        assert verified.code == 0, (patch, verified.out)
    n_before_death = N_TYPES + 4
    process = start_cdner(store, "run", experiment, log=log, **{DIE_AFTER: str(n_before_death)})
    assert ended(process) == -signal.SIGKILL, log.read_text()
    assert sql(store, "SELECT count(*) FROM completion") == [(n_before_death,)]
    for patch in KILLS[5:]:
        process = start_cdner(store, "run", experiment, log=log, patch=patch)
        assert ended(process) == -signal.SIGKILL, (patch, log.read_text())
        assert cdner(store, "store", "verify").code == 0, patch
    finished = cdner(store, "run", experiment)
    assert finished.code == 0, finished.err
    assert cdner(store, "store", "verify").code == 0
    same_results(store, finished_store("seq2seq"))
    asked = Counter(calls())  # the one request that was on its way when the process died came twice
    assert sorted(asked.values()) == [1] * (N_TYPES + N_SENTENCES - 1) + [2]
    killed = sql(store, "SELECT count(*) FROM attempt WHERE status = 'interrupted'")
    assert killed == [(len(KILLS) + 1,)]


def _reason_again(folder: Path) -> tuple[Path, tuple[object, ...]]:
    """A store that is finished but for the reasoning of one setting by an LLM not yet asked."""
    store = copy_of(finished_store("seq2seq"), folder / "copy")
    experiment = write_experiment(folder, settings=("full",))
    return store, ("run", experiment, "--until", "reason", "--set", "reason.model=another")


@pytest.mark.slow
@pytest.mark.parametrize("n_signals", [1, 2])
def test_ctrl_c_once_and_twice_in_training_costs_an_epoch_at_most(tmp_path: Path, n_signals: int) -> None:
    stores = {name: tmp_path / name / "s.duckdb" for name in ("interrupted", "unbroken")}
    command = ("train", "-e", write_experiment(tmp_path), "--setting", "without_source")
    command = (*command, "--set", "train_target.epochs=30")
    n_epochs = "SELECT count(*) FROM train_log"
    interrupted = stores["interrupted"]
    for store in stores.values():
        store.parent.mkdir()
    process = start_cdner(interrupted, *command, log=tmp_path / "log", patch=take_signals)
    wait_for(lambda: interrupted.exists() and sql(interrupted, n_epochs)[0][0] >= 2)
    for _ in range(n_signals):
        os.kill(process.pid or 0, signal.SIGINT)
    assert ended(process) == 130, (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()
    before = sql(interrupted, "SELECT epoch, seconds FROM train_log ORDER BY epoch")
    assert 2 <= len(before) < 30
    for store in stores.values():
        assert cdner(store, *command).code == 0
    after = sql(interrupted, "SELECT epoch, seconds FROM train_log ORDER BY epoch")
    assert (len(after), after[: len(before)]) == (30, before)  # went on, did not begin again
    losses = [
        sql(store, "SELECT epoch, train_loss FROM train_log ORDER BY epoch") for store in stores.values()
    ]
    assert losses[0] == losses[1]
    weights = [
        [file.read_bytes() for file in sorted(store.parent.rglob("*.safetensors"))]
        for store in stores.values()
    ]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_a_rerun_asks_for_the_rest(tmp_path: Path) -> None:
    store, command = _reason_again(tmp_path)
    process = start_cdner(store, *command, log=tmp_path / "log", **{DELAY: "0.1"})
    wait_for(lambda: len(calls()) >= 3)
    os.kill(process.pid or 0, signal.SIGINT)
    assert ended(process) == 130
    said = (tmp_path / "log").read_text()
    assert "interrupted; finished work is stored, run the same command again to go on" in said
    assert "Traceback" not in said
    statuses = sql(store, "SELECT status FROM attempt ORDER BY started_utc DESC LIMIT 1")
    assert statuses == [("interrupted",)]
    n_stored = len(
        sql(store, "SELECT 1 FROM request JOIN completion USING (request_id) WHERE model='another'")
    )
    n_asked = len(calls())
    assert 2 <= n_stored <= n_asked
    assert cdner(store, *command).code == 0
    assert len(calls()) == n_asked + N_SENTENCES - n_stored


def test_a_failing_step_says_why_and_a_rerun_goes_on(tmp_path: Path) -> None:
    store, model = tmp_path / "s.duckdb", tmp_path / "model"
    experiment = write_experiment(tmp_path, settings=("without_source",))
    command = ("run", experiment, "--until", "train", "--backbone-model", model)
    model.mkdir()  # the weights are there, and name the run; the configuration is not
    shutil.copy(shared_folder() / "t5" / "model.safetensors", model)
    failed = cdner(store, *command)
    assert failed.code == 1
    assert "Cannot load model" in failed.err
    assert "Traceback" not in failed.err
    (row,) = cdner(store, "runs", "--step", "train", "--json").rows
    assert (row["state"], "Cannot load model" in row["error"]) == ("failed", True)
    shutil.copytree(shared_folder() / "t5", model, dirs_exist_ok=True)
    again = cdner(store, *command, "--json")
    assert [row["state"] for row in again.rows] == ["found", "found", "done"]
    (row,) = cdner(store, "runs", "--step", "train", "--json").rows
    assert (row["state"], row["n_attempts"], row["error"]) == ("done", 2, "")


def test_a_bug_in_a_step_marks_its_attempt_and_shows_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by design")

    monkeypatch.setitem(execution.KINDS, "import", replace(execution.KINDS["import"], run=broken))
    store = tmp_path / "s.duckdb"
    with pytest.raises(ZeroDivisionError):
        cdner(store, "import", "demo")
    assert sql(store, "SELECT status, error FROM attempt") == [("failed", "ZeroDivisionError: by design")]
    assert sql(store, "SELECT count(*) FROM corpus") == [(0,)]


def test_a_killed_import_of_own_files_leaves_no_half_corpus(tmp_path: Path) -> None:
    store, file = tmp_path / "s.duckdb", tmp_path / "train.txt"
    file.write_text("Wulf B-ship\nsailed O\n")
    command = ("import", "conll", file, "--domain", "ships")
    patch = DieAt("cdner.store.corpora", "replace_run", n=2)
    process = start_cdner(store, *command, log=tmp_path / "log", patch=patch)
    assert ended(process) == -signal.SIGKILL
    assert sql(store, "SELECT count(*) FROM corpus") == [(0,)]
    assert cdner(store, "store", "verify").code == 0
    again = cdner(store, *command, "--json")
    assert [row["n_entities"] for row in again.rows] == [1]
