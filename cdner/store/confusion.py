"""R_H and R_M, descriptions with their embeddings, confusion matrices and rivals in the store (equations 2 to 14).

Every dimension is stored, so that each can be recomputed from those below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdner.store.connection import Store, demand_rows, rows_of_run
from cdner.store.rows import Row, replace_run
from cdner.types import ConfusionMatrix, FloatArray


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


_COLUMNS = ("entity_type", "gloss", "gloss_source", "description", "request_id", "origin")


@dataclass(frozen=True, slots=True)
class TypeDescription:
    """C_s and C_e of equation 5."""

    entity_type: str
    gloss: str
    gloss_source: str  # a WordNet synset, or where else the gloss is from
    description: str
    request_id: str | None  # None when no LLM wrote the description
    origin: str  # "llm", "gloss" or "imported"


def save_descriptions(
    store: Store, run_id: str, domain: str, descriptions: Sequence[TypeDescription]
) -> None:
    """Store a domain's descriptions in declared order, in place of the run's earlier ones."""
    rows: list[Row] = [
        (run_id, domain, position, *(getattr(item, name) for name in _COLUMNS))
        for position, item in enumerate(descriptions)
    ]
    with store.transaction() as connection:
        columns = ("run_id", "domain", "position", *_COLUMNS)
        replace_run(connection, "type_description", columns, run_id, rows)


def load_descriptions(store: Store, run_id: str) -> tuple[TypeDescription, ...]:
    """In declared order; empty when the run has none."""
    rows = rows_of_run(store, "type_description", _COLUMNS, run_id, order="position")
    return tuple(TypeDescription(*row) for row in rows)


def save_embeddings(store: Store, run_id: str, types: Sequence[str], vectors: FloatArray) -> None:
    """Store H-bar (K, d) of equation 7, a row a type."""
    rows: list[Row] = [
        (run_id, position, name, [float(value) for value in vector])
        for position, (name, vector) in enumerate(zip(types, vectors, strict=True))
    ]
    with store.transaction() as connection:
        columns = ("run_id", "position", "entity_type", "vector")
        replace_run(connection, "type_embedding", columns, run_id, rows)


def load_embeddings(store: Store, run_id: str) -> tuple[tuple[str, ...], FloatArray]:
    """(types, (K, d)). StoreError when the run has none."""
    rows = rows_of_run(store, "type_embedding", ("entity_type", "vector"), run_id, order="position")
    demand_rows(rows, store, run_id, "type embeddings")
    return tuple(row[0] for row in rows), np.array([row[1] for row in rows], dtype=np.float64)


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
