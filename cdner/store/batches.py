"""The ledger of batches: what was handed to a Batch API, so that no process waits for, or pays for, the same twice.

A request of a batch is settled by its completion or by a failure; no third mark says that an answer was fetched, so
none can be lost between the two. Knows no server: it is told what the server said.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from cdner.errors import UsageError
from cdner.store.connection import Store
from cdner.store.llm_log import request_id
from cdner.store.migrations import utc_now
from cdner.store.rows import insert_rows, passing_by
from cdner.store.runs import is_alive, this_process
from cdner.types import ReasoningRequest

ANNOUNCED = "announced"
_COLUMNS = (
    *("submission_id", "backend_family", "model", "server_hash", "round", "status", "cancel_asked"),
    *("host", "pid", "process_start", "created_utc", "updated_utc"),
)


@dataclass(frozen=True, slots=True)
class Submission:
    submission_id: str
    batch_id: str | None  # None: it is not known whether the server has it
    names: frozenset[str]  # request ids, those asked about
    round: int
    cancel_asked: bool
    in_other_hands: bool  # another living process is handing it over just now
    created_utc: datetime


@dataclass(frozen=True, slots=True)
class BatchSummary:
    batch_id: str  # the submission's id while the server has given none
    is_named: bool  # whether the server has given one
    status: str
    backend_family: str
    model: str
    round: int
    n_requests: int
    n_answered: int
    n_failed: int
    created_utc: datetime
    updated_utc: datetime
    submission_id: str
    server_hash: str
    cancel_asked: bool


@dataclass(frozen=True, slots=True)
class BatchLedger:
    """The batches of one LLM: ``family`` and ``model`` as in its requests' identities."""

    store: Store
    family: str
    model: str

    def name(self, request: ReasoningRequest) -> str:
        """The request's id in the store, which any process gives it."""
        return request_id(self.family, self.model, request)

    def unsettled(self, names: Collection[str], *, server: str) -> list[Submission]:
        """Batches at this server that may answer some of these requests, the latest first."""
        with self.store.reading() as connection:
            rows = connection.execute(
                """
                SELECT submission_id, batch_id, list(request_id), round, cancel_asked,
                       host, pid, process_start, created_utc
                FROM batch JOIN batch_request USING (submission_id)
                WHERE server_hash = ? AND failure IS NULL AND request_id IN (SELECT unnest(?))
                GROUP BY ALL ORDER BY created_utc DESC, submission_id
                """,
                [server, list(names)],
            ).fetchall()
        own = this_process()
        return [
            Submission(
                submission_id=row[0],
                batch_id=row[1],
                names=frozenset(row[2]),
                round=row[3],
                cancel_asked=row[4],
                in_other_hands=row[1] is None
                and row[5:8] != (own.host, own.pid, own.start)
                and is_alive(*row[5:8]),
                created_utc=row[8],
            )
            for row in rows
        ]

    def unfetched(self) -> list[str]:
        """Ids of batches that may hold answers nobody has stored, the latest first; cancelled ones left out."""
        if not self.store.path.exists():
            return []
        return [
            batch.batch_id
            for batch in list_batches(self.store)
            if (batch.backend_family, batch.model) == (self.family, self.model)
            and batch.n_requests > batch.n_answered + batch.n_failed
            and not batch.cancel_asked
        ]

    def announce(self, names: Collection[str], *, server: str, round_n: int) -> Submission:
        """Say what is about to be handed over, before it is."""
        now, process = utc_now(), this_process()
        name = uuid.uuid4().hex
        values = (
            *(name, self.family, self.model, server, round_n, ANNOUNCED, False),
            *(process.host, process.pid, process.start, now, now),
        )
        with self.store.transaction() as connection:
            insert_rows(connection, "batch", _COLUMNS, [values])
            columns = ("submission_id", "request_id")
            insert_rows(connection, "batch_request", columns, [(name, request) for request in names])
        return Submission(
            name,
            None,
            frozenset(names),
            round=round_n,
            cancel_asked=False,
            in_other_hands=False,
            created_utc=now,
        )

    def withdraw(self, submission_id: str) -> None:
        """Forget what the server never got."""
        with self.store.transaction() as connection:
            for table in ("batch_request", "batch"):
                connection.execute(f"DELETE FROM {table} WHERE submission_id = ?", [submission_id])  # noqa: S608

    def record(self, submission_id: str, *, batch_id: str, input_file_id: str, status: str) -> None:
        """What the server says of it."""
        record_status(self.store, submission_id, status, batch_id=batch_id, input_file_id=input_file_id)

    def settle(self, submission_id: str, failures: Mapping[str, str]) -> None:
        """These requests (request id -> why) have no answer in this batch: they may be sent again."""
        _settle(self.store, submission_id, failures)

    def cancel_asked(self, submission_id: str) -> bool:
        """Whether somebody has used ``cdner batches cancel`` on it."""
        with self.store.reading() as connection:
            row = connection.execute(
                "SELECT cancel_asked FROM batch WHERE submission_id = ?", [submission_id]
            ).fetchone()
        return bool(row and row[0])


