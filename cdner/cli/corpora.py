"""``cdner corpora``: what is in the store, and sentences with their entities."""

from __future__ import annotations

from typing import Any

import click

from cdner.cli.output import Cell, format_options, print_rows
from cdner.errors import InputError

COLUMNS = (
    "domain",
    "split",
    "role",
    "n_sentences",
    "n_empty_sentences",
    "n_entities",
    "n_types",
    "n_repaired_tags",
    "run_id",
)


@click.group("corpora", invoke_without_command=True)
@format_options
@click.pass_context
def corpora(ctx: click.Context, output_format: str | None) -> None:
    """List corpora; ``corpora show`` prints sentences."""
    if ctx.invoked_subcommand is None:
        from cdner.store import Store
        from cdner.store.corpora import list_corpora

        rows = [
            tuple(getattr(row, name) for name in COLUMNS) for row in list_corpora(Store(ctx.obj["store"]))
        ]
        print_rows(COLUMNS, rows, output_format)


@corpora.command("show")
@click.argument("domain")
@click.option("--split", type=click.Choice(("train", "dev", "test")), default="train", show_default=True)
@click.option("--type", "entity_type", help="Only sentences with an entity of this type.")
@click.option("--limit", type=int, default=10, show_default=True)
@format_options
@click.pass_context
def show(
    ctx: click.Context,
    domain: str,
    split: str,
    entity_type: str | None,
    limit: int,
    output_format: str | None,
) -> None:
    """Sentences of DOMAIN with their gold entities."""
    from cdner.store import Store
    from cdner.store import corpora as stored

    store = Store(ctx.obj["store"])
    run_id = stored.find_corpus_run(store, domain, split)
    if run_id is None:
        raise InputError(f"The store has no corpus {domain}/{split}. 'cdner corpora' lists what it has.")
    rows: list[tuple[Cell, ...]] = []
    for position, sentence in enumerate(stored.load_corpus(store, run_id).sentences):
        if len(rows) >= limit:
            break
        entities: list[dict[str, Any]] = [
            {"type": entity.type, "mention": " ".join(sentence.tokens[entity.start : entity.end])}
            for entity in sentence.entities
            if entity_type in (None, entity.type)
        ]
        if entities or entity_type is None:
            rows.append((position, sentence.text, entities))
    if output_format is None:
        rows = [
            (p, text, "; ".join(f"{e['type']}: {e['mention']}" for e in found)) for p, text, found in rows
        ]  # type: ignore[attr-defined]
    print_rows(("position", "text", "entities"), rows, output_format)


COMMANDS = {"corpora": corpora}
