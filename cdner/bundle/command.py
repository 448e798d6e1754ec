"""``cdner bundle``: what an LLM wrote, in one file for a machine without that LLM."""

from __future__ import annotations

from pathlib import Path

import click

from cdner.console.groups import CommandGroup
from cdner.console.named_runs import experiment_name
from cdner.console.output import format_options, print_rows, visible

_NEW_FILE = click.Path(path_type=Path, dir_okay=False)
_OLD_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.group("bundle", cls=CommandGroup)
def bundle_group() -> None:
    """Pack what an LLM wrote into one file, verify it, load it elsewhere."""


@bundle_group.command("pack")
@click.argument("file", type=_NEW_FILE)
@click.option(
    "--experiment",
    "-e",
    "experiments",
    multiple=True,
    help="Only this experiment (name in the store, or file); several are packed together.  [default: all]",
)
@click.option("--with-corpus", is_flag=True, help="Sentences and annotations too: mind the corpus's licence.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@format_options
@click.pass_context
def pack(
    ctx: click.Context,
    file: Path,
    experiments: tuple[str, ...],
    output_format: str | None,
    *,
    with_corpus: bool,
    force: bool,
) -> None:
    """Write requests, completions, prompts, descriptions, reasoning and settings to FILE; never a key.

    Without --with-corpus no sentence is in the file but what the LLM itself quotes.
    """
    from cdner.bundle.contents import pack_bundle
    from cdner.store import Store

    manifest = pack_bundle(
        Store(ctx.obj["store"]),
        file,
        experiments=[experiment_name(name) for name in experiments],
        with_corpus=with_corpus,
        force=force,
    )
    rows = [(table, part.rows, part.sha256) for table, part in manifest.parts.items()]
    print_rows(("part", "rows", "sha256"), rows, output_format)


@bundle_group.command("verify")
@click.argument("file", type=_OLD_FILE)
@click.pass_context
def verify(ctx: click.Context, file: Path) -> None:
    """Check FILE's sums, re-hash every id, follow every reference; names the first part and row that is wrong."""
    from cdner.bundle.contents import verify_bundle
    from cdner.store import Store

    verified = verify_bundle(Store(ctx.obj["store"]), file)
    n_rows = sum(part.rows for part in verified.manifest.parts.values())
    click.echo(
        f"{visible(str(file))}: {len(verified.manifest.parts)} parts, {n_rows} rows, no problem found."
    )
    if verified.n_requests_unhashed:
        click.echo(
            visible(
                f"{verified.n_requests_unhashed} requests were not re-hashed: {ctx.obj['store']} lacks the sentences "
                "they quote. Their rows have the sums of the manifest."
            ),
            err=True,
        )


@bundle_group.command("load")
@click.argument("file", type=_OLD_FILE)
@format_options
@click.pass_context
def load(ctx: click.Context, file: Path, output_format: str | None) -> None:
    """Verify FILE and add it to the store, all or nothing; what is there already stays and must be equal.

    Import the corpora first, unless they were packed. Then cdner run EXPERIMENT --backend replay asks no LLM.
    """
    from cdner.bundle.contents import load_bundle
    from cdner.store import Store

    def tell(line: str) -> None:
        click.echo(visible(line), err=True)

    manifest, n_added = load_bundle(Store(ctx.obj["store"]), file, tell=tell)
    rows = [(table, part.rows, n_added[table]) for table, part in manifest.parts.items()]
    print_rows(("part", "rows", "new_rows"), rows, output_format)


COMMANDS = {"bundle": bundle_group}
