"""Tables as Markdown and LaTeX: cells stay cells."""

from __future__ import annotations

import re

import pytest
from report_stores import ATTACKS

from cdner.report.printed import latex, markdown
from cdner.report.tables import Column, Table, shown

COLUMNS = (Column("Name"), Column("F1", "percent"), Column("n", "count"))
TABLE = Table("A_title", COLUMNS, (("full", 61.234, 12_345), ("w/o all", None, 1)), "A note.", frozenset({0}))


def test_a_markdown_table():
    assert markdown([TABLE]) == (
        "## A\\_title\n\n| Name | F1 | n |\n| --- | ---: | ---: |\n| **full** | **61.23** | **12,345** |\n"
        "| w/o all |  | 1 |\n\nA note.\n"
    )


def test_a_latex_table():
    written = latex([TABLE])
    assert "\\begin{tabular}{lrr}\n\\toprule\nName & F1 & n \\\\\n\\midrule\n" in written
    assert "\\textbf{full} & \\textbf{61.23} & \\textbf{12,345} \\\\\nw/o all &  & 1 \\\\\n" in written
    assert "\\caption{A\\_title. A note.}" in written


@pytest.mark.parametrize("attack", [*ATTACKS, "a\nb", "\\", "50% of $x_1^2$ {y} ~ #"])
def test_no_text_leaves_its_cell(attack):
    table = Table("t", COLUMNS, ((attack, 1.0, 1),))
    (row,) = [line for line in markdown([table]).splitlines() if line.endswith("| 1 |")]
    bare = re.sub(r"\\.", "", row)
    assert bare.count("|") == 4
    assert not set("<>*_`[]") & set(bare)
    (line,) = [line for line in latex([table]).splitlines() if line.endswith("1 \\\\")]
    commands = set(re.findall(r"\\([a-zA-Z]+)", line))
    assert commands <= {
        "textbackslash",
        "textasciitilde",
        "textasciicircum",
        "textless",
        "textgreater",
        "textbar",
    }
    assert re.sub(r"\\[&%$#_{}]", "", line).count("&") == 2
    for text in (row, line):
        assert "\x1b" not in text
        assert "\u202e" not in text


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (None, "percent", ""),
        (12.345, "percent", "12.35"),
        (-0.5, "points", "-0.50"),
        (0.5, "points", "+0.50"),
        (0.00012, "p_value", "0.0001"),
        (1234567, "count", "1,234,567"),
        (0.12345, "dollars", "0.1235"),
        ("as it is", "count", "as it is"),
    ],
)
def test_how_values_are_shown(value, kind, text):
    assert shown(value, kind) == text
