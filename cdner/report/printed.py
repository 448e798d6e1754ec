"""Tables as Markdown and as LaTeX. Whatever a cell says stays text: neither can be written into from a corpus."""

from __future__ import annotations

from collections.abc import Sequence

from cdner.report.tables import Table, Value, is_number, shown
from cdner.text import visible

_MARKDOWN = str.maketrans({char: f"\\{char}" for char in "\\`*_[]|~<>$"} | {"\n": " ", "&": "&amp;"})
_LATEX = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\n": " "}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "±": r"$\pm$"}
)


_LAYOUT = {"text": "l", "long": "p{5cm}"}


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
    return visible(text).translate(_MARKDOWN)


def latex(tables: Sequence[Table]) -> str:
    r"""One ``table`` with ``booktabs`` rules each; needs ``\usepackage{booktabs}``."""
    return "\n".join(["% \\usepackage{booktabs}", *(_latex_table(table) for table in tables)])


def _latex_table(table: Table) -> str:
    layout = "".join(_LAYOUT.get(column.kind, "r") for column in table.columns)
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
