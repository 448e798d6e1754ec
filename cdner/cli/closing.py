"""What ``cdner run`` prints at its end: scores, differences with intervals, confused pairs, and one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from cdner.console.output import print_table
from cdner.text import visible

if TYPE_CHECKING:
    from cdner.cli.closing_findings import DecidedMention, ExampleSentence
    from cdner.evaluate.significance import Difference
    from cdner.experiment.plan import Plan
    from cdner.steps.context import Context

SHOWN = {  # column -> score, all in percent
    "P": "strict_precision",
    "R": "strict_recall",
    "F1": "strict_f1",
    "span F1": "span_f1",
    "macro F1": "macro_f1",
}


def print_closing(
    plan: Plan, context: Context, columns: Sequence[str], scores: Sequence[Sequence[object]]
) -> None:
    """``scores``: rows of ``setting_scores``."""
    from cdner.cli.closing_findings import differences, example_sentence
    from cdner.experiment.summary import compared_setting, confusion_changes

    experiment = plan.experiment
    names = f"{experiment.name}: {experiment.corpora.source} -> {experiment.corpora.target}"
    _print_scores(columns, scores, title=f"{names}, percent, exact spans and types (P, R, F1)")
    compared = differences(plan, context)
    if compared:
        click.echo()
        title = "Difference in F1 from without_all (95 % interval)"
        print_table(
            ("setting", "split", "difference", "from", "to", "p"),
            [(setting, split, *_percents(difference)) for setting, split, difference in compared],
            title=title,
        )
    columns, changes = confusion_changes(plan, context)
    if changes:
        click.echo()
        after = compared_setting(experiment)
        title = f"Most confused pairs (right span, wrong type): before = without_all, after = {after}"
        print_table([name.replace("_", " ") for name in columns], changes, title=title)
    example = example_sentence(plan, context)
    if example:
        _print_example(example)


def _percents(difference: Difference) -> tuple[str, ...]:
    figures = (difference.value, difference.low, difference.high)
    return (*(f"{100 * figure:+.2f}" for figure in figures), f"{difference.p_value:.4f}")


def _print_scores(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str) -> None:
    """What fits 80 columns; --json and --csv have every score, ``cdner evaluate`` the run ids."""
    cells = [dict(zip(columns, row, strict=True)) for row in rows]
    table = [
        [cell["setting"], cell["split"], *(f"{cell[name]:6.2f}" for name in SHOWN.values())] for cell in cells
    ]
    print_table(("setting", "split", *SHOWN), table, title=title)


def _print_example(example: ExampleSentence) -> None:
    click.echo()
    click.echo(f"One sentence whose types {example.setting} corrects: {visible(example.sentence.text)}")
    for mention in example.mentions:
        click.echo(f"  {_decision(example, mention)}")
    if example.chain:
        click.echo("  What full reads beside it:")
        for text in (example.chain.initial, example.chain.bidirectional):
            if text:
                click.echo(f"    {visible(text)}")


def _decision(example: ExampleSentence, mention: DecidedMention) -> str:
    entity = mention.entity
    words = " ".join(example.sentence.tokens[entity.start : entity.end])
    said = f"{words}: {entity.type} before, {mention.after} after"
    return visible(f"{said}; the LLM says {_first(mention.verdict)}" if mention.verdict else said)


def _first(verdict: Mapping[str, float]) -> str:
    """Its two most probable types."""
    ranked = sorted(verdict.items(), key=lambda item: -item[1])[:2]
    return ", ".join(f"{name} {probability:.2f}" for name, probability in ranked)
