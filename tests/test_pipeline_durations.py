"""--dry-run says how long the rest will take, by what such steps took here, and what it cannot know."""

from __future__ import annotations

import platform
from pathlib import Path
from statistics import median

import pytest
from pipeline_experiments import CALLS, N_TEST, N_TRAIN, cdner, copy_of, finished_store, sql, write_experiment

from cdner.console.output import readable_seconds
from cdner.store import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    return copy_of(finished_store("seq2seq"), tmp_path / "copy")


def planned(store: Path, experiment: Path, *changes: str) -> dict[str, dict[str, object]]:
    """Label -> row of the plan."""
    ran = cdner(store, "run", experiment, "--dry-run", "--json", *changes)
    assert ran.code == 0, ran.err
    return {row["step"]: row for row in ran.rows}


def took(store: Path, label: str) -> float:
    query = "SELECT seconds FROM latest_attempt JOIN experiment_run USING (run_id) WHERE label = '{}'"
    return float(sql(store, query.format(label))[0][0])


@pytest.mark.slow
def test_a_longer_training_takes_as_much_longer(store: Path, tmp_path: Path) -> None:
    rows = planned(store, write_experiment(tmp_path), "--set", "train_augmented.epochs=7")
    with_texts = ("without_backward", "without_initial", "without_initial_and_backward", "full")
    one_epoch = median(took(store, f"train:{setting}") for setting in with_texts)
    assert rows["train:full"]["seconds"] == pytest.approx(7 * one_epoch, rel=1e-6)
    predictions = [took(store, f"predict:{setting}/test") for setting in with_texts]
    predictions += [took(store, f"predict:{setting}/dev") * N_TEST / 5 for setting in with_texts]
    assert rows["predict:full/test"]["seconds"] == pytest.approx(median(predictions), rel=1e-6)
    assert rows["train:source"]["state"] == "done" and rows["train:source"]["seconds"] == 0


@pytest.mark.slow
def test_an_llm_is_as_slow_as_its_calls_were(store: Path, tmp_path: Path) -> None:
    rows = planned(store, write_experiment(tmp_path), "--set", "reason.max_tokens=50")
    rates = sql(store, "SELECT seconds_per_unit FROM step_duration WHERE step = 'reason' AND n_units > 0")
    expected = median(float(rate) for (rate,) in rates) * N_TRAIN
    assert rows["reason:full/train"]["llm_calls"] == N_TRAIN
    assert rows["reason:full/train"]["seconds"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_what_was_not_done_here_is_unknown(store: Path, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, settings=("without_all",))
    new = planned(tmp_path / "new.duckdb", experiment)
    assert {row["seconds"] for row in new.values()} == {None}
    told = cdner(tmp_path / "new.duckdb", "run", experiment, "--dry-run").err
    assert f"Time to go: {len(new)} unknown" in told

    elsewhere = f"UPDATE attempt SET host = 'elsewhere' WHERE host = '{platform.node()}'"
    with Store(store).transaction() as connection:
        connection.execute(elsewhere)
    assert (
        planned(store, experiment, "--set", "train_target.epochs=3")["train:without_all"]["seconds"] is None
    )


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 s"), (59, "59 s"), (61, "1 min"), (3599, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_a_duration_is_said_as_people_say_it(seconds: float, said: str) -> None:
    assert readable_seconds(seconds) == said
