"""Texts, folders of texts, tables and standard input become rows; what is not one is refused with its place."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import duckdb
import pytest

from cdner.annotate.output import LOCK, Output, claimed, output_format
from cdner.annotate.plain_input import STANDARD_INPUT, as_rows
from cdner.annotate.source import ROWS, open_source
from cdner.errors import InputError, UsageError
from cdner.store.parquet import column_values, parquet_columns

TEXT = "Mira left Oslo. She took Dr. Holt along.\n\nÖl was cheap.\n"
SENTENCES = [("Mira left Oslo.", 0), ("She took Dr. Holt along.", 16), ("Öl was cheap.", 42)]


def made(path: Path, tmp_path: Path) -> list[dict[str, object]]:
    rows = as_rows(path, tmp_path / "out")
    assert rows == tmp_path / "out" / ROWS and [part.name for part in (tmp_path / "out").iterdir()] == [ROWS]
    return [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_text_is_cut_into_sentences_that_stand_where_they_say(tmp_path: Path) -> None:
    rows = made(written(tmp_path / "note.txt", TEXT), tmp_path)
    assert [(row["text"], row["start"]) for row in rows] == SENTENCES
    assert {row["file"] for row in rows} == {"note.txt"}
    assert all(TEXT[int(str(row["start"])) :].startswith(str(row["text"])) for row in rows)


def test_a_folder_of_texts_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    written(tmp_path / "in" / "b.txt", "Second.")
    written(tmp_path / "in" / "a.txt", "First.")
    written(tmp_path / "in" / "c.pdf", b"\xff")
    assert [(row["file"], row["text"]) for row in made(tmp_path / "in", tmp_path)] == [
        ("a.txt", "First."),
        ("b.txt", "Second."),
    ]
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="no texts in this folder"):
        as_rows(tmp_path / "none", tmp_path / "other")


def test_a_table_keeps_its_columns(tmp_path: Path) -> None:
    table = written(tmp_path / "t.csv", '\ufeffid,text\n1,"Mira, of\nOslo"\n\n2,Holt\n')
    assert made(table, tmp_path) == [{"id": "1", "text": "Mira, of\nOslo"}, {"id": "2", "text": "Holt"}]
    assert open_source(tmp_path / "out" / ROWS, None).column == "text"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text\na,b\n", "line 2: 2 cells, but the header has 1"),
        ("text,text\na,b\n", "line 1: two columns are called 'text'"),
        ('text\n"open\n', "not a table: unexpected end of data"),
        (b"text\nok\n\xff\n", "line 3: not UTF-8"),
    ],
)
def test_a_broken_table_is_one_line_and_leaves_nothing(
    content: str | bytes, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as refused:
        as_rows(written(tmp_path / "t.csv", content), tmp_path / "out")
    assert said in str(refused.value) and "t.csv" in str(refused.value)
    assert not (tmp_path / "out" / ROWS).exists()


@pytest.mark.parametrize("given", ['{"text": "Mira left."}\n{"text": "Oslo."}\n', "Mira left.\nOslo.\n"])
def test_standard_input_is_rows_or_a_text(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
    assert [row["text"] for row in made(STANDARD_INPUT, tmp_path)] == ["Mira left.", "Oslo."]


def test_rows_are_read_as_they_are(tmp_path: Path) -> None:
    rows = written(tmp_path / "r.jsonl", "{}")
    assert as_rows(rows, tmp_path / "out") == rows and not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    mine = written(tmp_path / "out" / "mine.txt", "x")
    with pytest.raises(UsageError, match=r"holds mine\.txt, and no manifest of ours"):
        as_rows(written(tmp_path / "note.txt", TEXT), tmp_path / "out")
    assert [part.name for part in mine.parent.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["r[1].parquet", "r*.parquet", "r?.parquet", "r[!a].parquet"])
def test_a_name_is_no_pattern(name: str, tmp_path: Path) -> None:
    for file, text in ((tmp_path / "r1.parquet", "another"), (tmp_path / name, "this")):
        duckdb.sql(f"SELECT '{text}' AS text, 1 AS {text}").write_parquet(str(file))
    assert list(parquet_columns(tmp_path / name)) == ["text", "this"]
    assert list(column_values(tmp_path / name, "text")) == ["this"]


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    victim = written(tmp_path / "victim", "precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK).symlink_to(victim)
    source = open_source(written(tmp_path / "r.jsonl", '{"text": "a"}'), None)
    output = Output(tmp_path / "out", output_format(tmp_path / "out", source), {}, {})
    with pytest.raises(UsageError, match="cannot be opened"), claimed(output, {"made_of": {}}):
        pass
    assert victim.read_text(encoding="utf-8") == "precious"
