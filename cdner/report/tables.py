"""The report's tables as values, and as Markdown and LaTeX. The page shows the same ones.

Shares are printed in percent. Whatever a corpus, a label or a publication says stays text in every format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from cdner.report.content import Report, Where, name_of
from cdner.visible import visible

Kind = Literal["text", "long", "count", "percent", "points", "p_value", "seconds", "dollars"]
Value = str | int | float | None


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
    """``without_all`` as the paper writes it: ``w/o all``."""
    return setting.replace("without_", "w/o ").replace("_", " ")


def leaderboard(report: Report) -> Table:
    """Our scores, best first within the same sentences."""
    columns = (
        *(Column("Experiment"), Column("Setting"), Column("Seeds", "count"), Column("Gold", "count")),
        *(Column(name, "percent") for name in ("P", "R", "F1", "± dev.", "Span F1", "Macro F1")),
    )
    best: dict[str, float] = {}
    for score in report.scores:
        name = name_of(score.where)
        best[name] = max(best.get(name, 0.0), score.f1)
    ranked = sorted(
        report.scores, key=lambda score: (-best[name_of(score.where)], name_of(score.where), -score.f1)
    )
    rows = tuple(
        (
            *(name_of(score.where), setting_name(score.where.setting), score.n_seeds, score.n_gold),
            *(_percent(score.precision), _percent(score.recall), _percent(score.f1)),
            *(_percent(score.deviation), _percent(score.span_f1), _percent(score.macro_f1)),
        )
        for score in ranked
    )
    note = "Micro average over entities, span and type right; in percent. Seeds are averaged."
    return Table("Leaderboard", columns, rows, note)


def published(report: Report, domain: str) -> Table:
    """Published scores of one target domain, ours among them, by F1."""
    columns = (
        *(Column("Method"), Column("Year", "count"), Column("Setting"), Column("Source")),
        *(Column("Trained on"), Column("Backbone, LLM"), Column("Metric"), Column("F1", "percent")),
        *(Column("Ours - theirs", "points"), Column("Not comparable because", "long"), Column("Read in")),
    )
    lines: list[tuple[float, bool, tuple[Value, ...]]] = [
        (
            row.f1,
            False,
            (
                *(row.method, str(row.year or ""), setting_name(row.setting), row.source, row.shots),
                *(", ".join(part for part in (row.backbone, row.llm) if part), row.metric, row.f1),
                *(row.difference, row.why_not, row.read_in),
            ),
        )
        for row in report.published
        if row.domain == domain
    ]
    for score in report.scores:
        if score.where.domain == domain:
            named = ("ours", "", setting_name(score.where.setting), "", "", "", "F1", 100 * score.f1)
            lines.append((100 * score.f1, True, (*named, None, "", name_of(score.where))))
    lines.sort(key=lambda line: -line[0])
    ours = frozenset(number for number, line in enumerate(lines) if line[1])
    return Table(
        f"Published beside ours: {domain}",
        columns,
        tuple(line[2] for line in lines),
        "A difference is given only where nothing known forbids the comparison; each published row stands beside the "
        "run of ours that is nearest to it.",
        ours,
    )


def ablation(report: Report) -> Table:
    columns = (
        *(Column("Experiment"), Column("Setting"), Column("Seeds", "count"), Column("F1", "percent")),
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
    return Table("Ablation", columns, tuple(rows), note)


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
    return Table("LLM usage", columns, rows, note)


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
        *(published(report, domain) for domain in domains),
        ablation(report),
        *(errors_per_type(report, where) for where in places),
        usage(report),
    ]
    return [table for table in tables if table.rows]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


# --- formats ---------------------------------------------------------------------------------------------

_MARKDOWN = str.maketrans({char: f"\\{char}" for char in "\\`*_{}[]()#+-.!|~<>$"} | {"\n": " ", "&": "&amp;"})
_LATEX = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\n": " "}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "±": r"$\pm$"}
)


def markdown(tables: Sequence[Table]) -> str:
    """One heading and pipe table each."""
    return "\n".join(_markdown_table(table) for table in tables)


def _markdown_table(table: Table) -> str:
    rule = ["---:" if is_number(column) else "---" for column in table.columns]
    lines = [f"## {_for_markdown(table.title)}", ""]
    lines += [_markdown_row([_for_markdown(column.name) for column in table.columns]), _markdown_row(rule)]
    for number, row in enumerate(table.rows):
        cells = [_for_markdown(text) for text in _texts(table, row)]
        lines.append(_markdown_row([f"**{c}**" if c and number in table.ours else c for c in cells]))
    return "\n".join([*lines, "", *([table.note, ""] if table.note else [])])


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _for_markdown(text: str) -> str:
    """Numbers stay as they are: their signs and points are no markup inside a cell."""
    is_plain = text.replace(".", "").replace(",", "").lstrip("+-").isdigit()
    return text if is_plain else visible(text).translate(_MARKDOWN)


def latex(tables: Sequence[Table]) -> str:
    r"""One ``table`` with ``booktabs`` rules each; needs ``\usepackage{booktabs}``."""
    return "\n".join(["% \\usepackage{booktabs}", *(_latex_table(table) for table in tables)])


def _latex_table(table: Table) -> str:
    layout = "".join("r" if is_number(column) else "l" for column in table.columns)
    head = _latex_row([_for_latex(column.name) for column in table.columns])
    rows = []
    for number, row in enumerate(table.rows):
        cells = [_for_latex(text) for text in _texts(table, row)]
        rows.append(_latex_row([f"\\textbf{{{c}}}" if c and number in table.ours else c for c in cells]))
    return "\n".join(
        [
            *(r"\begin{table}", r"\centering\small", f"\\begin{{tabular}}{{{layout}}}", r"\toprule"),
            *(head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"),
            *(
                f"\\caption{{{_for_latex(' '.join([table.title + '.', table.note]).strip())}}}",
                r"\end{table}",
                "",
            ),
        ]
    )


def _latex_row(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _for_latex(text: str) -> str:
    return visible(text).translate(_LATEX)


def _texts(table: Table, row: Sequence[Value]) -> list[str]:
    return [shown(value, column.kind) for value, column in zip(row, table.columns, strict=True)]
