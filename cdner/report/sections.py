"""What stands on the page, in order: headings, tables, charts, and the places the script fills."""

from __future__ import annotations

from cdner.report import charts, tables
from cdner.report.content import Report
from cdner.report.markup import Element, Node, element
from cdner.report.tables import Column, Table, Value

_LONG = 24  # characters from which on a long cell is folded
_SHOWN = 80  # of them at most in its summary, which the style cuts to the column


def sections(report: Report) -> list[Element]:
    """The header with its links, then every section that has something to say."""
    domains = tuple(dict.fromkeys(score.where.domain for score in report.scores))
    curves = charts.curves(report)
    made: list[tuple[str, str, list[Node]]] = [
        ("scores", "Leaderboard", _leaderboard(report)),
        (
            "published",
            "Published beside ours",
            [part for domain in domains for part in _published(report, domain)],
        ),
        ("ablation", "Ablation", _ablation(report)),
        ("curves", "Sample size", [*curves]),
        ("confusion", "Confusion maps", _confusion() if report.maps else []),
        ("types", "Errors per type", _errors_per_type(report)),
        ("calibration", "How sure the models are", _calibration(report)),
        ("verdicts", "Verdicts of the LLM", _verdicts(report)),
        ("errors", "Error browser", _browser() if report.errors else []),
        ("usage", "LLM usage and cost", [table_of(tables.usage(report))] if report.usage else []),
        ("runs", "Settings and checksums", [_folded("All runs", table_of(tables.provenance(report)))]),
    ]
    kept = [(name, title, content) for name, title, content in made if any(content)]
    links = [element("a", title, href=f"#{name}") for name, title, _ in kept]
    header = element(
        "header",
        element("h1", report.title),
        element("p", f"cdner {report.version}, {report.made_utc} UTC. {_summary(report)}", class_="quiet"),
        element("nav", *links, aria_label="Sections"),
    )
    body = [
        element("section", element("h2", title), *content, id=name, aria_label=title)
        for name, title, content in kept
    ]
    return [
        element("a", "Skip to the error browser", href="#errors", class_="skip"),
        header,
        element("main", *body),
    ]


def _summary(report: Report) -> str:
    cells, n_sentences = len(report.experiments), sum(len(corpus.sentences) for corpus in report.corpora)
    return (
        f"{cells} experiment{'' if cells == 1 else 's'}, {len(report.models)} scored predictions of "
        f"{n_sentences:,} sentences, {len(report.errors):,} errors."
    )


def table_of(table: Table) -> Element:
    """A table in a frame of its own that scrolls sideways where it is too wide, by keys too."""
    head = element(
        "tr", *(element("th", column.name, scope="col", class_=_class(column)) for column in table.columns)
    )
    rows = [
        element("tr", *_cells(table, row), class_="ours" if number in table.ours else None)
        for number, row in enumerate(table.rows)
    ]
    framed = element("table", element("thead", head), element("tbody", *rows))
    note = element("p", table.note, class_="quiet") if table.note else None
    frame = element("div", framed, class_="scroll", tabindex=0, role="region", aria_label=table.title)
    return element("div", frame, note)


def _cells(table: Table, row: tuple[Value, ...]) -> list[Element]:
    """The first cell is the row's heading; a long one is folded."""
    made = []
    for number, (value, column) in enumerate(zip(row, table.columns, strict=True)):
        text = tables.shown(value, column.kind)
        content: Node = text
        if column.kind == "long" and len(text) > _LONG:
            content = element(
                "details", element("summary", text[:_SHOWN]), element("div", text, class_="foreign")
            )
        tag, scope = ("td", None) if number else ("th", "row")
        made.append(element(tag, content, class_=_class(column), scope=scope))
    return made


def _class(column: Column) -> str | None:
    return "number" if tables.is_number(column) else "long" if column.kind == "long" else None


def _leaderboard(report: Report) -> list[Node]:
    table = tables.leaderboard(report)
    place = table.title.partition(": ")[2]
    return [element("h3", place) if place else None, table_of(table)] if table.rows else []


def _published(report: Report, domain: str) -> list[Node]:
    """The nearest rows at once, the others folded."""
    nearest, others = (tables.published(report, domain, nearest=near) for near in (True, False))
    made: list[Node] = []
    if nearest.rows:
        made += [element("h3", nearest.title.partition(": ")[2]), table_of(nearest)]
    if others.rows:
        title = f"{others.title.partition(': ')[2]}: {len(others.rows) - len(others.ours)} scores"
        made.append(_folded(title, table_of(others)))
    return made


def _folded(title: str, content: Node) -> Element:
    return element("details", element("summary", title), content, class_="folded")


def _ablation(report: Report) -> list[Node]:
    if not report.ablations:
        return []
    return [*charts.ablation_bars(report), _folded("The numbers", table_of(tables.ablation(report)))]


def _errors_per_type(report: Report) -> list[Node]:
    if not report.errors_per_type:
        return []
    places = dict.fromkeys(row.where for row in report.errors_per_type)
    numbers = [table_of(tables.errors_per_type(report, where)) for where in places]
    return [*charts.error_bars(report), _folded("The numbers", element("div", *numbers))]


def _calibration(report: Report) -> list[Node]:
    """Only where predictions have probabilities."""
    if not report.reliability:
        return []
    explained = element(
        "p",
        "Over predicted entities whose span is a gold entity's: how often the predicted type is right, by the "
        "probability the model gives it. Above the diagonal the model is too modest, below it too sure. The expected "
        "calibration error is the mean distance from it, over mentions in 15 bins of equal width.",
        class_="quiet",
    )
    return [explained, *charts.reliability_diagrams(report)]


def _verdicts(report: Report) -> list[Node]:
    """Only where an LLM has judged mentions."""
    made: list[Node] = []
    for where in dict.fromkeys(row.where for row in report.verdict_shares):
        table = tables.who_is_right(report, where)
        made += [element("h3", table.title.partition(": ")[2]), table_of(table)]
    if report.fusion_weights:
        table = tables.fusion(report)
        made += [element("h3", table.title), table_of(table)]
    return made


def _confusion() -> list[Node]:
    explained = element(
        "p",
        "Row: the type that is, behind the source type it is mostly recognised as. Column: the type it is taken for. "
        "A frame marks the rivals each type is warned against. A cell shows its errors below.",
        class_="quiet",
    )
    return [explained, _needs_script(), element("div", id="maps")]


def _browser() -> list[Node]:
    return [_needs_script(), element("div", id="browser")]


def _needs_script() -> Element:
    return element(
        "noscript", element("p", "This part needs JavaScript; it is in this file, nothing is fetched.")
    )
