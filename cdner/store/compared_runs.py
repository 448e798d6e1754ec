"""Finds what a comparison needs to know of runs: the predictions a user names, and the confusion of their models.

Computes nothing: ``cdner.evaluate`` does.
"""

from __future__ import annotations

from cdner.errors import UsageError
from cdner.store.connection import Store
from cdner.store.lookup import find_labelled_run, find_run

_STEPS = ("predict", "extract", "evaluate")
_ALONE = "llm_only/"  # the setting whose predictions are an extract run's


def find_prediction_run(store: Store, name: str) -> str:
    """The predict or extract run meant by ``EXPERIMENT:SETTING/SPLIT``, or by the unique beginning of a run id.

    An evaluate run stands for the predictions it scored. UsageError for what names none.
    """
    experiment, colon, label = name.rpartition(":")
    if colon:
        step = "extract" if label.startswith(_ALONE) else "predict"
        return find_labelled_run(store, experiment, f"{step}:{label}")
    with store.reading() as connection:
        steps = {
            step
            for (step,) in connection.execute(
                "SELECT DISTINCT step FROM run WHERE starts_with(run_id, ?)", [name]
            ).fetchall()
        }
    meant = [step for step in _STEPS if step in steps]
    if len(meant) > 1:
        raise UsageError(f"A {meant[0]} and an {meant[-1]} run begin with '{name}'. Give more of the id.")
    run_id = find_run(store, name, step=meant[0] if meant else "predict")
    return _scored_predictions(store, run_id) if meant == ["evaluate"] else run_id


def _scored_predictions(store: Store, run_id: str) -> str:
    with store.reading() as connection:
        row = connection.execute(
            "SELECT input_run_id FROM run_input JOIN run ON run.run_id = input_run_id"
            " WHERE run_input.run_id = ? AND run.step IN ('predict', 'extract')",
            [run_id],
        ).fetchone()
    if row is None:
        raise UsageError(f"Evaluate run {run_id} has no predictions in {store.path}. Name a predict run.")
    return str(row[0])


def quantified_model(store: Store, run_id: str) -> str | None:
    """The latest finished quantify run on dev predictions of the model that made this predict run's; or None.

    Same model: the same train run. Same domain: the target's dev split, not the source model's predictions.
    """
    with store.reading() as connection:
        row = connection.execute(
            """
            SELECT quantified.run_id
            FROM run_input AS made_by
            JOIN run AS model ON model.run_id = made_by.input_run_id AND model.step = 'train'
            JOIN run_input AS also_made ON also_made.input_run_id = model.run_id
            JOIN prediction_corpus ON prediction_corpus.run_id = also_made.run_id
            JOIN corpus ON corpus.run_id = corpus_run_id
            JOIN run_input AS measured ON measured.input_run_id = also_made.run_id
            JOIN latest_attempt AS quantified ON quantified.run_id = measured.run_id
            WHERE made_by.run_id = $run_id AND corpus.split = 'dev'
              AND quantified.step = 'quantify' AND quantified.status = 'done'
              AND corpus.domain = (SELECT domain FROM prediction_corpus AS own
                                   JOIN corpus ON corpus.run_id = own.corpus_run_id WHERE own.run_id = $run_id)
            ORDER BY quantified.finished_utc DESC, quantified.run_id LIMIT 1
            """,
            {"run_id": run_id},
        ).fetchone()
    return str(row[0]) if row else None
