"""Scores and error counts in the store. Computes nothing: ``cdner.evaluate`` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

from cdner.store.connection import Store
from cdner.store.rows import replace_run, rows_of_run


@dataclass(frozen=True, slots=True)
class ScoreRow:
    domain: str
    split: str
    metric_family: str  # "strict", "span", "mention_multiset", "mention_set"
    entity_type: str  # "*" = micro average, "macro" = unweighted mean over types
    n_gold: int
    n_predicted: int
    n_correct: int
    precision: float  # in [0, 1], as are the next two
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """Missed includes boundary errors, as in the paper's figure 6; ``n_boundary`` says how many of them."""

    domain: str
    split: str
    entity_type: str  # "*" = all
    n_gold: int
    n_missed: int  # no predicted entity with this exact span
    n_boundary: int  # of the missed: some predicted entity overlaps
    n_misclassified: int  # exact span, wrong type
    n_spurious: int  # predicted entities of this type that overlap no gold entity


_SCORE_COLUMNS = tuple(field.name for field in fields(ScoreRow))
_ERROR_COLUMNS = tuple(field.name for field in fields(ErrorRow))


def save_scores(
    store: Store, run_id: str, scores: Sequence[ScoreRow], *, errors: Sequence[ErrorRow] = ()
) -> None:
    """Store all scores and error counts of an evaluate run, in place of its earlier ones."""
    with store.transaction() as connection:
        rows = [(run_id, *astuple(score)) for score in scores]
        replace_run(connection, "score", ("run_id", *_SCORE_COLUMNS), run_id, rows)
        rows = [(run_id, *astuple(error)) for error in errors]
        replace_run(connection, "error_count", ("run_id", *_ERROR_COLUMNS), run_id, rows)


def load_scores(store: Store, run_id: str) -> tuple[ScoreRow, ...]:
    """By domain, split, family and type; empty when the run has none."""
    order = "domain, split, metric_family, entity_type"
    return tuple(ScoreRow(*row) for row in rows_of_run(store, "score", _SCORE_COLUMNS, run_id, order=order))


def load_errors(store: Store, run_id: str) -> tuple[ErrorRow, ...]:
    """By domain, split and type; empty when the run has none."""
    order = "domain, split, entity_type"
    return tuple(
        ErrorRow(*row) for row in rows_of_run(store, "error_count", _ERROR_COLUMNS, run_id, order=order)
    )
