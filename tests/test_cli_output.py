"""Listings: four formats of the same facts, tables that fit, and text from corpora that does nothing."""

from __future__ import annotations

import csv
import datetime
import io
import json
from decimal import Decimal

import pytest
from cli_stores import HOSTILE, MARKUP

from cdner.console.output import cell_text, json_text, no_format_before, print_rows, print_table, visible
from cdner.errors import UsageError

COLUMNS = ("run_id", "text", "n_found")
ROWS = [("0123456789abcdef01234567", "Łódź, „quoted“", 3), ("fedcba9876543210fedcba98", 'a "b"\nc', None)]


def printed(capsys, columns, rows, output_format=None, **options):
    print_rows(columns, rows, output_format, **options)
    return capsys.readouterr().out


def test_json_nl_and_csv_hold_the_same_whole_values(capsys):
    expected = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
    assert json.loads(printed(capsys, COLUMNS, ROWS, "json")) == expected
    lines = printed(capsys, COLUMNS, ROWS, "nl").splitlines()
    assert [json.loads(line) for line in lines] == expected
    records = list(csv.DictReader(io.StringIO(printed(capsys, COLUMNS, ROWS, "csv"), newline="")))
    assert [{**record, "n_found": int(record["n_found"] or 0) or None} for record in records] == expected


@pytest.mark.parametrize("output_format", ["json", "nl", "csv", None])
def test_an_empty_listing_is_valid_in_every_format(capsys, output_format):
    out = printed(capsys, COLUMNS, [], output_format)
    assert {"json": "[]\n", "nl": "", "csv": "run_id,text,n_found\n"}.get(output_format or "", out) == out
    assert output_format is not None or "run id" in out


def test_a_table_shortens_run_ids_and_an_exact_one_does_not(capsys):
    assert "01234567 " in printed(capsys, COLUMNS, ROWS)
    assert ROWS[0][0] not in printed(capsys, COLUMNS, ROWS)
    exact = printed(capsys, COLUMNS, ROWS, exact=True)
    assert ROWS[0][0] in exact
    assert "run_id" in exact


@pytest.mark.parametrize("width", [1, 5, 20, 80, 160])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_cut_off(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    words = [f"word{number}" for number in range(40)]
    out = printed(capsys, ("position", "sentence_text", "type"), [(1, " ".join(words), "misc")])
    assert max(map(len, out.splitlines())) <= max(width, 10)
    assert "…" not in out
    if width >= 80:
        assert all(word in out for word in words)


def test_a_table_drops_its_lines_where_that_makes_it_fit(capsys, monkeypatch):
    rows = [("a" * 20, "b" * 20, "c" * 20)]
    monkeypatch.setenv("COLUMNS", "66")
    assert "│" in printed(capsys, ("x", "y", "z"), rows)
    monkeypatch.setenv("COLUMNS", "64")
    tight = printed(capsys, ("x", "y", "z"), rows)
    assert "│" not in tight
    assert len(tight.splitlines()) == 2
    monkeypatch.setenv("COLUMNS", "50")
    assert "│" in printed(capsys, ("x", "y", "z"), rows)


def test_markup_and_escape_sequences_are_shown_and_not_obeyed(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    print_table(
        (MARKUP, "[/]"), [(HOSTILE, MARKUP), ("\u202eevil", ":smile: [link=x]y[/link]")], title="[red]t"
    )
    out = capsys.readouterr().out
    assert "\\x1b[31mred\\x1b[0m" in out
    assert "\x1b[31m" not in out
    assert out.count(MARKUP) == 2
    assert "[red]t" in out
    assert "\\u202eevil" in out
    assert ":smile: [link=x]y[/link]" in out


def test_colour_is_for_terminals_and_never_with_no_color(capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert "\x1b" not in printed(capsys, COLUMNS, ROWS)
    from cdner.cli.confusion import _cell
    from cdner.console.output import print_rich

    for no_color, coloured in (("", True), ("1", False)):
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("NO_COLOR", no_color)
        print_rich(_cell(0.5, 0.0, 1.0))
        out = capsys.readouterr().out
        assert "0.50" in out
        assert any(mark in out for mark in ("\x1b[30", "48;2;", "48;5;")) == coloured


def test_machine_formats_keep_hostile_text_and_json_is_safe_to_look_at(capsys):
    text = HOSTILE + "\x9b31m\u2028end"
    shown = printed(capsys, ("text",), [(text,)], "nl")
    assert len(shown.splitlines()) == 1
    assert not set("\x1b\x9b\u2028") & set(shown)
    assert json.loads(shown) == {"text": text}
    kept = printed(capsys, ("text",), [(text,)], "csv")
    assert list(csv.reader(io.StringIO(kept)))[1] == [text], "a file of values loses nothing"


def test_json_has_no_number_where_there_is_none_and_takes_every_value_of_a_store():
    value = {
        "nan": float("nan"),
        "nested": [float("inf"), {"x": (1, None, True)}],
        "decimal": Decimal("1.5"),
        "when": datetime.datetime(2026, 1, 2, 3, 4, 5),
        "blob": b"\x01\xff",
        (1, 2): "a key that is no text",
    }
    assert json.loads(json_text(value)) == {
        "nan": None,
        "nested": [None, {"x": [1, None, True]}],
        "decimal": 1.5,
        "when": "2026-01-02 03:04:05",
        "blob": "01ff",
        "[1, 2]": "a key that is no text",
    }


def test_lists_are_json_inside_csv(capsys):
    out = printed(capsys, ("entities",), [([{"type": "a"}],), (["x"],)], "csv")
    cells = [row[0] for row in csv.reader(io.StringIO(out))][1:]
    assert [json.loads(cell) for cell in cells] == [[{"type": "a"}], ["x"]]


def test_two_columns_of_one_name_are_refused_where_one_would_be_lost(capsys):
    for output_format in ("json", "nl"):
        with pytest.raises(UsageError, match="Two columns are named 'a'"):
            print_rows(("a", "b", "a"), [(1, 2, 3)], output_format)
    assert printed(capsys, ("a", "a"), [(1, 2)], "csv") == "a,a\n1,2\n"


def test_cells_of_a_table():
    assert cell_text(None) == ""
    assert cell_text(0.123456) == "0.1235"
    assert cell_text(7) == "7"
    assert visible("a\tb\r\x00") == "a\\x09b\\x0d\\x00"
    assert visible("two\nlines, Łódź 🎬 \u00a0") == "two\nlines, Łódź 🎬 \u00a0"
    assert visible("\U000e0001") == "\\U000e0001"


class _Context:
    invoked_subcommand = "show"
    command_path = "cdner corpora"


def test_a_format_before_the_subcommand_is_refused_with_the_right_place():
    with pytest.raises(UsageError, match="cdner corpora show --json"):
        no_format_before(_Context(), "json")  # type: ignore[arg-type]
    no_format_before(_Context(), None)  # type: ignore[arg-type]
