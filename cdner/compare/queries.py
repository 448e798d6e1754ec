"""Finds what a comparison needs to know of runs: the predictions a user names, and the confusion of their models.

Computes nothing: ``cdner.evaluate`` does.
"""

from __future__ import annotations

from collections.abc import Sequence

from cdner.errors import UsageError
from cdner.matrix import axes_of
from cdner.store.connection import Store
from cdner.store.find import find_prediction_run

_POOLED_AXES = {"seed", "target"}  # a comparison takes seeds as repetitions and shows domains apart


def find_prediction_pairs(store: Store, before: str, after: str) -> list[tuple[str, str]]:
    """The predictions meant by BEFORE and AFTER, each as for ``find_prediction_run``: one pair.

    Where an experiment was varied its name without a cell's brackets, or with some axes only, stands for all its
    cells: a pair each, matched by their axes. UsageError where these differ in more than seed and target.
    """
    cells = [_cells(store, name) for name in (before, after)]
    if not any(cells):
        return [(find_prediction_run(store, before), find_prediction_run(store, after))]
    common = [axes for axes in cells[0] if axes in cells[1]]
    if not common:
        raise UsageError(f"{before} and {after} have no cell in common: their axes differ.")
    _refuse_mixture(before, [dict(axes) for axes in common])
    return [
        (find_prediction_run(store, cells[0][axes]), find_prediction_run(store, cells[1][axes]))
        for axes in common
    ]


def _cells(store: Store, name: str) -> dict[tuple[tuple[str, str], ...], str]:
    """Axes -> the run's name in that cell; empty for a name that is an experiment's own, or none."""
    experiment, colon, label = name.rpartition(":")
    if not colon:
        return {}
    with store.reading() as connection:
        rows = connection.execute("SELECT DISTINCT experiment FROM experiment_run ORDER BY 1").fetchall()
    known = [row[0] for row in rows]
    if experiment in known:
        return {}
    study, wanted = axes_of(experiment)
    found = [(cell, axes_of(cell)) for cell in known]
    return {
        tuple(axes.items()): f"{cell}:{label}"
        for cell, (its_study, axes) in found
        if its_study == study and wanted.items() <= axes.items()
    }


def _refuse_mixture(name: str, cells: Sequence[dict[str, str]]) -> None:
    mixed = {axis for axis in cells[0] if len({cell.get(axis) for cell in cells}) > 1} - _POOLED_AXES
    if mixed:
        study, axis = axes_of(name.rpartition(":")[0])[0], min(mixed)
        raise UsageError(
            f"The cells of {study} differ in {', '.join(sorted(mixed))}: name what is compared, "
            f"e.g. '{study}[{axis}={cells[0][axis]}]{name[name.rindex(':') :]}'."
        )


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
