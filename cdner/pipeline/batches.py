"""What a user may do about batches beside waiting for them: ask for their status, cancel them.

Sending and fetching is the openai backend's, with the ledger it is handed. A server's errors leave as BackendError.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC

from cdner.backends.batch import ENDED, BatchServer, UnreachableError, open_server
from cdner.config import Execution
from cdner.errors import BackendError, UsageError
from cdner.store import Store
from cdner.store import batches as stored
from cdner.store.batches import BatchSummary

UNKNOWN = "unknown to the server"


def refresh(store: Store, execution: Execution) -> None:
    """Ask the server for the status of its batches that have not ended."""
    with _opened(execution) as server:
        for batch in stored.list_batches(store):
            if batch.status in ENDED or batch.server_hash != server.identity or not batch.is_named:
                continue
            stored.record_status(store, batch.submission_id, server.look(batch.batch_id).status)


def cancel(store: Store, batch: BatchSummary, execution: Execution) -> str:
    """Its status then. What the server does not know is given up: its requests may be sent again.

    UsageError where the batch is at another server.
    """
    with _opened(execution) as server:
        if batch.server_hash != server.identity:
            raise UsageError(f"{batch.batch_id} is at another server. Name it: --base-url URL.")
        stored.record_status(store, batch.submission_id, batch.status, cancel_asked=True)
        batch_id: str | None = batch.batch_id
        if not batch.is_named:  # announced, and nothing heard of since
            since = batch.created_utc.replace(tzinfo=UTC).timestamp()
            found = server.find(batch.submission_id, since=since)
            batch_id = found.id if found else None
        state = server.cancel(batch_id) if batch_id else None
        if state is None:
            stored.give_up(store, batch.submission_id, reason=UNKNOWN)
        status = state.status if state else UNKNOWN
        stored.record_status(store, batch.submission_id, status, batch_id=batch_id)
    return status


@contextmanager
def _opened(execution: Execution) -> Iterator[BatchServer]:
    with closing(open_server(execution)) as server:
        try:
            yield server
        except UnreachableError as error:
            raise BackendError(f"Cannot reach the server of the batches: {error}.") from error
