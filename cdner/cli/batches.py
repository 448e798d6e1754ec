"""``cdner batches``: what was handed to OpenAI's Batch API, and giving it up. Fetching is done by the verbs."""

from __future__ import annotations

import click

from cdner.cli.groups import CommandGroup
from cdner.cli.output import format_options, no_format_before, print_rows
from cdner.config import Execution
from cdner.errors import UsageError

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
        from cdner.pipeline.batches import refresh as ask_server

        ask_server(store, _execution(base_url))
    rows = [tuple(getattr(batch, name) for name in COLUMNS) for batch in list_batches(store)]
    print_rows(COLUMNS, rows, output_format)


@batches.command("cancel")
@click.argument("batch_id")
@_base_url
@click.option("--yes", is_flag=True, help="Really: what is answered by then is paid for, and can be fetched.")
@click.pass_context
def cancel(ctx: click.Context, batch_id: str, base_url: str | None, *, yes: bool) -> None:
    """Cancel BATCH_ID (a unique beginning suffices), and forget it if the server knows no such batch."""
    from cdner.pipeline.batches import cancel as ask_server
    from cdner.store import Store
    from cdner.store.batches import find_batch

    store = Store(ctx.obj["store"])
    batch = find_batch(store, batch_id)
    if not yes:
        raise UsageError(
            f"This cancels {batch.batch_id} ({batch.status}, {batch.n_requests} requests) for good: add --yes."
        )
    click.echo(f"{batch.batch_id}: {ask_server(store, batch, _execution(base_url))}")


def _execution(base_url: str | None) -> Execution:
    return Execution(base_urls=(base_url,) if base_url else ())


COMMANDS = {"batches": batches}
