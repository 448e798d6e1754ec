"""``cdner export``: predictions for other tools."""

from __future__ import annotations

from pathlib import Path

import click

from cdner.console.named_runs import experiment_name
from cdner.console.output import visible

FORMATS = ("conll", "jsonl", "spacy", "labelstudio", "datasets")


@click.command("export")
@click.argument("predictions")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--to",
    type=click.Choice(FORMATS),
    required=True,
    help="conll: token, gold and predicted BIO tag, never scores. jsonl: tokens, text, entities with token and "
    "character offsets. "
    "spacy: DocBin, gold as ents, predicted as spans. labelstudio: tasks with predictions; prints the interface they "
    "need. datasets: a folder for load_dataset.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.pass_context
def export(ctx: click.Context, predictions: str, file: Path, to: str, *, force: bool) -> None:
    """Write the gold and predicted entities of PREDICTIONS to FILE: a run id or EXPERIMENT:SETTING/SPLIT.

    A unique beginning of the id suffices; an evaluate run stands for the predictions it scored. Works for what the
    LLM alone extracted too (setting llm_only). Where the model says how sure it is of a type (predict.confidence), its
    probability and the most probable other type come along, in every format but conll.
    """
    from cdner.export import exporting
    from cdner.formats.label_studio import labelling_interface
    from cdner.store import Store
    from cdner.store.find import find_prediction_run

    store = Store(ctx.obj["store"])
    experiment, colon, label = predictions.rpartition(":")
    name = f"{experiment_name(experiment)}:{label}" if colon else predictions
    run_id = find_prediction_run(store, name)
    exported = exporting.load_exported(store, run_id, model=name if colon else run_id)
    exporting.export(exported, file, to=to, force=force)
    if to == "labelstudio":
        click.echo(visible(labelling_interface(exported.types)), nl=False)
    if not ctx.obj["quiet"]:
        what = f"{file}: {len(exported.gold)} sentences of {exported.domain}/{exported.split}"
        click.echo(visible(what), err=True)


COMMANDS = {"export": export}
