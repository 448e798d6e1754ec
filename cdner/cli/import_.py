"""``cdner import``: CrossNER by checksum, or anyone's column files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from cdner.cli.import_file import import_file
from cdner.console.groups import CommandGroup
from cdner.console.output import format_options, print_rows
from cdner.console.progress import StderrProgress
from cdner.errors import InputError, UsageError
from cdner.types import Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdner.corpora.conll import ConllReader
    from cdner.store.corpora import CorpusSummary

COLUMNS = ("domain", "split", "n_sentences", "n_entities", "n_types", "n_repaired_tags", "run_id")
HEADINGS = ("domain", "split", "sentences", "entities", "types", "repaired", "run_id")
LAYOUT_COLUMNS = ("file", "sentences", "types", "token", "tag", "tags", "notes")
SPLITS = ("train", "dev", "test")


@click.group("import", cls=CommandGroup, for_paths="file")
def import_group() -> None:
    """Bring corpora into the store."""


@import_group.command("crossner")
@click.option("--domain", "domains", multiple=True, help="Only these (default: all five, and conll2003).")
@click.option(
    "--from",
    "folder",
    type=click.Path(exists=True, path_type=Path, file_okay=False),
    help="Read this folder; no download.",
)
@format_options
@click.pass_context
def crossner_command(
    ctx: click.Context, domains: tuple[str, ...], folder: Path | None, output_format: str | None
) -> None:
    """CrossNER (and its copy of CoNLL2003), from the pinned commit or a folder; every file's SHA-256 is checked."""
    from cdner.corpora import crossner
    from cdner.errors import unknown_name

    for domain in domains:
        if domain not in crossner.DOMAINS:
            raise unknown_name("CrossNER domain", domain, crossner.DOMAINS)
    _import_known(ctx, domains or crossner.DOMAINS, folder, output_format)


@import_group.command("demo")
@format_options
@click.pass_context
def demo_command(ctx: click.Context, output_format: str | None) -> None:
    """The two corpora that come with cdner: newsdesk (source) and film (target)."""
    from cdner.corpora import demo

    _import_known(ctx, tuple(demo.ROLES), None, output_format)


def _import_known(
    ctx: click.Context, domains: tuple[str, ...], folder: Path | None, output_format: str | None
) -> None:
    from cdner.experiment.own_corpora import import_known

    with StderrProgress(quiet=ctx.obj["quiet"]) as progress:
        rows = import_known(ctx.obj["store"], domains, folder=folder, progress=progress)
    _print_imported(rows, output_format)


@import_group.command("conll")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path, dir_okay=False)
)
@click.option("--domain", required=True, help="Name of the domain the corpus belongs to.")
@click.option(
    "--split", type=click.Choice(SPLITS), help="Split of FILES.  [default: from names like train.txt]"
)
@click.option(
    "--role",
    type=click.Choice(("source", "target")),
    default="target",
    show_default=True,
    help="What the domain is for: learned from, or transferred to.",
)
@click.option(
    "--types", "labels", help="Label order, comma-separated (default: a types file, else as found)."
)
@click.option("--strict", is_flag=True, help="Refuse I- tags without a start instead of repairing them.")
@click.option(
    "--token-column", type=click.IntRange(min=1), help="Column of the token, from 1.  [default: the first]"
)
@click.option(
    "--tag-column",
    type=click.IntRange(min=1),
    help="Column of the tag, from 1.  [default: the last; of nested tags, the outer ones]",
)
@click.option(
    "--comments/--no-comments",
    default=True,
    show_default=True,
    help="Leave out lines that begin with '# ' and have no tag.",
)
@click.option("--dry-run", is_flag=True, help="Show how the files are read, and store nothing.")
@format_options
@click.pass_context
def conll_command(
    ctx: click.Context,
    files: tuple[Path, ...],
    domain: str,
    split: str | None,
    role: str,
    labels: str | None,
    output_format: str | None,
    token_column: int | None,
    tag_column: int | None,
    *,
    strict: bool,
    comments: bool,
    dry_run: bool,
) -> None:
    """Column files: token and tag (BIO, IOB1, BIOES, BILOU, BMES or bare types; tab or spaces), and CoNLL-U."""
    from cdner.corpora.conll import Columns, ConllReader
    from cdner.experiment.own_corpora import import_files

    columns = Columns(
        None if token_column is None else token_column - 1,
        None if tag_column is None else tag_column - 1,
        comments,
    )
    if dry_run:
        _print_layouts(files, ConllReader(columns), output_format)
        return

    by_split: dict[Split, list[Path]] = {}
    for file in files:
        by_split.setdefault(cast(Split, split or _split_of(file)), []).append(file)
    with StderrProgress(quiet=ctx.obj["quiet"]) as progress:
        rows = import_files(
            ctx.obj["store"],
            by_split,
            domain=domain,
            role="source" if role == "source" else "target",
            labels=tuple(label.strip() for label in labels.split(",")) if labels else (),
            strict=strict,
            progress=progress,
            columns=columns,
        )
    if not rows:
        raise InputError("No sentence was imported.")
    _print_imported(rows, output_format)


def _print_layouts(files: Sequence[Path], reader: ConllReader, output_format: str | None) -> None:
    rows = []
    for file in files:
        found = reader.survey(file)
        layout = found.layout.shown()
        rows.append(
            (
                *(
                    str(file),
                    found.n_sentences,
                    len(found.types),
                    layout["token"],
                    layout["tag"],
                    layout["tags"],
                ),
                "; ".join(found.notes()),
            )
        )
    print_rows(LAYOUT_COLUMNS, rows, output_format)


def _print_imported(imported: Sequence[CorpusSummary], output_format: str | None) -> None:
    rows = [tuple(getattr(row, name) for name in COLUMNS) for row in imported]
    print_rows(COLUMNS if output_format else HEADINGS, rows, output_format)


def _split_of(file: Path) -> str:
    if file.stem in SPLITS:
        return file.stem
    raise UsageError(f"{file}: which split is it? Name it with --split, or the file train, dev or test.")


import_group.add_command(import_file)

COMMANDS = {"import": import_group}
