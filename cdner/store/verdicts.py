"""Verdicts in the store: the mentions judged, what was shown with each, and the LLM's figure for every candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cdner.store.connection import Store, rows_of_run
from cdner.store.rows import Row, insert_rows, replace_run

_SPAN = ("run_id", "position", "start_token", "end_token")
_MENTION_COLUMNS = (
    *(*_SPAN, "request_id", "candidates", "log_probabilities", "origin", "n_invalid", "gap_reason"),
)
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
    """``log_probs``: candidate type -> figure as the LLM gave it, None where it gave none; empty without an answer."""

    request_id: str | None  # None: from a bundle without the corpora's text
    candidates: tuple[str, ...]
    log_probs: tuple[float | None, ...]
    origin: str | None
    n_invalid: int = 0
    gap_reason: str | None = None


def save_verdicts(store: Store, run_id: str, verdicts: Mapping[MentionKey, Verdict]) -> None:
    """Store verdicts; a mention again replaces what it had."""
    rows: list[Row] = [
        (
            *(run_id, *mention, verdict.request_id, list(verdict.candidates), list(verdict.log_probs)),
            *(verdict.origin, verdict.n_invalid, verdict.gap_reason),
        )
        for mention, verdict in verdicts.items()
    ]
    with store.transaction() as connection:
        connection.execute(
            """
            DELETE FROM judged_mention WHERE run_id = ? AND (position, start_token, end_token) IN
                (SELECT (unnest(?), unnest(?), unnest(?)))
            """,
            [run_id, *([*column] for column in zip(*verdicts, strict=True))]
            if verdicts
            else [run_id, [], [], []],
        )
        insert_rows(connection, "judged_mention", _MENTION_COLUMNS, rows)


def load_verdicts(store: Store, run_id: str) -> dict[MentionKey, Verdict]:
    """Mention -> verdict, also of mentions without an answer; empty when the run has none yet."""
    rows = rows_of_run(
        store, "judged_mention", _MENTION_COLUMNS[1:], run_id, order="position, start_token, end_token"
    )
    return {
        MentionKey(*row[:3]): Verdict(row[3], tuple(row[4]), tuple(row[5]), row[6], row[7], row[8])
        for row in rows
    }


def save_shown(store: Store, run_id: str, shown: Mapping[MentionKey, Sequence[Shown]]) -> None:
    """Store the labelled mentions shown with each question, in the prompt's order; for mentions that have none yet."""
    rows: list[Row] = [
        (run_id, *mention, place, *item.mention, item.likeness)
        for mention, items in shown.items()
        for place, item in enumerate(items)
    ]
    with store.transaction() as connection:
        insert_rows(connection, "shown_mention", _SHOWN_COLUMNS, rows)


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


def load_fusion_weights(store: Store, run_id: str) -> dict[str, float]:
    """The weights of a fuse run by name; empty when it has none."""
    return dict(rows_of_run(store, "fusion_weight", ("name", "value"), run_id, order="name"))
