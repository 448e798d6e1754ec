"""``cdner prompts``: exactly what an LLM is asked, before and after it was asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdner.cli.experiment import compose_experiment, experiment_option, experiment_options
from cdner.cli.groups import CommandGroup
from cdner.cli.output import format_options, json_text, print_rows, visible
from cdner.cli.progress import StderrProgress
from cdner.config import REASONING_SETTINGS
from cdner.errors import InputError, UsageError

if TYPE_CHECKING:
    from cdner.config import Experiment
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
    type=click.Choice(REASONING_SETTINGS),
    default="full",
    show_default=True,
    help="Which setting's prompt.",
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
    type=click.Choice(("reason", "describe", "extract")),
    default="reason",
    show_default=True,
    help="The reasoning on a sentence, its entities by the LLM alone, or a type's description (--position: types).",
)
@click.option("--json", "as_json", is_flag=True, help="The request as JSON.")
@click.pass_context
def render(
    ctx: click.Context,
    /,
    experiment_name: str | None,
    overrides: tuple[str, ...],
    corpora_from: Path | None,
    setting: str,
    split: str,
    position: int | None,
    what: str,
    *,
    as_json: bool,
    **flags: Any,
) -> None:
    """Print the messages of one request, exactly as a backend gets them (--json: to the last character).

    A reasoning prompt needs the experiment's confusion: 'cdner quantify' with the same options.
    """
    from dataclasses import asdict

    experiment = compose_experiment(experiment_name, flags, overrides)
    setting = "llm_only" if what == "extract" else setting
    experiment = experiment.model_copy(update={"settings": (setting,), "splits": ("dev", "test")})
    label = "describe:target" if what == "describe" else f"{what}:{setting}/{split}"
    if what == "extract" and split == "train":
        raise UsageError("--what extract: the LLM alone is asked for dev and test.")
    positions, requests = _requests(ctx.obj["store"], experiment, corpora_from, label)
    if position is None:
        position = positions[0]
    if position not in positions:
        some = ", ".join(map(str, positions[:10])) + (", ..." if len(positions) > 10 else "")
        raise UsageError(f"--position {position}: {label} has {some}.")
    request = requests[positions.index(position)]
    if as_json:
        click.echo(json_text(asdict(request)))
        return
    for message in request.messages:
        click.echo(f"--- {message.role} ---")
        click.echo(visible(message.content))


def _requests(
    store: Path, experiment: Experiment, corpora_from: Path | None, label: str
) -> tuple[list[int], list[ReasoningRequest]]:
    """Positions and requests of one step. InputError when something the prompt is made of is not there yet."""
    from cdner.pipeline.context import open_context
    from cdner.pipeline.plan import FROM_FILE, build_plan
    from cdner.pipeline.reasoning import requests_of

    section = experiment.describe if label.startswith("describe") else experiment.reason
    if section.backend == FROM_FILE:
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
            raise InputError(
                f"Not done yet: {', '.join(missing)}. Run 'cdner reason' or 'cdner quantify' with the same "
                "options (corpora: 'cdner import')."
            )
        positions, requests = requests_of(step, context)
    return list(positions), list(requests)


COMMANDS = {"prompts": prompts}
