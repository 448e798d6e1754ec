"""Trained models in the store: where the weights lie, their checksum, and the log of every epoch.

The weights themselves are files beside the store; nothing here opens them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cdner.errors import StoreError
from cdner.store.connection import Store
from cdner.store.rows import insert_rows, replace_run
from cdner.types import EpochLog, FitResult

_LOG_COLUMNS = ("epoch", "step", "train_loss", "dev_loss", "dev_metric", "seconds", "n_truncated_tokens")


class Checkpoint(NamedTuple):
    path: str  # directory, relative to ``store.directory``; see ``checkpoint_directory``
    weights_sha256: str
    best_epoch: int


def save_checkpoint(store: Store, run_id: str, result: FitResult) -> None:
    """Store where a training run's weights lie and the logs of all its epochs; both replace earlier ones."""
    path, root = Path(os.path.normpath(result.checkpoint.absolute())), store.directory
    if not path.is_relative_to(root):
        path = path.resolve()  # ``store.directory`` is resolved
    where = path.relative_to(root) if path.is_relative_to(root) else path
    row = (run_id, where.as_posix(), result.weights_sha256, result.best_epoch)
    with store.transaction() as connection:
        columns = ("run_id", "path", "weights_sha256", "best_epoch")
        insert_rows(connection, "checkpoint", columns, [row], on_conflict="replace")
        insert_rows(
            connection,
            "train_log",
            ("run_id", *_LOG_COLUMNS),
            [_log_row(run_id, epoch) for epoch in result.epochs],
            on_conflict="replace",
        )


def save_training_sentences(store: Store, run_id: str, corpus_run_id: str, positions: Sequence[int]) -> None:
    """Store which sentences of a stored corpus a model is trained on; they replace earlier ones."""
    columns = ("run_id", "position", "corpus_run_id")
    rows = [(run_id, position, corpus_run_id) for position in positions]
    with store.transaction() as connection:
        replace_run(connection, "training_sentence", columns, run_id, rows)


def find_checkpoint(store: Store, run_id: str) -> Checkpoint | None:
    """None when the run has no checkpoint."""
    with store.reading() as connection:
        row = connection.execute(
            "SELECT path, weights_sha256, best_epoch FROM checkpoint WHERE run_id = ?", [run_id]
        ).fetchone()
    return None if row is None else Checkpoint(*row)


def load_checkpoint(store: Store, run_id: str) -> Checkpoint:
    """StoreError when the run has no checkpoint."""
    checkpoint = find_checkpoint(store, run_id)
    if checkpoint is None:
        raise StoreError(f"Run {run_id} has no checkpoint in {store.path}.")
    return checkpoint


def checkpoint_directory(store: Store, checkpoint: Checkpoint) -> Path:
    """The folder with the checkpoint's files, inside the store's folder.

    Raises StoreError for any other folder: a store that somebody sent could name weights anywhere on this machine. A
    link to another disk in place of the folder ``checkpoints`` is followed.
    """
    root = store.directory
    path = Path(os.path.normpath(store.directory / checkpoint.path))
    if path.is_relative_to(root):
        return path
    linked = store.directory / "checkpoints" / path.name
    if linked.resolve() == path:  # how the path of a linked folder was stored before
        return linked
    raise StoreError(
        f"{store.path} names weights outside its folder, {checkpoint.path}: they are not used. "
        "Move them into the folder checkpoints beside the store, or train again."
    )


def save_epoch(store: Store, run_id: str, epoch: EpochLog) -> None:
    """Store one epoch's log; the same epoch again replaces it."""
    with store.transaction() as connection:
        columns = ("run_id", *_LOG_COLUMNS)
        insert_rows(connection, "train_log", columns, [_log_row(run_id, epoch)], on_conflict="replace")


def load_epochs(store: Store, run_id: str) -> tuple[EpochLog, ...]:
    """The logs of a training run in order; empty when there are none."""
    with store.reading() as connection:
        rows = connection.execute(
            f"SELECT {', '.join(_LOG_COLUMNS)} FROM train_log WHERE run_id = ? ORDER BY epoch",  # noqa: S608 our own
            [run_id],
        ).fetchall()
    return tuple(EpochLog(*row) for row in rows)


def _log_row(run_id: str, log: EpochLog) -> tuple[object, ...]:
    return (run_id, *(getattr(log, name) for name in _LOG_COLUMNS))
