"""Confusion matrices and rivals in the store, in long form (equations 4 to 14).

Every dimension is there, so that each can be recomputed from those below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cdner.store.connection import Store
from cdner.store.rows import Row, replace_run, rows_of_run
from cdner.types import ConfusionMatrix


def save_confusion(store: Store, run_id: str, matrices: Sequence[ConfusionMatrix]) -> None:
    """Store the matrices of all dimensions, in place of the run's earlier ones."""
    rows: list[Row] = [
        (run_id, matrix.dimension, i, gold, j, confused, None if i == j else float(matrix.scores[i, j]))
        for matrix in matrices
        for i, gold in enumerate(matrix.types)
        for j, confused in enumerate(matrix.types)
    ]
    with store.transaction() as connection:
        columns = "run_id dimension gold_position gold_type confused_position confused_type score"
        replace_run(connection, "confusion", columns.split(), run_id, rows)


def load_confusion(store: Store, run_id: str) -> dict[str, ConfusionMatrix]:
    """Dimension -> matrix, the diagonal 0; empty when the run has none."""
    columns = ("dimension", "gold_position", "gold_type", "confused_position", "score")
    rows = rows_of_run(
        store, "confusion", columns, run_id, order="dimension, gold_position, confused_position"
    )
    types: dict[str, dict[int, str]] = {}
    for dimension, i, gold, _, _ in rows:
        types.setdefault(dimension, {})[i] = gold
    scores = {dimension: np.zeros((len(names), len(names))) for dimension, names in types.items()}
    for dimension, i, _, j, score in rows:
        scores[dimension][i, j] = score or 0.0
    return {name: ConfusionMatrix(name, tuple(types[name].values()), array) for name, array in scores.items()}


def save_rivals(store: Store, run_id: str, rivals: Mapping[str, Sequence[tuple[str, float]]]) -> None:
    """Store T_conf (equation 14): gold type -> (rival, v_conf), strongest first, empty without one."""
    rows: list[Row] = []
    for position, (gold, ranked) in enumerate(rivals.items()):
        rows += [
            (run_id, position, gold, rank, rival, float(score))
            for rank, (rival, score) in enumerate(ranked, start=1)
        ] or [(run_id, position, gold, 0, None, None)]
    with store.transaction() as connection:
        columns = ("run_id", "gold_position", "gold_type", "rank", "rival", "score")
        replace_run(connection, "rival", columns, run_id, rows)


def load_rivals(store: Store, run_id: str) -> dict[str, tuple[tuple[str, float], ...]]:
    """Gold type -> (rival, v_conf), strongest first, in type order; empty when the run has none."""
    columns = ("gold_type", "rank", "rival", "score")
    rivals: dict[str, tuple[tuple[str, float], ...]] = {}
    for gold, rank, rival, score in rows_of_run(store, "rival", columns, run_id, order="gold_position, rank"):
        rivals[gold] = rivals.get(gold, ()) + (((rival, score),) if rank else ())
    return rivals
