"""Descriptions of entity types and their embeddings in the store (equations 5 to 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cdner.store.connection import Store
from cdner.store.rows import Row, demand_rows, replace_run, rows_of_run
from cdner.types import FloatArray

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
