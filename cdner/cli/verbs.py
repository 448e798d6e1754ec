"""The verbs that make runs. Each plans the whole experiment, keeps the steps it stands for and what these need,
executes what is not done yet, and prints the run ids of its own steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import click

from cdner.config import JUDGED_SETTINGS, REASONING_SETTINGS, Label, Setting, parts_of
from cdner.console.experiment_options import compose_experiment, experiment_option, experiment_options
from cdner.console.output import format_options, print_rows
from cdner.console.progress import StderrProgress
from cdner.console.usage import DRY_RUN_HELP, execute_and_account, print_plans
from cdner.errors import UsageError

RUN_COLUMNS = ("step", "run_id", "state", "seconds")


def _run_verb(
    ctx: click.Context,
    select: Callable[[Sequence[str]], Sequence[str]],
    *,
    options: dict[str, Any],
    settings: tuple[str, ...],
    output_format: str | None,
) -> None:
    """Plan, cut down to the selected labels, execute, and print the rows of those labels; or print the plan."""
    from cdner.experiment.execute import label_plan
    from cdner.experiment.plan import build_plan
    from cdner.experiment.preflight import check_plan
    from cdner.steps.context import open_context
    from cdner.steps.step import FROM_FILE

    quiet: bool = ctx.obj["quiet"]
    experiment = compose_experiment(options["experiment_name"], options, options["overrides"])
    experiment = experiment.model_copy(update={"settings": settings})
    if texts := options.get("texts"):
        update = {"backend": FROM_FILE, "model": str(texts)}
        experiment = experiment.model_copy(update={"reason": experiment.reason.model_copy(update=update)})
    with (
        StderrProgress(quiet=quiet) as progress,
        open_context(
            ctx.obj["store"], experiment, progress=progress, corpora_from=options["corpora_from"]
        ) as context,
    ):
        plan = build_plan(experiment, context)
        labels = select([step.label for step in plan.steps])
        if not labels:
            raise UsageError(f"The setting '{settings[0]}' has no such step on these splits.")
        plan, forced = plan.closure(labels), set(labels) if options["force"] else set()
        if options["dry_run"]:
            print_plans([(plan, context)], output_format)
            return
        check_plan(plan, context, force=forced)
        label_plan(plan, context, whole=False)
        outcomes = execute_and_account(plan, context, quiet=quiet, force=forced)
    rows = [(o.label, o.run_id, o.state, round(o.seconds, 2)) for o in outcomes if o.label in set(labels)]
    print_rows(RUN_COLUMNS, rows, output_format)


def _verb(name: str, text: str, *, setting: bool, split: bool) -> click.Command:
    kind = name
    choices = {"reason": REASONING_SETTINGS, "judge": JUDGED_SETTINGS}.get(name, get_args(Setting))
    usual = "fused" if name == "judge" else "full"

    @click.pass_context
    def run(ctx: click.Context, /, output_format: str | None, **options: Any) -> None:
        chosen: str = options.get("setting") or usual
        splits: tuple[str, ...] = options.get("split") or ()

        def select(labels: Sequence[str]) -> list[str]:
            mine = _labels_of(kind, labels, chosen if setting else None)
            return [label for label in mine if not splits or Label.of(label).split in splits]

        _run_verb(ctx, select, options=options, settings=(chosen,), output_format=output_format)

    command: Callable[..., Any] = run
    command = format_options(command)
    command = experiment_options(command)
    command = experiment_option(command)
    if split:
        known = ("train", "dev", "test") if name in ("reason", "judge") else ("dev", "test")
        command = click.option("--split", multiple=True, type=click.Choice(known), help="Only these splits.")(
            command
        )
    if name == "reason":
        command = click.option(
            "--from",
            "texts",
            type=click.Path(path_type=Path, dir_okay=False, exists=True),
            help="Ask no LLM: take the texts of this JSON Lines file.  [reason.backend = file, reason.model]",
        )(command)
    if setting:
        command = _setting_option(choices, default=usual)(command)
    command = click.option("--dry-run", is_flag=True, help=DRY_RUN_HELP)(command)
    command = click.option("--force", is_flag=True, help="Do it again and replace the outputs.")(command)
    return click.command(name, help=text)(command)


def _labels_of(kind: str, labels: Sequence[str], setting: str | None) -> list[str]:
    """The labels of the steps that a verb stands for; ``setting`` None: of all settings."""
    step = parts_of(setting).prediction_step if kind == "predict" and setting else kind
    mine = [label for label in labels if Label.of(label).kind == step]
    if setting is None:
        return mine
    named = parts_of(setting).judged or setting if kind == "judge" else setting
    return [label for label in mine if Label.of(label).subject == named]


def _setting_option(
    choices: Sequence[str], *, default: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The choices stand in the help's prose: together they are wider than a line."""
    return click.option(
        "--setting",
        type=click.Choice(choices),
        metavar="SETTING",
        default=default,
        show_default=True,
        help=f"One of {', '.join(choices)}.",
    )


COMMANDS: dict[str, click.Command] = {
    "describe": _verb(
        "describe",
        "Write the target types' descriptions: WordNet gloss C_s, enriched by the LLM to C_e (eq. 5).",
        setting=False,
        split=False,
    ),
    "train": _verb(
        "train",
        "Train the final model of one setting, and the source model it starts from.",
        setting=True,
        split=False,
    ),
    "quantify": _verb(
        "quantify",
        "Measure confusion between target types (MCQM, eq. 2-14). With the models' predictions stored, "
        "other --alpha, --beta, --w0, --delta or --rivals take seconds and no model.",
        setting=False,
        split=False,
    ),
    "reason": _verb(
        "reason",
        "Let an LLM write a two-stage reasoning text for every target sentence (PBRC).",
        setting=True,
        split=True,
    ),
    "judge": _verb(
        "judge",
        "Ask an LLM how probable each type is for every mention that a setting predicts (verdicts).",
        setting=True,
        split=True,
    ),
    "predict": _verb(
        "predict", "Predict entities with the final model of one setting.", setting=True, split=True
    ),
    "evaluate": _verb(
        "evaluate", "Score one setting's predictions and count its errors.", setting=True, split=True
    ),
}
