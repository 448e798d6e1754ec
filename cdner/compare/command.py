"""``cdner compare``: two settings side by side, whether they differ by more than chance, and what changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, fields
from typing import TYPE_CHECKING, Any

import click

from cdner.console.named_runs import experiment_name
from cdner.console.output import format_options, json_text, print_rows, print_table
from cdner.errors import UsageError

if TYPE_CHECKING:
    from cdner.compare.comparison import ComparedRuns
    from cdner.store import Store

Listing = tuple[tuple[str, ...], list[tuple[object, ...]]]  # columns, rows

_LEVEL = 0.05  # of the one-line conclusion
_ONE_SEED = "One seed: the interval says what other sentences would do, not what other seeds would."
_TITLES = {
    "f1": "F1 between 0 and 1; difference = after - before with its 95 % interval and two-sided p-value, "
    "paired bootstrap over sentences",
    "types": "Types of gold spans that both found exactly; McNemar's exact test of fixed against broken",
    "changes": "Gold entities only one got right: what became of them",
    "pairs": "Confused pairs that changed (right span, wrong type); R_M on this split, v_conf on dev where measured",
    "entities": "The entities themselves",
}


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, metavar="BEFORE AFTER [BEFORE AFTER]...")
@click.option(
    "--show",
    type=click.Choice(list(_TITLES)),
    help="Only this listing; --csv and --nl need it.  [default: all]",
)
@click.option(
    "--resamples",
    type=click.IntRange(min=100),
    default=10_000,
    show_default=True,
    help="Bootstrap resamples.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the bootstrap.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Rows of pairs and of entities at most.",
)
@format_options
@click.pass_context
def compare(
    ctx: click.Context,
    runs: tuple[str, ...],
    show: str | None,
    resamples: int,
    seed: int,
    limit: int,
    output_format: str | None,
) -> None:
    """Compare predictions of the same sentences BEFORE and AFTER; each further pair is another seed or domain.

    A run is EXPERIMENT:SETTING/SPLIT, or the beginning of the id of a predict or evaluate run. An experiment that
    varies, such as table2@cpu or figure4@cpu[n_train=10], stands for all its cells: one pair each.
    """
    from cdner.compare.comparison import by_domain, load_pair
    from cdner.compare.queries import find_prediction_pairs
    from cdner.store import Store

    if len(runs) % 2:
        raise UsageError(
            f"{len(runs)} runs: name them in pairs, BEFORE AFTER; each further pair is another seed."
        )
    if output_format in ("csv", "nl") and show is None:
        raise UsageError(f"--{output_format} holds one listing: choose it with --show {'|'.join(_TITLES)}.")
    store = Store(ctx.obj["store"])
    names = [_with_experiment_name(run) for run in runs]
    asked = zip(names[::2], names[1::2], strict=True)
    pairs = [pair for before, after in asked for pair in find_prediction_pairs(store, before, after)]
    groups = by_domain([load_pair(store, *pair) for pair in pairs])
    listings = {
        name: _listing(name, store, groups, resamples=resamples, seed=seed)
        for name in ([show] if show else _TITLES)
    }
    _print_listings(listings, output_format, limit=limit, alone=show is not None)


def _with_experiment_name(run: str) -> str:
    """``study.toml:full/test`` by the name in that file; any other run as it is."""
    experiment, colon, label = run.rpartition(":")
    return f"{experiment_name(experiment)}:{label}" if colon else run


def _listing(
    name: str, store: Store, groups: Sequence[Sequence[ComparedRuns]], *, resamples: int, seed: int
) -> Listing:
    from cdner.compare import comparison
    from cdner.compare.comparison import PairChange, changed_pairs

    if name == "f1":
        return _f1(comparison.compare_f1(groups, seed=seed, n_resamples=resamples))
    if name == "types":
        return _types(comparison.compare_types(groups))
    if name == "pairs":
        columns = tuple(field.name for field in fields(PairChange))
        return columns, [astuple(change) for change in changed_pairs(store, groups)]
    entities = _entities(comparison.changed_entities(groups))
    return entities if name == "entities" else _changes(entities)


def _f1(rows: Sequence[Any]) -> Listing:
    columns = (
        *("metric", "domain", "split", "n_sentences", "n_seeds", "f1_before", "deviation_before"),
        *("f1_after", "deviation_after", "difference", "low", "high", "p_value"),
    )
    return columns, [
        (
            *(row.metric, row.domain, row.split, row.n_sentences, row.before.n_seeds),
            *(row.before.mean, row.before.deviation, row.after.mean, row.after.deviation),
            *(row.difference.value, row.difference.low, row.difference.high, row.difference.p_value),
        )
        for row in rows
    ]


def _types(rows: Sequence[Any]) -> Listing:
    columns = ("domain", "seed", "n_spans", "n_both_right", "n_fixed", "n_broken", "n_both_wrong", "p_value")
    listed: list[tuple[object, ...]] = []
    for row in rows:
        found = row.decisions
        counts = (found.n_both_right, found.n_fixed, found.n_broken, found.n_both_wrong)
        listed.append((row.domain, row.seed, sum(counts), *counts, row.p_value))
    return columns, listed


def _entities(changes: Sequence[Any]) -> Listing:
    columns = (
        *("change", "domain", "seed", "position", "start_token", "end_token", "gold_type", "before", "after"),
        *("mention", "sentence_text"),
    )
    rows: list[tuple[object, ...]] = []
    for pair, number, change in changes:
        entity, sentence = change.entity, pair.gold[change.sentence]
        rows.append(
            (
                *(change.change, pair.domain, number, pair.positions[change.sentence]),
                *(entity.start, entity.end, entity.type, change.before, change.after),
                *(" ".join(sentence.tokens[entity.start : entity.end]), sentence.text),
            )
        )
    return columns, rows


def _changes(entities: Listing) -> Listing:
    """Fixed and broken entities counted by what the other side made of them."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in entities[1]:
        change, wrong = str(row[0]), row[7] if row[0] == "fixed" else row[8]
        counts[change, "missed" if wrong is None else "wrong type"] += 1
    rows: list[tuple[object, ...]] = [
        (change, counts[change, "wrong type"], counts[change, "missed"], total)
        for change in ("fixed", "broken")
        for total in [counts[change, "wrong type"] + counts[change, "missed"]]
    ]
    return ("change", "n_wrong_type_on_other_side", "n_missed_on_other_side", "n_entities"), rows


