"""``cdner errors``: what a prediction run got wrong, one row an entity."""

from __future__ import annotations

from typing import get_args

import click

from cdner.config import Setting
from cdner.console.named_runs import experiment_name
from cdner.console.output import format_options, print_rows
from cdner.errors import UsageError, unknown_name

KINDS = ("type", "missed", "spurious", "boundary")


@click.command("errors")
@click.argument("run_id", required=False)
@click.option("--experiment", "-e", help="Instead of RUN_ID: an experiment in the store, or its file.")
@click.option(
    "--setting",
    type=click.Choice(get_args(Setting)),
    metavar="SETTING",
    default="full",
    show_default=True,
    help="Which setting of the experiment.",
)
@click.option(
    "--split",
    type=click.Choice(("dev", "test")),
    default="test",
    show_default=True,
    help="Which split of the experiment.",
)
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="type",
    show_default=True,
    help="Wrong type on the right span, missed (nothing on the exact span), spurious, or wrong boundary.",
)
@click.option("--gold", help="Only entities of this gold type.")
@click.option("--predicted", help="Only entities predicted as this type.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Rows printed at most."
)
@format_options
@click.pass_context
def errors(
    ctx: click.Context,
    run_id: str | None,
    experiment: str | None,
    setting: str,
    split: str,
    kind: str,
    gold: str | None,
    predicted: str | None,
    limit: int,
    output_format: str | None,
) -> None:
    """Errors of the prediction run RUN_ID (a unique beginning suffices), or of --experiment, in text order.

    The same with more filters: cdner sql @pair_errors, @missed, @spurious, @boundaries.
    """
    from cdner.store import Store
    from cdner.store.find import find_prediction_run, predictable_types
    from cdner.store.scores import list_errors

    if (run_id is None) == (experiment is None):
        raise UsageError("Name one predict run: RUN_ID (see 'cdner runs --step predict') or --experiment.")
    store = Store(ctx.obj["store"])
    run_id = find_prediction_run(store, run_id or f"{experiment_name(experiment or '')}:{setting}/{split}")
    types = predictable_types(store, run_id)
    for name in (gold, predicted):
        if name is not None and name not in types:
            raise unknown_name("type", name, types)
    columns, rows = list_errors(store, run_id, kind=kind, gold=gold, predicted=predicted, limit=limit + 1)
    print_rows(columns, rows[:limit], output_format)
    if len(rows) > limit:
        click.echo(f"The first {limit}; there are more: --limit N.", err=True)


COMMANDS = {"errors": errors}
