"""``cdner prompts``: exactly what an LLM is asked, before and after it was asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cdner.cli.experiment import compose_experiment, experiment_option, experiment_options
from cdner.cli.output import format_options, print_rows
from cdner.cli.progress import StderrProgress
from cdner.config import REASONING_SETTINGS
from cdner.errors import InputError, UsageError


@click.group("prompts")
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
@click.option("--setting", type=click.Choice(REASONING_SETTINGS), default="full", show_default=True)
@click.option("--split", type=click.Choice(("train", "dev", "test")), default="test", show_default=True)
@click.option("--position", type=int, default=0, show_default=True, help="Which sentence of the split.")
@click.option("--what", type=click.Choice(("reason", "describe")), default="reason", show_default=True)
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
    position: int,
    what: str,
    *,
    as_json: bool,
    **flags: Any,
) -> None:
    """Print the messages of one request. Needs the confusion of the experiment (cdner quantify) for 'reason'."""
    import json
    from dataclasses import asdict

    from cdner.pipeline.context import open_context
    from cdner.pipeline.plan import build_plan
    from cdner.pipeline.reasoning import requests_of

    experiment = compose_experiment(experiment_name, flags, overrides)
    experiment = experiment.model_copy(update={"settings": (setting,), "splits": ("dev", "test")})
    with StderrProgress(quiet=True) as progress:
        context = open_context(ctx.obj["store"], experiment, progress=progress, corpora_from=corpora_from)
        plan = build_plan(experiment, context)
        step = plan.by_label["describe:target" if what == "describe" else f"reason:{setting}/{split}"]
        missing = [
            label
            for label in step.inputs.values()
            if context.run_state(plan.by_label[label].spec.run_id) != "done"
        ]
        if missing:
            raise InputError(
                f"Not done yet: {', '.join(missing)}. Run 'cdner quantify' with the same options first."
            )
        positions, requests = requests_of(step, context)
    if position not in positions:
        raise UsageError(f"--position {position}: {split} has positions {positions[0]} to {positions[-1]}.")
    request = requests[positions.index(position)]
    if as_json:
        click.echo(json.dumps(asdict(request), ensure_ascii=False, indent=2))
        return
    for message in request.messages:
        click.echo(f"--- {message.role} ---")
        click.echo(message.content)


COMMANDS = {"prompts": prompts}
