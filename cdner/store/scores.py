"""Scores and error counts, and the errors of a prediction run entity by entity, as the error views show them.

Computes nothing: ``cdner.evaluate`` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, Any

from cdner.errors import UsageError, unknown_name
from cdner.store.connection import Store, rows_of_run
from cdner.store.rows import replace_run

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


FIRST_WINDOW, WIDER = 10_000, 4  # positions; each window is so many times as wide as the one before
# kind -> (view, its columns); how sure the model is stands beside the types of predicted spans, where it said so
_SURE = ("probability", "runner_up")
_VIEWS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "type": ("type_error", ("position", "gold_type", "predicted_type", *_SURE, "mention", "sentence_text")),
    "missed": ("missed_entity", ("position", "gold_type", "mention", "is_boundary", "sentence_text")),
    "spurious": ("spurious_entity", ("position", "predicted_type", *_SURE, "mention", "sentence_text")),
    "boundary": (
        "boundary_error",
        ("position", "gold_type", "mention", "predicted_type", "predicted_mention", "sentence_text"),
    ),
}

_OF_MODEL = {"probability": "round(own.probability, 3)", "runner_up": "own.runner_up"}


def list_errors(
    store: Store,
    run_id: str,
    *,
    kind: str = "type",
    gold: str | None = None,
    predicted: str | None = None,
    limit: int = 50,
) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Columns and rows in text order: wrong types, missed or spurious entities, or wrong boundaries.

    Missed is every gold entity without a predicted one of its exact span, so wrong boundaries are among them.
    UsageError for an unknown kind, or a filter by a type that such errors do not have.
    """
    if kind not in _VIEWS:
        raise unknown_name("kind of error", kind, _VIEWS)
    view, columns = _VIEWS[kind]
    conditions, values = ["run_id = ?"], [run_id]
    for column, value in (("gold_type", gold), ("predicted_type", predicted)):
        if value is None:
            continue
        if column not in columns:
            raise UsageError(f"Errors of kind '{kind}' have no {column.replace('_', ' ')}.")
        conditions.append(f"{column} = ?")
        values.append(value)
    shown = [f"{_OF_MODEL[name]} AS {name}" if name in _OF_MODEL else f"found.{name}" for name in columns]
    # The run's own rows of a window are looked up by constants: a join by columns would read all runs' rows.
    own = "SELECT * FROM predicted_entity WHERE run_id = ? AND position >= ? AND position < ?"
    own_type = "predicted_type" if "predicted_type" in columns else "gold_type"
    statement = f"""
        WITH found AS MATERIALIZED (
            SELECT * FROM {view} WHERE {" AND ".join(conditions)}
            AND position >= ? AND position < ? ORDER BY position, start_token LIMIT ?
        )
        SELECT {", ".join(shown)} FROM found LEFT JOIN ({own}) AS own
        ON own.position = found.position AND own.start_token = found.start_token
           AND own.end_token = found.end_token AND own.entity_type = found.{own_type}
        ORDER BY found.position, found.start_token
    """  # noqa: S608 our own names
    rows: list[tuple[Any, ...]] = []
    with store.reading() as connection:
        for first, beyond in _windows(connection, run_id):
            if len(rows) >= limit:
                break
            window = [first, beyond]
            given = [*values, *window, limit - len(rows), run_id, *window]
            rows += connection.execute(statement, given).fetchall()
    return columns, rows


def _windows(connection: DuckDBPyConnection, run_id: str) -> Iterator[tuple[int, int]]:
    """All positions of a run's predictions, in pieces: who wants fifty errors need not wait for those of a million."""
    found = connection.execute("SELECT max(position) FROM prediction WHERE run_id = ?", [run_id]).fetchone()
    n_positions = 0 if found is None or found[0] is None else found[0] + 1
    first, width = 0, FIRST_WINDOW
    while first < n_positions:
        yield first, first + width
        first, width = first + width, WIDER * width


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
