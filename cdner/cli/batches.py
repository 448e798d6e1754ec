"""What a user may do about batches beside waiting for them: ask for their status, cancel them.

Sending and fetching is the openai backend's, with the ledger it is handed. A server's errors leave as BackendError.

``cdner batches``: what was handed to OpenAI's Batch API, and giving it up. Fetching is done by the verbs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC

import click

from cdner.config import Execution
from cdner.console.groups import CommandGroup
from cdner.console.output import format_options, no_format_before, print_rows, visible
from cdner.errors import BackendError, UsageError
from cdner.llm.batch import ENDED, BatchServer, UnreachableError, open_server
from cdner.store import Store
from cdner.store import batches as stored
from cdner.store.batches import BatchSummary

UNKNOWN = "unknown to the server"


def refresh_statuses(store: Store, execution: Execution) -> None:
    """Ask the server for the status of its batches that have not ended."""
    with _opened(execution) as server:
        for batch in stored.list_batches(store):
            if batch.status in ENDED or batch.server_hash != server.identity or not batch.is_named:
                continue
            stored.record_status(store, batch.submission_id, server.look(batch.batch_id).status)


def cancel_batch(store: Store, batch: BatchSummary, execution: Execution) -> str:
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


COLUMNS = (
    *("batch_id", "status", "model", "round", "n_requests", "n_answered", "n_failed"),
    *("created_utc", "updated_utc"),
)
_base_url = click.option(
    "--base-url", help="The server they are at.  [default: OPENAI_BASE_URL, or OpenAI itself]"
)


@click.group("batches", cls=CommandGroup, invoke_without_command=True)
@click.option("--refresh", is_flag=True, help="First ask the server for the status of those that go on.")
@_base_url
@format_options
@click.pass_context
def batches(ctx: click.Context, base_url: str | None, output_format: str | None, *, refresh: bool) -> None:
    """List batches, the latest first, with the status last seen. To fetch the answers of one, run the command again
    that asked for them.
    """
    no_format_before(ctx, output_format)
    if ctx.invoked_subcommand is not None:
        return
    from cdner.store import Store
    from cdner.store.batches import list_batches

    store = Store(ctx.obj["store"])
    if refresh:
        refresh_statuses(store, _execution(base_url))
    rows = [tuple(getattr(batch, name) for name in COLUMNS) for batch in list_batches(store)]
    print_rows(COLUMNS, rows, output_format)


@batches.command("cancel")
@click.argument("batch_id")
@_base_url
@click.option("--yes", is_flag=True, help="Really: what is answered by then is paid for, and can be fetched.")
@click.pass_context
def cancel(ctx: click.Context, batch_id: str, base_url: str | None, *, yes: bool) -> None:
    """Cancel BATCH_ID (a unique beginning suffices), and forget it if the server knows no such batch."""
    from cdner.store import Store
    from cdner.store.batches import find_batch

    store = Store(ctx.obj["store"])
    batch = find_batch(store, batch_id)
    if not yes:
        raise UsageError(
            f"This cancels {batch.batch_id} ({batch.status}, {batch.n_requests} requests) for good: add --yes."
        )
    click.echo(visible(f"{batch.batch_id}: {cancel_batch(store, batch, _execution(base_url))}"))


def _execution(base_url: str | None) -> Execution:
    return Execution(base_urls=(base_url,) if base_url else ())


COMMANDS = {"batches": batches}
