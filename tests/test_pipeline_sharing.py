"""Two processes, one store: who needs a run that another executes waits for it, and nothing is lost or doubled."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pipeline_experiments import (
    CALLS,
    cdner,
    dump,
    ended,
    finished_store,
    sql,
    start_cdner,
    wait_for,
    write_experiment,
)

from cdner.store import Store
from cdner.store.runs import begin_attempt, finish_attempt, list_runs, run_spec


@pytest.fixture(autouse=True)
def _log_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))


def slow_epochs() -> None:
    """Every epoch's log takes three seconds more to store."""
    module: Any = sys.modules["cdner.store.models"]
    original = module.save_epoch

    def slow(*args: Any) -> None:
        original(*args)
        time.sleep(3)

    module.save_epoch = slow


def is_training(store: Path) -> bool:
    return store.exists() and any(run.state == "running" for run in list_runs(Store(store), step="train"))


def said_in(log: Path) -> str:
    return log.read_text() if log.exists() else ""


@pytest.mark.slow
def test_two_experiments_at_once_train_their_common_models_once(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    baseline = write_experiment(tmp_path, name="baseline", settings=("without_all",))
    whole = write_experiment(tmp_path, name="whole", settings=("full",))
    first = start_cdner(store, "run", baseline, log=tmp_path / "first", patch=slow_epochs)
    wait_for(lambda: is_training(store))
    second = start_cdner(store, "run", whole, log=tmp_path / "second")
    for process, log in ((first, "first"), (second, "second")):
        assert ended(process, 200) == 0, (tmp_path / log).read_text()
    said = (tmp_path / "second").read_text()
    # Which of the common models the second finds in the making depends on how long it takes to start.
    waits = re.findall(r"(train:(?:source|without_all)): waiting\. Run", said)
    assert 1 <= len(waits) == len(set(waits))  # a line, not a line a second
    assert f"being executed by process {first.pid}" in said
    trained = sql(
        store, "SELECT count(*), max(attempt_n) FROM attempt JOIN run USING (run_id) WHERE step='train'"
    )
    assert trained == [(3, 1)]
    n_steps = sql(store, "SELECT count(DISTINCT run_id) FROM experiment_run")
    assert sql(store, "SELECT count(*) FROM run") == n_steps
    assert cdner(store, "store", "verify").code == 0
    reference, found = dump(finished_store("seq2seq")), dump(store)
    for table in ("prediction", "predicted_entity", "checkpoint", "confusion", "reasoning", "score"):
        assert len(set(found[table])) == len(found[table])
        assert set(found[table]) <= set(reference[table])


@pytest.mark.slow
def test_who_waits_takes_over_when_the_other_process_dies(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    experiment = write_experiment(tmp_path, settings=("without_source",))
    command = ("run", experiment, "--until", "train")
    first = start_cdner(store, *command, log=tmp_path / "first", patch=slow_epochs)
    wait_for(lambda: is_training(store))
    second = start_cdner(store, *command, log=tmp_path / "second")
    wait_for(lambda: "waiting" in said_in(tmp_path / "second"))
    os.kill(first.pid or 0, signal.SIGKILL)
    assert ended(second) == 0
    attempts = "SELECT status FROM attempt JOIN run USING (run_id) WHERE step = 'train' ORDER BY attempt_n"
    assert sql(store, attempts) == [("interrupted",), ("done",)]


def test_waiting_ends_with_ctrl_c(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    experiment = write_experiment(tmp_path, settings=("without_source",))
    plan = cdner(store, "run", experiment, "--dry-run", "--json").rows
    spec = run_spec("import", 1, _import_settings(), ())
    assert spec.run_id == plan[0]["run_id"]
    attempt = begin_attempt(
        Store(store), spec, {}
    )  # this process executes the first step, and goes on living
    process = start_cdner(store, "run", experiment, log=tmp_path / "log")
    wait_for(lambda: "waiting" in said_in(tmp_path / "log"))
    os.kill(process.pid or 0, signal.SIGINT)
    assert ended(process) == 130
    finish_attempt(Store(store), attempt, "failed", "on purpose")
    assert sql(store, "SELECT status FROM attempt") == [("failed",)]


def _import_settings() -> dict[str, str]:
    from cdner.corpora import demo

    return {"domain": "film", "split": "train", "sha256": demo.FILES["film", "train"]}
