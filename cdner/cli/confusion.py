"""``cdner confusion``: the matrices as a heat map, the prefixes and the rivals of a quantify run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from cdner.console.groups import CommandGroup
from cdner.console.named_runs import chosen_run
from cdner.console.output import (
    SHORT_ID,
    console,
    format_options,
    print_rich,
    print_rows,
    print_table,
    visible,
)
from cdner.errors import InputError, UsageError

if TYPE_CHECKING:
    from rich.text import Text

    from cdner.store import Store
    from cdner.store.confusion import Hierarchy
    from cdner.types import ConfusionMatrix

DIMENSIONS = ("u_hie", "u_sim", "u_iml", "v_iml", "R_M", "v_exl", "v_conf")

# The same facts by SQL; the help shows them and a test runs them.
EXAMPLE_QUERIES = (
    "SELECT gold_type, confused_type, score FROM confusion"
    " WHERE run_id = 'RUN_ID' AND dimension = 'v_conf' ORDER BY score DESC",
    "SELECT gold_type, source_type AS prefix, is_flagged FROM hierarchy_ratio"
    " WHERE run_id = 'RUN_ID' AND is_prefix ORDER BY gold_position",
    "SELECT gold_type, rival, score FROM rival"
    " WHERE run_id = 'RUN_ID' AND rank > 0 ORDER BY gold_position, rank",
)


@click.group("confusion", cls=CommandGroup)
def confusion() -> None:
    """Show confusion matrices, prefixes and rivals."""


def _epilog() -> str:
    queries = "\n\n".join(f'cdner sql "{query}"' for query in EXAMPLE_QUERIES)
    return (
        f"The same by SQL, with the whole run id: the matrix, the prefixes, the rivals.\n\n{queries}\n\n"
        "Every pair with all dimensions side by side:\n\ncdner sql @confusion --run RUN_ID"
    )


@confusion.command("show", epilog=_epilog())
@click.argument("run_id", required=False)
@click.option("--experiment", "-e", help="Instead of RUN_ID: an experiment in the store, or its file.")
@click.option("--target", help="Instead of RUN_ID: the latest of this target domain.")
@click.option(
    "--dimension",
    type=click.Choice(DIMENSIONS),
    default="v_conf",
    show_default=True,
    help="Which matrix; v_conf is all of them together (eq. 13).",
)
@format_options
@click.pass_context
def show(
    ctx: click.Context,
    run_id: str | None,
    experiment: str | None,
    target: str | None,
    dimension: str,
    output_format: str | None,
) -> None:
    """The matrix of RUN_ID (default: the latest quantify run): row = gold type, column = what it is taken for.

    A unique beginning of the id suffices. With --json, --nl or --csv: one row a pair of types.
    """
    from cdner.store import Store
    from cdner.store.confusion import load_confusion, load_hierarchy

    store = Store(ctx.obj["store"])
    run_id = _chosen(store, run_id, experiment, target)
    matrix = load_confusion(store, run_id).get(dimension)
    if matrix is None:
        raise InputError(f"Quantify run {run_id} has no {dimension}: it is not finished. See 'cdner runs'.")
    if output_format:
        rows = [
            (run_id, dimension, gold, confused, float(matrix.scores[i, j]))
            for i, gold in enumerate(matrix.types)
            for j, confused in enumerate(matrix.types)
            if i != j
        ]
        print_rows(("run_id", "dimension", "gold_type", "confused_type", "score"), rows, output_format)
        return
    hierarchy = load_hierarchy(store, run_id)
    arrows = _arrows(store, run_id, hierarchy)
    _print_heat_map(matrix, arrows, f"{dimension} of run {run_id[:SHORT_ID]}")
    click.echo()
    _print_rivals(store, run_id, hierarchy, arrows)


def _chosen(store: Store, run_id: str | None, experiment: str | None, target: str | None) -> str:
    from cdner.store.find import latest_run

    if sum(name is not None for name in (run_id, experiment, target)) > 1:
        raise UsageError("Give one of RUN_ID, --experiment and --target.")
    if run_id is None and experiment is None:
        return latest_run(store, "quantify", domain=target)
    return chosen_run(store, run_id, experiment, step="quantify", label="quantify:target")


def _arrows(store: Store, run_id: str, hierarchy: Hierarchy) -> dict[str, str]:
    """Target type -> "PER -> politician" (equation 3)."""
    from cdner.store.find import short_names

    short = short_names(store, run_id, hierarchy.ratios.predicted_types)
    pairs = zip(hierarchy.ratios.gold_types, hierarchy.prefixes, strict=True)
    return {name: visible(f"{short[prefix]} -> {name}") for name, prefix in pairs}


def _print_rivals(store: Store, run_id: str, hierarchy: Hierarchy, arrows: Mapping[str, str]) -> None:
    from cdner.store.confusion import load_rivals

    rivals = load_rivals(store, run_id)
    flagged = dict(zip(hierarchy.ratios.gold_types, hierarchy.flagged, strict=True))
    ranked = {
        name: ", ".join(f"{rival} ({score:.3f})" for rival, score in rivals.get(name, ())) for name in arrows
    }
    rows = [
        (arrow, ranked[name] or "no clear rival", "not recognised by M_src" if flagged[name] else "")
        for name, arrow in arrows.items()
    ]
    print_table(("prefix -> type", "rivals (v_conf)", "prefix is a default"), rows)


def _print_heat_map(matrix: ConfusionMatrix, arrows: Mapping[str, str], title: str) -> None:
    """One coloured cell a pair; the darker, the more confused. Every cell has its figure: colour only helps.

    Columns that do not fit the terminal follow in a further block.
    """
    from rich.cells import cell_len

    labels = [f"{number} {arrows[name]}" for number, name in enumerate(matrix.types, start=1)]
    free = console().width - max(cell_len(label) for label in labels)
    n_columns = max(1, free // 5)  # a figure is 4 wide, the gap before it 1
    columns = range(len(labels))
    for first in columns[::n_columns]:
        if first:
            click.echo()
        print_rich(_block(matrix, labels, columns[first : first + n_columns], title))


def _block(matrix: ConfusionMatrix, labels: Sequence[str], columns: Sequence[int], title: str) -> object:
    from rich.table import Table
    from rich.text import Text

    # The diagonal is no confusion: it must not stretch the scale.
    pairs = [(i, j) for i in range(len(labels)) for j in range(len(labels)) if i != j]
    others = [float(matrix.scores[pair]) for pair in pairs] or [0.0]
    low, high = min(others), max(others)
    table = Table(title=Text(title), title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("gold type", overflow="fold")
    for j in columns:
        table.add_column(str(j + 1), justify="right", no_wrap=True, min_width=4)
    for i, label in enumerate(labels):
        cells = [Text("-") if i == j else _cell(float(matrix.scores[i, j]), low, high) for j in columns]
        table.add_row(Text(label), *cells)
    return table


def _cell(score: float, low: float, high: float) -> Text:
    from rich.text import Text

    share = (score - low) / (high - low) if high > low else 0.0
    other = int(235 - 200 * share)
    return Text(f"{score:.2f}", style=f"black on rgb(255,{other},{other})")


COMMANDS = {"confusion": confusion}
