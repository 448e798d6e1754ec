"""``cdner confusion``: the matrices as a heat map, the prefixes and the rivals of a quantify run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cdner.cli.output import console, format_options, print_rows, print_table
from cdner.errors import InputError, unknown_name

if TYPE_CHECKING:
    from cdner.store import Store
    from cdner.types import ConfusionMatrix

DIMENSIONS = ("u_hie", "u_sim", "u_iml", "v_iml", "R_M", "v_exl", "v_conf")


@click.group("confusion")
def confusion() -> None:
    """Show confusion matrices, prefixes and rivals."""


@confusion.command("show")
@click.argument("run_id", required=False)
@click.option("--target", help="Target domain, where no RUN_ID is given.")
@click.option("--dimension", type=click.Choice(DIMENSIONS), default="v_conf", show_default=True)
@format_options
@click.pass_context
def show(
    ctx: click.Context, run_id: str | None, target: str | None, dimension: str, output_format: str | None
) -> None:
    """The matrix of RUN_ID (default: the latest quantify run): row = gold type, column = what it is taken for."""
    from cdner.store import Store
    from cdner.store.confusion import load_confusion, load_rivals
    from cdner.store.ratios import load_hierarchy

    store = Store(ctx.obj["store"])
    run_id = run_id or _latest(store, target)
    matrix = load_confusion(store, run_id).get(dimension)
    if matrix is None:
        raise InputError(
            f"Run {run_id} has no {dimension}: it is no finished quantify run. See 'cdner runs'."
        )
    if output_format:
        rows = [
            (run_id, dimension, gold, confused, float(matrix.scores[i, j]))
            for i, gold in enumerate(matrix.types)
            for j, confused in enumerate(matrix.types)
            if i != j
        ]
        print_rows(("run_id", "dimension", "gold_type", "confused_type", "score"), rows, output_format)
        return
    hierarchy, rivals = load_hierarchy(store, run_id), load_rivals(store, run_id)
    prefix = dict(zip(hierarchy.ratios.gold_types, hierarchy.prefixes, strict=True))
    flagged = dict(zip(hierarchy.ratios.gold_types, hierarchy.flagged, strict=True))
    _print_heat_map(matrix, prefix, run_id)
    rows = [
        (
            f"{prefix[name]} -> {name}",
            "not recognised by M_src" if flagged[name] else "",
            ", ".join(f"{rival} ({score:.3f})" for rival, score in rivals.get(name, ())) or "no clear rival",
        )
        for name in matrix.types
    ]
    print_table(("prefix -> type", "note", "rivals (v_conf)"), rows)


def _latest(store: Store, target: str | None) -> str:
    """The latest finished quantify run, optionally of one target domain."""
    from cdner.store.ratios import load_hierarchy
    from cdner.store.runs import list_runs

    finished = [row.run_id for row in list_runs(store, step="quantify") if row.state == "done"]
    if target:
        from cdner.prompts import domain_names, load_domain

        if target not in domain_names():
            raise unknown_name("target domain", target, domain_names())
        types = load_domain(target).types
        finished = [name for name in finished if load_hierarchy(store, name).ratios.gold_types == types]
    if not finished:
        raise InputError(
            "The store has no finished quantify run. Make one: cdner quantify --experiment NAME."
        )
    return finished[0]


def _print_heat_map(matrix: ConfusionMatrix, prefix: dict[str, str], run_id: str) -> None:
    """One coloured cell a pair; the darker, the more confused. Every cell has its figure: colour only helps."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{matrix.dimension} of run {run_id}", show_edge=False, pad_edge=False)
    table.add_column("gold type")
    for number, _ in enumerate(matrix.types, start=1):
        table.add_column(str(number), justify="right")
    others = [
        float(matrix.scores[i, j])
        for i in range(len(matrix.types))
        for j in range(len(matrix.types))
        if i != j
    ]
    low, high = (min(others), max(others)) if others else (0.0, 0.0)
    for i, gold in enumerate(matrix.types):
        cells = [Text(f"{i + 1} {prefix[gold]} -> {gold}")]
        for j in range(len(matrix.types)):
            cells.append(Text("-") if i == j else _cell(float(matrix.scores[i, j]), low, high))
        table.add_row(*cells)
    console().print(table)


def _cell(score: float, low: float, high: float) -> object:
    from rich.text import Text

    share = (score - low) / (high - low) if high > low else 0.0
    red, green = 255, int(235 - 200 * share)
    return Text(f"{score:.2f}", style=f"black on rgb({red},{green},{green})")


COMMANDS = {"confusion": confusion}
