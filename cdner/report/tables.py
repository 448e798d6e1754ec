"""The report's tables as values: the page shows them, ``printed`` writes them as Markdown and LaTeX.

Shares are in percent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cdner.report.content import Report, Score, Where, name_of

Kind = Literal["text", "long", "count", "percent", "points", "p_value", "seconds", "dollars"]
Value = str | int | float | None
_PLACE = "Experiment"


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    kind: Kind = "text"


@dataclass(frozen=True, slots=True)
class Table:
    """``ours`` marks rows by their number where ours stand among others'."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    note: str = ""
    ours: frozenset[int] = field(default_factory=frozenset)


def shown(value: Value, kind: Kind) -> str:
    """One cell as people read it; None is empty."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    formats = {
        "percent": "{:.2f}",
        "points": "{:+.2f}",
        "p_value": "{:.4f}",
        "seconds": "{:,.1f}",
        "dollars": "{:.4f}",
    }
    return formats.get(kind, "{:,}" if isinstance(value, int) else "{}").format(value)


def is_number(column: Column) -> bool:
    """Whether a column is set flush right."""
    return column.kind not in ("text", "long")


def setting_name(setting: str) -> str:
    """``without_all`` as the paper writes it: ``w/o all``; ``full_fused``: ``full, fused``."""
    if setting.endswith("_fused"):
        return f"{setting_name(setting.removesuffix('_fused'))}, fused"
    return setting.replace("without_", "w/o ").replace("_", " ")


def leaderboard(report: Report) -> Table:
    """Our scores, best first within the same sentences, and the experiment with the best score first."""
    columns = (
        *(Column(_PLACE), Column("Setting"), Column("F1", "percent"), Column("± dev.", "percent")),
        *(Column(name, "percent") for name in ("P", "R", "Span F1", "Macro F1")),
        *(Column("Seeds", "count"), Column("Gold", "count")),
    )
    best: dict[str, float] = {}
    for score in report.scores:
        name = name_of(score.where)
        best[name] = max(best.get(name, 0.0), score.f1)
    ranked = sorted(report.scores, key=lambda it: (-best[name_of(it.where)], name_of(it.where), -it.f1))
    rows = tuple(
        (
            *(name_of(score.where), setting_name(score.where.setting)),
            *(
                _percent(score.f1),
                _percent(score.deviation),
                _percent(score.precision),
                _percent(score.recall),
            ),
            *(_percent(score.span_f1), _percent(score.macro_f1), score.n_seeds, score.n_gold),
        )
        for score in ranked
    )
    note = "Micro average over entities, span and type right; in percent. Seeds are averaged."
    return _compact(Table("Leaderboard", columns, rows, note))


def published(report: Report, domain: str, *, nearest: bool) -> Table:
    """Published scores of one target domain, ours among them, by F1.

    ``nearest``: those of our source domain that were trained on all target sentences; else all others.
    """
    columns = (
        *(Column("Method"), Column("Year"), Column("F1", "percent"), Column("Ours - theirs", "points")),
        *(
            Column("Metric"),
            Column("Setting"),
            Column("Source"),
            Column("Trained on"),
            Column("Backbone, LLM"),
        ),
        *(Column("Not comparable because", "long"), Column("Read in", "long")),
    )
    lines: list[_Line] = [
        (
            *("the paper" if row.method == "this paper" else row.method, str(row.year or "")),
            *(row.f1, row.difference, row.metric, setting_name(row.setting)),
            *(("", "") if nearest else (row.source or "none", row.shots)),
            *(", ".join(part for part in (row.backbone, row.llm) if part), row.why_not, row.read_in),
        )
        for row in report.published
        if row.domain == domain and nearest == (row.same_source and row.shots == "all")
    ]
    own = [line for score in report.scores if score.where.domain == domain for line in _own_lines(score)]
    lines += own if lines else []
    lines.sort(key=lambda line: (line[4], -line[2]))
    what = "same source, all target sentences" if nearest else "other source or other target sentences"
    note = (
        "A difference is given only where nothing known forbids the comparison; each published row stands beside the "
        "run of ours that is nearest to it."
    )
    ours = frozenset(number for number, line in enumerate(lines) if line in own)
    return _compact(Table(f"Published beside ours: {domain}, {what}", columns, tuple(lines), note, ours))


_Line = tuple[str, str, float, float | None, str, str, str, str, str, str, str]


def _own_lines(score: Score) -> list[_Line]:
    setting, place = setting_name(score.where.setting), name_of(score.where)
    return [
        ("ours", "", 100 * f1, None, metric, setting, "", "", "", "", place)
        for metric, f1 in (("F1", score.f1), ("span F1", score.span_f1))
    ]


def ablation(report: Report) -> Table:
    columns = (
        *(Column(_PLACE), Column("Setting"), Column("Seeds", "count"), Column("F1", "percent")),
        *(Column("from", "percent"), Column("to", "percent"), Column("Against")),
        *(Column("Difference", "points"), Column("from", "points"), Column("to", "points")),
        Column("p", "p_value"),
    )
    rows: list[tuple[Value, ...]] = []
    for bar in report.ablations:
        cells: tuple[Value, ...] = (
            *(name_of(bar.where), setting_name(bar.where.setting), bar.n_seeds),
            *(100 * bar.f1, 100 * bar.low, 100 * bar.high),
        )
        found = bar.difference
        if found is None:
            rows.append((*cells, "", None, None, None, None))
        else:
            change = (100 * found.value, 100 * found.low, 100 * found.high, found.p_value)
            rows.append((*cells, setting_name(found.baseline), *change))
    note = (
        "95 % intervals and two-sided p-values: bootstrap over sentences, paired for differences. One seed: they say "
        "what other sentences would do, not what other seeds would."
    )
    return _compact(Table("Ablation", columns, tuple(rows), note))


def errors_per_type(report: Report, where: Where) -> Table:
    """Figure 6 of one setting, in percent of the gold entities of each type."""
    columns = (
        *(Column("Type"), Column("Gold", "count"), Column("Wrong type", "percent")),
        *(Column("Wrong boundary", "percent"), Column("Not found", "percent"), Column("Total", "percent")),
        Column("Spurious", "count"),
    )
    rows: list[tuple[Value, ...]] = []
    for row in report.errors_per_type:
        if row.where == where:
            counts = (row.n_misclassified, row.n_boundary, row.n_not_found)
            shares = [100 * n / row.n_gold if row.n_gold else None for n in (*counts, sum(counts))]
            name = "all" if row.entity_type == "*" else row.entity_type
            rows.append((name, row.n_gold, *shares, row.n_spurious))
    return Table(
        f"Errors per type: {name_of(where)}, {setting_name(where.setting)}",
        columns,
        tuple(rows),
        "In percent of the gold entities of the type; spurious predictions touch none.",
    )


def who_is_right(report: Report, where: Where) -> Table:
    """Judged mentions of one setting, by gold type."""
    columns = (
        *(
            Column("Type"),
            Column("Mentions", "count"),
            Column("Both", "count"),
            Column("Model only", "count"),
        ),
        *(Column("LLM only", "count"), Column("Neither", "count")),
        *(Column("Model right", "percent"), Column("LLM right", "percent"), Column("One right", "percent")),
    )
    rows: list[tuple[Value, ...]] = []
    for row in report.verdict_shares:
        if row.where == where:
            right = (
                *(row.n_both + row.n_backbone_only, row.n_both + row.n_llm_only),
                row.n_mentions - row.n_neither,
            )
            counts = (row.n_mentions, row.n_both, row.n_backbone_only, row.n_llm_only, row.n_neither)
            name = "all" if row.entity_type == "*" else row.entity_type
            rows.append((name, *counts, *(100 * n / row.n_mentions for n in right)))
    return Table(
        f"Who is right: {name_of(where)}, mentions of {setting_name(where.setting)}",
        columns,
        tuple(rows),
        "Judged mentions whose span is a gold entity's, by its type. One right: what no weighing of the two can exceed "
        "unless it chooses a type that neither names. Seeds are summed.",
    )


def fusion(report: Report) -> Table:
    """A row for each fused setting, with a bias for each type that any of them has."""
    names = dict.fromkeys(name for row in report.fusion_weights for name in row.weights)
    biases = [name for name in names if name.startswith("bias:")]
    columns = (
        *(Column(_PLACE), Column("Setting"), Column("Seeds", "count"), Column("Dev mentions", "count")),
        *(Column("Model", "percent"), Column("LLM", "percent")),
        *(Column(f"Bias of {name.removeprefix('bias:')}", "points") for name in biases),
    )
    rows = tuple(
        (
            *(name_of(row.where), setting_name(row.where.setting), row.n_seeds),
            round(row.weights["n_dev_mentions"]),
            *(row.weights.get(name) for name in ("backbone", "llm", *biases)),
        )
        for row in report.fusion_weights
    )
    note = (
        "The type with the highest sum wins: weight x log p of the model + weight x log p of the LLM + the type's "
        "bias. Fitted on mentions of dev whose span is right; means over seeds."
    )
    return _compact(Table("Weights", columns, rows, note))


def usage(report: Report) -> Table:
    columns = (
        *(Column("Run"), Column("Model"), Column("Texts", "count"), Column("Calls", "count")),
        *(Column("Reused", "count"), Column("Prompt tokens", "count"), Column("Cached", "percent")),
        *(Column("Written tokens", "count"), Column("US dollars", "dollars"), Column("Seconds", "seconds")),
        *(Column("Gaps", "count"), Column("Lacking a part", "count")),
    )
    rows = tuple(
        (
            *(f"{row.experiment} {row.label}", row.model, row.n_requests, row.n_calls, row.n_reused),
            *(row.n_input_tokens, _percent(row.cached_share), row.n_output_tokens, row.cost_usd),
            *(row.wall_seconds, row.n_gaps, row.n_parse_failures),
        )
        for row in report.usage
    )
    note = "Answers reused cost nothing again; no dollars means no price is known."
    return _compact(Table("LLM usage", columns, rows, note))


def provenance(report: Report) -> Table:
    columns = (
        *(Column("Run"), Column("Run id"), Column("State"), Column("Finished (UTC)")),
        *(Column("Seconds", "seconds"), Column("SHA-256", "long"), Column("Settings", "long")),
    )
    rows = tuple(
        (
            *(f"{row.experiment} {row.label}", row.run_id, row.status, row.finished_utc, row.seconds),
            *(row.checksum, row.settings),
        )
        for row in report.provenance
    )
    return Table(
        "Runs, settings, checksums", columns, rows, "The same question has the same run id on any machine."
    )


def printed_tables(report: Report) -> list[Table]:
    """What ``--markdown`` and ``--latex`` hold."""
    domains = dict.fromkeys(score.where.domain for score in report.scores)
    places = dict.fromkeys(row.where for row in report.errors_per_type)
    tables = [
        leaderboard(report),
        *(published(report, domain, nearest=True) for domain in domains),
        ablation(report),
        *(errors_per_type(report, where) for where in places),
        usage(report),
    ]
    return [table for table in tables if table.rows]


def _compact(table: Table) -> Table:
    """Without columns that are empty; the place all rows share goes from the first column to the title."""
    kept = [
        number
        for number in range(len(table.columns))
        if any(row[number] not in (None, "") for row in table.rows)
    ]
    title, places = table.title, {row[0] for row in table.rows}
    if table.columns[0].name == _PLACE and len(places) == 1:
        kept, title = kept[1:], f"{title}: {places.pop()}"
    columns = tuple(table.columns[number] for number in kept)
    rows = tuple(tuple(row[number] for number in kept) for row in table.rows)
    return Table(title, columns, rows, table.note, table.ours)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