def _print_listings(
    listings: dict[str, Listing], output_format: str | None, *, limit: int, alone: bool
) -> None:
    cut = {
        name: (columns, rows[:limit] if name in ("pairs", "entities") else rows)
        for name, (columns, rows) in listings.items()
    }
    if output_format and alone:
        print_rows(*next(iter(cut.values())), output_format)
    elif output_format:
        objects = {
            name: [dict(zip(columns, row, strict=True)) for row in rows]
            for name, (columns, rows) in cut.items()
        }
        click.echo(json_text(objects))
    else:
        for index, (name, (columns, rows)) in enumerate(cut.items()):
            if index:
                click.echo()
            shown, kept = _for_people(columns, rows)
            print_table([column.replace("_", " ") for column in shown], kept, title=_TITLES[name])
            if name == "f1":
                click.echo("\n".join(_conclusions(columns, rows)))
    for name, (_, rows) in listings.items():
        if len(rows) > len(cut[name][1]):
            click.echo(f"{name}: the first {limit} of {len(rows)}; --limit N shows more.", err=True)


def _for_people(columns: Sequence[str], rows: Sequence[tuple[object, ...]]) -> Listing:
    """Without token positions (the mention stands there), and without a domain or seed that all rows share."""
    hidden = {"start_token", "end_token"}
    hidden |= {
        name
        for index, name in enumerate(columns)
        if name in ("domain", "seed", "split") and len({row[index] for row in rows}) == 1
    }
    kept = [index for index, name in enumerate(columns) if name not in hidden]
    return tuple(columns[index] for index in kept), [tuple(row[index] for index in kept) for row in rows]


def _conclusions(columns: Sequence[str], rows: Sequence[tuple[object, ...]]) -> list[str]:
    """One sentence a metric, in points of F1: over all domains where there are several."""
    of_metric: dict[object, dict[str, Any]] = {row[0]: dict(zip(columns, row, strict=True)) for row in rows}
    one_seed = [_ONE_SEED] if all(row["n_seeds"] == 1 for row in of_metric.values()) else []
    return [
        f"{metric}: {100 * row['f1_before']:.2f} -> {100 * row['f1_after']:.2f}, {100 * row['difference']:+.2f} "
        f"points ({100 * row['low']:+.2f} to {100 * row['high']:+.2f}): "
        + ("more than chance" if row["p_value"] < _LEVEL else "not more than chance")
        + f" at the {_LEVEL:.0%} level".replace("%", " %")
        + f" (p = {row['p_value']:.4f})."
        for metric, row in of_metric.items()
    ] + one_seed


COMMANDS = {"compare": compare}
