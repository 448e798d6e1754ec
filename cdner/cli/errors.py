"""``cdner errors``: what a prediction run got wrong, one row an entity."""

from __future__ import annotations

import click

from cdner.cli.output import format_options, print_rows

# kind -> (view, columns)
_VIEWS = {
    "type": ("type_error", "position, gold_type, predicted_type, mention, sentence_text"),
    "missed": ("missed_entity", "position, gold_type, mention, sentence_text"),
    "spurious": ("spurious_entity", "position, predicted_type, mention, sentence_text"),
    "boundary": (
        "boundary_error",
        "position, gold_type, gold_mention, predicted_type, predicted_mention, sentence_text",
    ),
}


@click.command("errors")
@click.argument("run_id")
@click.option("--kind", type=click.Choice(tuple(_VIEWS)), default="type", show_default=True)
@click.option("--gold", help="Only entities of this gold type.")
@click.option("--predicted", help="Only entities predicted as this type.")
@click.option("--limit", type=int, default=50, show_default=True)
@format_options
@click.pass_context
def errors(
    ctx: click.Context,
    run_id: str,
    kind: str,
    gold: str | None,
    predicted: str | None,
    limit: int,
    output_format: str | None,
) -> None:
    """Errors of the prediction run RUN_ID: wrong type on the right span, missed, spurious, wrong boundary."""
    from cdner.store import Store
    from cdner.store.errors import list_errors

    columns, rows = list_errors(
        Store(ctx.obj["store"]), run_id, kind=kind, gold=gold, predicted=predicted, limit=limit
    )
    print_rows(columns, rows, output_format)


COMMANDS = {"errors": errors}
