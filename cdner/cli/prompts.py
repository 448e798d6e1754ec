"""``cdner prompts``: exactly what an LLM is asked, before and after it was asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdner.config import JUDGED_SETTINGS, REASONING_SETTINGS, Label, parts_of
from cdner.console.experiment_options import compose_experiment, experiment_option, experiment_options
from cdner.console.groups import CommandGroup
from cdner.console.output import format_options, json_text, print_rows, visible
from cdner.console.progress import StderrProgress
from cdner.errors import InputError, UsageError

if TYPE_CHECKING:
    from cdner.config import Experiment
    from cdner.steps.context import Context
    from cdner.steps.step import Step
    from cdner.types import ReasoningRequest


@click.group("prompts", cls=CommandGroup)
def prompts() -> None:
    """Show exactly what an LLM is asked."""


@prompts.command("list")
@format_options
def list_templates(output_format: str | None) -> None:
    """Templates, and the domains with type explanations."""
    from cdner.prompts import domain_names, load_template, template_names

    rows = [("template", name, load_template(name).hash) for name in template_names()]
    rows += [("domain", name, "") for name in domain_names()]
    print_rows(("kind", "name", "hash"), rows, output_format)


@prompts.command("render")
@experiment_option
@experiment_options
@click.option(
    "--setting",
    type=click.Choice((*REASONING_SETTINGS, *JUDGED_SETTINGS)),
    help="Which setting's prompt.  [default: full; fused with --what judge]",
)
@click.option(
    "--split",
    type=click.Choice(("train", "dev", "test")),
    default="test",
    show_default=True,
    help="Which split's sentence.",
)
@click.option(
    "--position", type=int, help="0-based place of the sentence.  [default: the first the experiment uses]"
)
@click.option(
    "--what",
    type=click.Choice(("reason", "describe", "extract", "judge")),
    default="reason",
    show_default=True,
    help="The reasoning on a sentence, its entities by the LLM alone, a type's description (--position: types), or the "
    "verdict on a mention predicted in a sentence (--mention).",
)
@click.option(
    "--mention",
    type=click.IntRange(min=0),
    help="With --what judge: 0-based number of the mention among those of the sentence.  [default: 0]",
)
@click.option("--json", "as_json", is_flag=True, help="The request as JSON.")
@click.pass_context
def render(
    ctx: click.Context,
    /,
    experiment_name: str | None,
    overrides: tuple[str, ...],
    corpora_from: Path | None,
    setting: str | None,
    split: str,
    position: int | None,
    what: str,
    mention: int | None,
    *,
    as_json: bool,
    **flags: Any,
) -> None:
    """Print the messages of one request, exactly as a backend gets them (--json: to the last character).

    A reasoning prompt needs the experiment's confusion: 'cdner quantify' with the same options; a verdict's needs the
    predictions: 'cdner judge' or 'cdner predict'.
    """
    from dataclasses import asdict

    experiment = compose_experiment(experiment_name, flags, overrides)
    setting = _setting(what, setting, split, mention)
    experiment = experiment.model_copy(update={"settings": (setting,), "splits": ("dev", "test")})
    requests = _requests(ctx.obj["store"], experiment, corpora_from, _label(what, setting, split), position)
    if (mention or 0) >= len(requests):
        raise UsageError(f"--mention {mention}: the sentence has {len(requests)}, from 0.")
    request = requests[mention or 0]
    if as_json:
        click.echo(json_text(asdict(request)))
        return
    for message in request.messages:
        click.echo(f"--- {message.role} ---")
        click.echo(visible(message.content))


def _setting(what: str, setting: str | None, split: str, mention: int | None) -> str:
    """UsageError for what is not asked about this setting or split."""
    if mention is not None and what != "judge":
        raise UsageError("--mention is for --what judge.")
    if split == "train" and (
        what == "extract" or (what == "judge" and not (setting and parts_of(setting).told))
    ):
        raise UsageError(f"--what {what}: the LLM is asked about dev and test.")
    if what == "extract":
        return "llm_only"
    usual = "fused" if what == "judge" else "full"
    known = JUDGED_SETTINGS if what == "judge" else REASONING_SETTINGS
    if setting is not None and setting not in known:
        raise UsageError(f"--what {what} has no setting '{setting}'. It has {', '.join(known)}.")
    return setting or usual


def _label(what: str, setting: str, split: str) -> str:
    if what == "describe":
        return "describe:target"
    named = parts_of(setting).judged if what == "judge" else setting
    return f"{what}:{named}/{split}"


def _requests(
    store: Path, experiment: Experiment, corpora_from: Path | None, label: str, position: int | None
) -> list[ReasoningRequest]:
    """Of the sentence at this position, the first one without: its request, or that of each mention in it.

    InputError when something the prompt is made of is not there yet.
    """
    from cdner.experiment.plan import build_plan
    from cdner.steps.context import open_context
    from cdner.steps.kinds import sentence_requests
    from cdner.steps.step import FROM_FILE

    section = experiment.describe if Label.of(label).kind == "describe" else experiment.reason
    if section.backend == FROM_FILE and Label.of(label).kind != "judge":
        raise UsageError(f"The texts of {label} come from a file: nobody was asked, so there is no prompt.")
    with (
        StderrProgress(quiet=True) as progress,
        open_context(store, experiment, progress=progress, corpora_from=corpora_from) as context,
    ):
        plan = build_plan(experiment, context)
        step = plan.by_label[label]
        states = {name: context.run_state(plan.by_label[name].spec.run_id) for name in step.inputs.values()}
        missing = [name for name, state in states.items() if state != "done"]
        if missing:
            made = "'cdner predict'" if step.kind == "judge" else "'cdner reason' or 'cdner quantify'"
            raise InputError(
                f"Not done yet: {', '.join(missing)}. Run {made} with the same "
                "options (corpora: 'cdner import')."
            )
        if step.kind == "judge":
            return _questions(step, context, position)
        positions, requests = sentence_requests(step, context)
        return [requests[_place(list(positions), position, label)]]


def _questions(step: Step, context: Context, position: int | None) -> list[ReasoningRequest]:
    """About each mention of one sentence."""
    from cdner.steps.judging import asked_mentions, questions_about

    positions = sorted({mention.position for mention in asked_mentions(step, context)})
    if not positions:
        raise UsageError(f"{step.label} asks nothing: no mention is predicted.")
    chosen = positions[_place(positions, position, step.label)]
    return list(questions_about(step, context, chosen).values())


def _place(positions: list[int], position: int | None, label: str) -> int:
    if position is None:
        return 0
    if position not in positions:
        some = ", ".join(map(str, positions[:10])) + (", ..." if len(positions) > 10 else "")
        raise UsageError(f"--position {position}: {label} has {some}.")
    return positions.index(position)


COMMANDS = {"prompts": prompts}
