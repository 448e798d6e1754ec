"""``cdner corpora``: what is in the store, and sentences with their entities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cdner.console.groups import CommandGroup
from cdner.console.output import format_options, no_format_before, print_rows
from cdner.errors import InputError, unknown_name

if TYPE_CHECKING:
    from cdner.store import Store
    from cdner.types import Sentence

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
HEADINGS = ("domain", "split", "role", "sentences", "empty", "entities", "types", "repaired", "run_id")


@click.group("corpora", cls=CommandGroup, invoke_without_command=True)
@format_options
@click.pass_context
def corpora(ctx: click.Context, output_format: str | None) -> None:
    """List corpora; 'corpora show' prints sentences."""
    no_format_before(ctx, output_format)
    if ctx.invoked_subcommand is None:
        from cdner.store import Store
        from cdner.store.corpora import list_corpora

        found = list_corpora(Store(ctx.obj["store"]))
        rows = [tuple(getattr(row, name) for name in COLUMNS) for row in found]
        print_rows(COLUMNS if output_format else HEADINGS, rows, output_format)


@corpora.command("show")
@click.argument("domain")
@click.option(
    "--split",
    type=click.Choice(("train", "dev", "test")),
    default="train",
    show_default=True,
    help="Which split.",
)
@click.option("--type", "entity_type", help="Only sentences with an entity of this type.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=10, show_default=True, help="Sentences printed at most."
)
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
    from cdner.store.corpora import load_corpus, load_domain

    store = Store(ctx.obj["store"])
    run_id = _find(store, domain, split)
    types = load_domain(store, run_id).types
    if entity_type is not None and entity_type not in types:
        raise unknown_name(f"type of '{domain}'", entity_type, types)
    shown = [
        (position, sentence.text, _entities(sentence, entity_type))
        for position, sentence in enumerate(load_corpus(store, run_id).sentences)
        if entity_type is None or any(entity.type == entity_type for entity in sentence.entities)
    ]
    rows: list[tuple[object, ...]] = list(shown[:limit])
    if output_format is None:
        rows = [
            (position, text, "\n".join(f"{entity['type']}: {entity['mention']}" for entity in entities))
            for position, text, entities in shown[:limit]
        ]
    print_rows(("position", "text", "entities"), rows, output_format)
    if len(shown) > limit:
        click.echo(f"The first {limit} of {len(shown)} sentences; --limit N for more.", err=True)


def _find(store: Store, domain: str, split: str) -> str:
    """The import run; the error says whether the domain or only this split of it is missing."""
    from cdner.store.corpora import find_corpus_run, list_corpora

    run_id = find_corpus_run(store, domain, split)
    if run_id is not None:
        return run_id
    splits: dict[str, list[str]] = {}
    for row in list_corpora(store):
        splits.setdefault(row.domain, []).append(row.split)
    if domain not in splits:
        raise unknown_name("corpus in the store", domain, splits)
    raise InputError(
        f"The store has no finished import of {domain}/{split}, only {', '.join(splits[domain])}."
    )


def _entities(sentence: Sentence, entity_type: str | None) -> list[dict[str, object]]:
    return [
        {
            "type": entity.type,
            "mention": " ".join(sentence.tokens[entity.start : entity.end]),
            "start_token": entity.start,
            "end_token": entity.end,
        }
        for entity in sentence.entities
        if entity_type in (None, entity.type)
    ]


COMMANDS = {"corpora": corpora}
