"""How long finished runs took for a unit of their work: the view ``step_duration`` as rates."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass

from cdner.store.connection import Store


@dataclass(frozen=True, slots=True)
class WorkKind:
    """Work that takes alike long: the same step with the same weights on inputs of the same make."""

    step: str
    weights: str  # identity; empty where none is used
    with_reasoning: bool


def seconds_per_unit(store: Store) -> Mapping[WorkKind, float]:
    """Kind of work -> median seconds a unit took on this machine; empty without a store."""
    if not store.path.exists():
        return {}
    statement = """
        SELECT step, weights, with_reasoning, median(seconds_per_unit) FROM step_duration
        WHERE host = ? AND seconds_per_unit IS NOT NULL GROUP BY ALL
    """
    with store.reading() as connection:
        rows = connection.execute(statement, [platform.node()]).fetchall()
    return {WorkKind(*kind): float(seconds) for *kind, seconds in rows}
