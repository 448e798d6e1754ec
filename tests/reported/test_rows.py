"""Kinds of files with rows to annotate, each with what is read of it or the line that refuses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cdner.annotate.source import RENAMED, Row, open_source, read_block, read_index
from cdner.errors import InputError

OBJECTS = [{"text": "Mira", "start": 0, "end": 4, "id": 0}, {"text": "left", "start": 5, "end": 9, "id": 1}]
# kind -> (column asked for, lines, tokens of the first row, its own tokens as they are kept)
READ: dict[str, tuple[str | None, list[str], tuple[str, ...], object]] = {
    "Prodigy's tokens are objects": (
        *(None, [json.dumps({"text": "Mira left", "tokens": OBJECTS})], ("Mira", "left"), OBJECTS),
    ),
    "the text of Prodigy by name": (
        *("text", [json.dumps({"text": "Mira left", "tokens": OBJECTS})], ("Mira", "left"), OBJECTS),
    ),
    "tokens of another tokenizer": (
        *("text", ['{"tokens": ["Mira left"], "text": "Mira left"}'], ("Mira", "left"), ["Mira left"]),
    ),
    "tokens that are the sentence": (
        None,
        ['{"tokens": ["Mira", "left"], "text": "x"}'],
        ("Mira", "left"),
        None,
    ),
    "a byte order mark": (None, ['\ufeff{"text": "Mira left"}'], ("Mira", "left"), None),
    "empty lines first": (None, ["", " ", '{"text": "Mira left"}'], ("Mira", "left"), None),
}
# kind -> (lines, the line that is said)
REFUSED: dict[str, tuple[list[str], str]] = {
    "NaN": (['{"text": "a", "score": NaN}'], "line 1: NaN is not JSON."),
    "Infinity in a later line": (['{"text": "a"}', '{"text": "a", "x": -Infinity}'], "line 2: -Infinity is not JSON."),
    "a JSON array": (['[{"text": "a"}]'], "line 1: a JSON array, not one object a line."),
    "a JSON array over lines": (["[", '{"text": "a"}', "]"], "line 1: a JSON array, not one object a line."),
    "a text alone": (['"a"'], "line 1: not a JSON object."),
    "a table of another kind": (["text,x", "a,1"], "line 1: not JSON: "),
}  # fmt: skip


def rows(tmp_path: Path, lines: list[str], column: str | None = None) -> tuple[list[Row], int]:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    source = open_source(path, column)
    index = read_index(source, block_size=10, added={"predicted", "tokens"} - {source.column}, as_table=True)
    return [row for block in index.blocks for row in read_block(source, block)], index.n_renamed


@pytest.mark.parametrize("kind", READ)
def test_rows_are_read(kind: str, tmp_path: Path) -> None:
    column, lines, tokens, own = READ[kind]
    (row,), n_renamed = rows(tmp_path, lines, column)
    assert row.sentence.tokens == tokens
    assert row.fields is not None and row.fields.get(RENAMED) == own and n_renamed == (own is not None)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_json_lines_is_refused_with_its_line(kind: str, tmp_path: Path) -> None:
    lines, said = REFUSED[kind]
    with pytest.raises(InputError) as refused:
        rows(tmp_path, lines)
    assert said in str(refused.value) and str(tmp_path) in str(refused.value)
