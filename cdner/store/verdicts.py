"""Verdicts in the store: the mentions judged, what was shown with each, and the LLM's figure for every candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cdner.store.connection import Store
from cdner.store.rows import Row, insert_rows, replace_run, rows_of_run

_SPAN = ("run_id", "position", "start_token", "end_token")
_MENTION_COLUMNS = (*_SPAN, "request_id", "origin", "n_missing", "n_invalid", "gap_reason")
_VERDICT_COLUMNS = (*_SPAN, "entity_type", "log_probability", "probability", "rank")
_SHOWN_COLUMNS = (*_SPAN, "place", "train_position", "train_start_token", "train_end_token", "likeness")


class MentionKey(NamedTuple):
    """A mention of a corpus: sentence and span."""

    position: int
    start: int
    end: int


class Shown(NamedTuple):
    """A labelled mention of train, as it is shown with a question."""

    mention: MentionKey
    likeness: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """``probabilities``: candidate type -> probability among the candidates, empty where there is no answer.

    ``log_probs``: the figures as the LLM gave them, None where it gave none.
    """

    request_id: str
    log_probs: Mapping[str, float | None]
    probabilities: Mapping[str, float]
    origin: str | None
    n_invalid: int = 0
    gap_reason: str | None = None


def save_verdicts(store: Store, run_id: str, verdicts: Mapping[MentionKey, Verdict]) -> None:
    """Store verdicts; a mention again replaces what it had."""
    positions = sorted({mention.position for mention in verdicts})
    mentions = [
        (
            *(run_id, *mention, verdict.request_id, verdict.origin),
            sum(value is None for value in verdict.log_probs.values()),
            *(verdict.n_invalid, verdict.gap_reason),
        )
        for mention, verdict in verdicts.items()
    ]
    figures: list[Row] = []
    for mention, verdict in verdicts.items():
        ranked = sorted(verdict.probabilities, key=lambda name: -verdict.probabilities[name])
        figures += [
            (run_id, *mention, name, verdict.log_probs[name], verdict.probabilities[name], rank)
            for rank, name in enumerate(ranked, start=1)
        ]
    with store.transaction() as connection:
        for table in ("judged_mention", "verdict"):
            connection.execute(
                f"DELETE FROM {table} WHERE run_id = ? AND position IN (SELECT unnest(?))",  # noqa: S608 our own names
                [run_id, positions],
            )
        insert_rows(connection, "judged_mention", _MENTION_COLUMNS, mentions)
        insert_rows(connection, "verdict", _VERDICT_COLUMNS, figures)


def load_verdicts(store: Store, run_id: str) -> dict[MentionKey, dict[str, float]]:
    """Mention -> candidate type -> probability; mentions without an answer have an empty one."""
    mentions = rows_of_run(store, "judged_mention", _MENTION_COLUMNS[1:4], run_id, order="ALL")
    found: dict[MentionKey, dict[str, float]] = {MentionKey(*row): {} for row in mentions}
    columns = ("position", "start_token", "end_token", "entity_type", "probability")
    for position, start, end, entity_type, probability in rows_of_run(
        store, "verdict", columns, run_id, order="ALL"
    ):
        found[MentionKey(position, start, end)][entity_type] = probability
    return found


def save_shown(store: Store, run_id: str, shown: Mapping[MentionKey, Sequence[Shown]]) -> None:
    """Store the labelled mentions shown with each question, in the prompt's order; they replace earlier ones."""
    rows: list[Row] = [
        (run_id, *mention, place, *item.mention, item.likeness)
        for mention, items in shown.items()
        for place, item in enumerate(items)
    ]
    with store.transaction() as connection:
        replace_run(connection, "shown_mention", _SHOWN_COLUMNS, run_id, rows)


def load_shown(store: Store, run_id: str) -> dict[MentionKey, list[Shown]]:
    """Mention -> what was shown with it, in the prompt's order; empty when the run has stored none yet."""
    rows = rows_of_run(
        store, "shown_mention", _SHOWN_COLUMNS[1:], run_id, order="position, start_token, end_token, place"
    )
    found: dict[MentionKey, list[Shown]] = {}
    for position, start, end, _, at, first, last, likeness in rows:
        shown = Shown(MentionKey(at, first, last), likeness)
        found.setdefault(MentionKey(position, start, end), []).append(shown)
    return found


def save_fusion_weights(store: Store, run_id: str, weights: Mapping[str, float]) -> None:
    """Store the weights a fuse run was fitted with; they replace earlier ones."""
    rows = [(run_id, name, value) for name, value in weights.items()]
    with store.transaction() as connection:
        replace_run(connection, "fusion_weight", ("run_id", "name", "value"), run_id, rows)