def record_status(
    store: Store,
    submission_id: str,
    status: str,
    *,
    batch_id: str | None = None,
    input_file_id: str | None = None,
    cancel_asked: bool = False,
) -> None:
    """Keep what the server says of a batch; ids once known and ``cancel_asked`` once true stay."""
    with store.transaction() as connection:
        connection.execute(
            """
            UPDATE batch SET status = $status, updated_utc = $now, batch_id = coalesce($batch_id, batch_id),
                   input_file_id = coalesce($file_id, input_file_id), cancel_asked = cancel_asked OR $asked
            WHERE submission_id = $name
            """,
            {
                "status": status,
                "now": utc_now(),
                "batch_id": batch_id,
                "file_id": input_file_id,
                "asked": cancel_asked,
                "name": submission_id,
            },
        )


def give_up(store: Store, submission_id: str, *, reason: str) -> None:
    """Expect no more answers of a batch that the server does not know."""
    with store.reading() as connection:
        rows = connection.execute(
            "SELECT request_id FROM batch_request WHERE submission_id = ? AND failure IS NULL",
            [submission_id],
        ).fetchall()
    _settle(store, submission_id, {name: reason for (name,) in rows})


def list_batches(store: Store) -> list[BatchSummary]:
    """All batches, the latest first, with the status last seen."""
    with store.reading() as connection:
        (n_requests,) = connection.execute("SELECT count(*) FROM batch_request").fetchone() or (0,)
        with passing_by(connection, n_requests):
            rows = connection.execute(
                """
                WITH answered AS (SELECT DISTINCT request_id FROM completion SEMI JOIN batch_request USING (request_id))
                SELECT coalesce(batch_id, submission_id), batch_id IS NOT NULL, status, backend_family, model,
                       round, count(*), count(answered.request_id), count(failure), created_utc, updated_utc,
                       submission_id, server_hash, cancel_asked
                FROM batch JOIN batch_request USING (submission_id)
                LEFT JOIN answered ON answered.request_id = batch_request.request_id
                GROUP BY ALL ORDER BY created_utc DESC, submission_id
                """
            ).fetchall()
    return [BatchSummary(*row) for row in rows]


def find_batch(store: Store, beginning: str) -> BatchSummary:
    """The one batch whose id begins so. UsageError for none and for several."""
    found = [batch for batch in list_batches(store) if batch.batch_id.startswith(beginning)]
    exact = [batch for batch in found if batch.batch_id == beginning]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if found:
        raise UsageError(f"{len(found)} batches begin with '{beginning}'. Give more of the id.")
    raise UsageError(f"No batch begins with '{beginning}'. 'cdner batches' lists them.")


def _settle(store: Store, submission_id: str, failures: Mapping[str, str]) -> None:
    if not failures:
        return
    rows = [(submission_id, name, reason) for name, reason in failures.items()]
    with store.transaction() as connection:
        columns = ("submission_id", "request_id", "failure")
        insert_rows(connection, "batch_request", columns, rows, on_conflict="replace")
