"""R_H and R_M in the store: what models recognise the gold entities of a type as (equations 2, 3, 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdner.store.connection import Store
from cdner.store.rows import Row, demand_rows, replace_run, rows_of_run
from cdner.types import FloatArray


@dataclass(frozen=True, slots=True)
class Ratios:
    """R_H (equation 2) or R_M (equation 11). Row i: the gold type, column j: what its span is taken for."""

    gold_types: tuple[str, ...]  # (K,)
    predicted_types: tuple[str, ...]  # (n,)
    ratios: FloatArray  # (K, n), each in [0, 1], rows sum to at most 1
    n_gold: NDArray[np.int64]  # (K,)
    n_predicted_as: NDArray[np.int64]  # (K, n)
    unrecognised: FloatArray  # (K,), share of gold entities whose span no entity was predicted for


@dataclass(frozen=True, slots=True)
class Hierarchy:
    ratios: Ratios
    prefixes: tuple[str, ...]  # (K,), equation 3
    flagged: tuple[bool, ...]  # (K,), rows of zeros, whose prefix is a default


def save_hierarchy(store: Store, run_id: str, hierarchy: Hierarchy) -> None:
    """Store R_H with the prefixes it leads to."""
    table = hierarchy.ratios
    rows = [
        (*row, table.predicted_types[j] == hierarchy.prefixes[i], bool(hierarchy.flagged[i]))
        for i, j, row in _ratio_rows(run_id, table)
    ]
    columns = (*_ratio_columns("source"), "is_prefix", "is_flagged")
    with store.transaction() as connection:
        replace_run(connection, "hierarchy_ratio", columns, run_id, rows)


def load_hierarchy(store: Store, run_id: str) -> Hierarchy:
    """StoreError when the run has none."""
    columns = (*_ratio_columns("source"), "is_prefix", "is_flagged")
    rows = rows_of_run(store, "hierarchy_ratio", columns, run_id, order="gold_position, source_position")
    demand_rows(rows, store, run_id, "hierarchy ratios")
    of_prefix = [row for row in rows if row[9]]
    return Hierarchy(
        _ratios(rows), tuple(row[4] for row in of_prefix), tuple(bool(row[10]) for row in of_prefix)
    )


def save_misclassification(store: Store, run_id: str, ratios: Ratios) -> None:
    """Store R_M; its predicted types are its gold types."""
    rows = [row for _, _, row in _ratio_rows(run_id, ratios)]
    with store.transaction() as connection:
        replace_run(connection, "misclassification_ratio", _ratio_columns("confused"), run_id, rows)


def load_misclassification(store: Store, run_id: str) -> Ratios:
    """StoreError when the run has none."""
    columns = _ratio_columns("confused")
    rows = rows_of_run(
        store, "misclassification_ratio", columns, run_id, order="gold_position, confused_position"
    )
    demand_rows(rows, store, run_id, "misclassification ratios")
    return _ratios(rows)


def _ratio_columns(column: str) -> tuple[str, ...]:
    """``column`` names what the columns of the matrix are: source or confused types."""
    return (
        *("run_id", "gold_position", "gold_type", f"{column}_position", f"{column}_type"),
        *("ratio", "n_gold", "n_predicted_as", "unrecognised"),
    )


def _ratio_rows(run_id: str, table: Ratios) -> list[tuple[int, int, Row]]:
    """(i, j, row) for every cell of the matrix."""
    return [
        (
            i,
            j,
            (
                *(run_id, i, gold, j, predicted, float(table.ratios[i, j])),
                *(int(table.n_gold[i]), int(table.n_predicted_as[i, j]), float(table.unrecognised[i])),
            ),
        )
        for i, gold in enumerate(table.gold_types)
        for j, predicted in enumerate(table.predicted_types)
    ]


def _ratios(rows: Sequence[tuple[Any, ...]]) -> Ratios:
    """The matrix of rows in row-major order."""
    gold_types = tuple(dict.fromkeys(row[2] for row in rows))
    predicted_types = tuple(dict.fromkeys(row[4] for row in rows))
    shape = (len(gold_types), len(predicted_types))
    by_gold = rows[:: len(predicted_types)]
    return Ratios(
        gold_types,
        predicted_types,
        ratios=np.array([row[5] for row in rows], dtype=np.float64).reshape(shape),
        n_gold=np.array([row[6] for row in by_gold], dtype=np.int64),
        n_predicted_as=np.array([row[7] for row in rows], dtype=np.int64).reshape(shape),
        unrecognised=np.array([row[8] for row in by_gold], dtype=np.float64),
    )
