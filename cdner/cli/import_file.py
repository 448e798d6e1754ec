"""``cdner import FILE``: files of annotation tools, with the format guessed or named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from cdner.console.output import format_options, print_rows
from cdner.console.progress import StderrProgress
from cdner.errors import UsageError
from cdner.registry import names
from cdner.types import Split

if TYPE_CHECKING:
    from cdner.experiment.annotated_corpora import Sentences
    from cdner.types import Sentence

SPLITS = ("train", "dev", "test")
COLUMNS = ("domain", "split", "n_sentences", "n_entities", "n_types", "run_id")


@click.command("file")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--domain", required=True, help="Name of the domain the sentences belong to.")
@click.option(
    "--format",
    "reader",
    help="Format of FILES: jsonl, labelstudio, spacy, brat, or one of a package.  [default: guessed]",
)
@click.option(
    "--split",
    help="train, dev or test; or shares such as 80/10/10, drawn by --seed.  [default: from names like train.jsonl]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of drawn splits.")
@click.option(
    "--misaligned",
    type=click.Choice(("split", "snap", "refuse")),
    default="split",
    show_default=True,
    help="A mark that ends inside a token: split the token, widen the mark, or refuse the file.",
)
@click.option("--whole", is_flag=True, help="Each document is one sentence.")
@click.option(
    "--role",
    type=click.Choice(("source", "target")),
    default="target",
    show_default=True,
    help="Role of the domain.",
)
@click.option("--types", "labels", help="Label order, comma-separated.  [default: as found]")
@click.option("--dry-run", is_flag=True, help="Read and count, store nothing.")
@format_options
@click.pass_context
def import_file(
    ctx: click.Context,
    /,
    files: tuple[Path, ...],
    output_format: str | None,
    **options: object,
) -> None:
    """Files of annotation tools: JSON Lines (doccano, Prodigy, LightTag), Label Studio, spaCy DocBin, brat."""
    from cdner.experiment.annotated_corpora import import_sentences

    with StderrProgress(quiet=ctx.obj["quiet"]) as progress:
        found = _splits(files, options)
        readings = {id(read): read for read, _, _ in found.values()}.values()  # drawn splits share one
        repairs = [line for read in readings for line in read.repairs.lines()]
        splits = {split: (sha256, sentences) for split, (_, sha256, sentences) in found.items()}
        if options["dry_run"]:
            for line in repairs:
                progress.warn(line)
            _print_counts(
                str(options["domain"]), {s: sentences for s, (_, sentences) in splits.items()}, output_format
            )
            return
        rows = import_sentences(
            ctx.obj["store"],
            splits,
            domain=str(options["domain"]),
            role="source" if options["role"] == "source" else "target",
            labels=tuple(part.strip() for part in str(options["labels"]).split(","))
            if options["labels"]
            else (),
            repairs=repairs,
            progress=progress,
        )
    print_rows(COLUMNS, [tuple(getattr(row, name) for name in COLUMNS) for row in rows], output_format)


def _splits(
    files: tuple[Path, ...], options: dict[str, object]
) -> dict[Split, tuple[Sentences, str, list[Sentence]]]:
    """Split -> what was read, its checksum, and its sentences."""
    from cdner.experiment.annotated_corpora import Reading, drawn_splits, read_sentences
    from cdner.files import content_hash

    given = str(options["split"]) if options["split"] else None
    reader = str(options["reader"]) if options["reader"] else _guessed(files)
    reading = Reading(reader, cast("str", options["misaligned"]), bool(options["whole"]))  # type: ignore[arg-type]
    if given and "/" in given:
        read = read_sentences(files, reading)
        try:
            shares = [int(part) for part in given.split("/")]
        except ValueError as error:
            raise UsageError(f"--split {given}: three whole numbers such as 80/10/10.") from error
        seed = cast(int, options["seed"])
        return {
            split: (read, content_hash([read.sha256, shares, seed, split]), sentences)
            for split, sentences in drawn_splits(read.sentences, shares, seed=seed).items()
        }
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(given or file.stem, []).append(file)
    if unknown := sorted(set(by_split) - set(SPLITS)):
        raise UsageError(
            f"Which split is '{unknown[0]}'? Use --split train, dev or test, or draw splits: --split 80/10/10."
        )
    found = {split: read_sentences(paths, reading) for split, paths in by_split.items()}
    return {cast(Split, split): (read, read.sha256, read.sentences) for split, read in found.items()}


def _guessed(files: tuple[Path, ...]) -> str:
    from cdner.formats.readers import guess_format

    guesses = {guess_format(file) for file in files}
    guess = guesses.pop()
    if guesses or guess is None:
        raise UsageError(
            f"{files[0]}: the format cannot be guessed. Use --format {', '.join(names('reader'))}; for column files: "
            "cdner import conll."
        )
    click.echo(f"Read as {guess} (--format to change).", err=True)
    return guess


def _print_counts(domain: str, splits: dict[Split, list[Sentence]], output_format: str | None) -> None:
    rows = [
        (
            *(domain, split, len(sentences), sum(len(sentence.entities) for sentence in sentences)),
            len({entity.type for sentence in sentences for entity in sentence.entities}),
        )
        for split, sentences in splits.items()
    ]
    print_rows(COLUMNS[:-1], rows, output_format)
