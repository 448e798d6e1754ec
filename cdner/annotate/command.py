"""``cdner annotate``: the sentences of a file, many of them, through a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cdner.config import Execution
from cdner.console.experiment_options import compose_experiment
from cdner.console.output import format_options, print_rows
from cdner.console.progress import StderrProgress
from cdner.errors import InputError, UsageError

ENGINES = ("local", "ray")
COLUMNS = ("output", "blocks", "found", "sentences", "bad_rows", "seconds")


@click.command("annotate")
@click.argument("input_file", metavar="INPUT", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUTPUT", type=click.Path(path_type=Path))
@click.option(
    "--run",
    required=True,
    help="Whose model: EXPERIMENT:SETTING, EXPERIMENT:SETTING/SPLIT, or a beginning of a train, predict or fuse run's "
    "id.",
)
@click.option(
    "--column", help="Where the sentence stands: a text, or a list of tokens.  [default: tokens, else text]"
)
@click.option(
    "--block-size",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Rows a file of OUTPUT; a kill loses at most these, by worker.",
)
@click.option(
    "--on-bad-row",
    type=click.Choice(("stop", "skip")),
    default="stop",
    show_default=True,
    help="A row without a sentence: begin nothing, or leave it out and count it.",
)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="local",
    show_default=True,
    help="local: this process. ray: actors on Ray Data, on this machine or a cluster; the same files either way.",
)
@click.option("--ray-address", help="A Ray cluster that runs: HOST:PORT or auto.  [default: one of its own]")
@click.option(
    "--actors", type=click.IntRange(min=1), help="ray: models loaded at once.  [default: one a CPU or GPU]"
)
@click.option("--actor-gpus", type=click.FloatRange(min=0), default=0.0, help="ray: GPUs of each actor.")
@click.option("--backend", help="LLM backend for reasoning texts and verdicts.  [default: the run's]")
@click.option("--model", help="LLM model.  [default: the run's]")
@click.option(
    "--base-url", multiple=True, help="OpenAI-compatible server of the LLM; several share the work."
)
@click.option(
    "--encoder",
    metavar="FOLDER",
    help="Of a fused setting: what finds the nearest labelled mentions, where the store knows it by checksum alone.",
)
@click.option("--concurrency", type=int, help="LLM requests at once, of each worker.")
@click.option(
    "--confidence",
    is_flag=True,
    help="Also how sure the model is of each entity's type: score and runner_up.  [default: as in the run; always "
    "with a fused setting]",
)
@click.option("--device", help="auto, cpu, cuda, cuda:1 ...")
@click.option("--batch-size", type=int, help="Prediction batch size.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="How it is carried out, e.g. execution.timeout_seconds=600.",
)
@format_options
@click.pass_context
def annotate(
    ctx: click.Context,
    /,
    input_file: Path,
    output: Path,
    run: str,
    column: str | None,
    block_size: int,
    on_bad_row: str,
    engine: str,
    confidence: bool,
    overrides: tuple[str, ...],
    output_format: str | None,
    **options: Any,
) -> None:
    """Annotate the sentences of INPUT (JSON Lines or Parquet) and write them, all their columns kept, to OUTPUT.

    INPUT may also be a text (.txt), a folder of texts, a table (.csv, .tsv; --column names the sentence) or "-", which
    reads standard input: JSON Lines, or a text. Texts are cut into sentences by NLTK's Punkt.

    OUTPUT is a folder with one file a block of rows, Parquet or JSON Lines by its ending (rows.parquet), else as INPUT.
    Each file appears whole; the same command goes on after a kill and does no block twice. Added columns: tokens,
    predicted (entities with token and character offsets), generated, n_malformed, and the reasoning where the model has
    one. With --confidence each entity also has its score, the probability of its type among all types, and its
    runner_up, the most probable other type. What is used, and whether the folder is complete, stands in _manifest.json.

    A fused setting (EXPERIMENT:fused) asks the LLM of the run about every predicted mention, with the nearest labelled
    mentions of the run's train corpus, and decides the types with the run's weights; score is the fused probability.
    """
    from cdner.annotate.driver import annotate as annotate_all
    from cdner.annotate.method import load_method
    from cdner.annotate.plain_input import as_rows
    from cdner.annotate.source import open_source
    from cdner.annotate.worker import Workers
    from cdner.store import Store
    from cdner.store.find import find_model_run

    workers = Workers(options.pop("actors") or 0, options.pop("ray_address") or "", options.pop("actor_gpus"))
    if engine == "local" and workers != Workers():
        raise UsageError("--ray-address, --actors and --actor-gpus are for --engine ray.")
    store = Store(ctx.obj["store"])
    if not store.path.exists():
        raise InputError(f"There is no store at {store.path}. Make a model first: cdner run EXPERIMENT.")
    encoder = options.pop("encoder")
    llm = {name: given for name in ("backend", "model") if (given := options.pop(name)) is not None}
    source = open_source(as_rows(input_file, output), column, skips_bad_rows=on_bad_row == "skip")
    quiet: bool = ctx.obj["quiet"]
    with StderrProgress(quiet=quiet) as progress:
        execution = _execution(options, overrides)
        method = load_method(
            *(store, find_model_run(store, run), execution),
            llm=llm,
            confidence=confidence,
            encoder=encoder,
            progress=progress,
        )
        done = annotate_all(
            *(source, output, method),
            progress=progress,
            engine=engine,
            workers=workers,
            block_size=block_size,
        )
    row = (str(done.output), done.n_blocks, done.n_found, done.n_sentences, done.n_bad_rows)
    print_rows(COLUMNS, [(*row, round(done.seconds, 2))], output_format)
    for told in done.bad_rows if not quiet else ():
        click.echo(f"Left out: {told}", err=True)


def _execution(flags: dict[str, Any], overrides: tuple[str, ...]) -> Execution:
    """How it is carried out. UsageError for settings that are the model's, and for ways nobody annotates in."""
    for override in overrides:
        if not override.startswith("execution."):
            raise UsageError(
                f"--set {override}: what the model was made with is fixed; only execution.* is free."
            )
    execution = compose_experiment(None, flags, overrides).execution
    if execution.batch or execution.replay:
        raise UsageError(
            "Annotating asks an LLM directly: execution.batch and execution.replay do not apply."
        )
    return execution


COMMANDS = {"annotate": annotate}
