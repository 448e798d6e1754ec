"""Blocks of an input: a pure function of the file, every row in one of them, every bad row with its place."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import duckdb
import pytest

from cdner.annotate.source import N_TOLD, Index, Source, open_source, read_block, read_index
from cdner.errors import InputError, UsageError

TEXTS = [f"Sentence {n} of Mara Holt." for n in range(10)]


def write_lines(folder: Path, *lines: str | bytes, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_bytes(b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
    return path


def rows_file(folder: Path, n: int = 10, **more: str) -> Path:
    return write_lines(folder, *(json.dumps({"id": i, "text": TEXTS[i % 10], **more}) for i in range(n)))


def parquet_file(folder: Path, select: str) -> Path:
    path = folder / "rows.parquet"
    duckdb.sql(f"COPY ({select}) TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE 2048)")
    return path


def index_of(source: Source, block_size: int = 4, *, as_table: bool = False) -> Index:
    return read_index(source, block_size=block_size, added={"predicted"}, as_table=as_table)


def sentences(source: Source, index: Index) -> list[list[str]]:
    return [[row.sentence.text for row in read_block(source, block)] for block in index.blocks]


def test_every_row_is_in_one_block_and_each_block_is_read_by_itself(tmp_path):
    source = open_source(rows_file(tmp_path), None)
    index = index_of(source)
    found = sentences(source, index)
    assert [len(block) for block in found] == [4, 4, 2]
    assert [text for block in found for text in block] == [f"{text[:-1]} ." for text in TEXTS]
    assert [row.number for row in read_block(source, index.blocks[1])] == [4, 5, 6, 7]
    assert index.n_sentences == 10
    assert index.blocks == index_of(source).blocks


def test_parquet_has_the_same_rows_in_its_order_across_row_groups(tmp_path):
    select = "SELECT i AS id, 'Sentence ' || i || ' of Mara Holt.' AS text FROM range(5000) AS r(i)"
    source = open_source(parquet_file(tmp_path, select), None)
    index = index_of(source, 1500)
    found = sentences(source, index)
    assert [len(block) for block in found] == [1500, 1500, 1500, 500]
    assert [text for block in found for text in block] == [
        f"Sentence {n} of Mara Holt ." for n in range(5000)
    ]


def test_empty_lines_marks_and_missing_ends_are_no_rows_and_no_errors(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "One."}\r\n\n   \n{"text": "Two."}')
    source = open_source(path, None)
    index = index_of(source, 3)
    assert sentences(source, index) == [["One ."], ["Two ."]]
    assert (index.n_sentences, index.n_bad) == (2, 0)


def test_an_empty_file_has_no_block(tmp_path):
    path = write_lines(tmp_path, '{"text": "x"}')
    source = open_source(path, None)
    path.write_bytes(b"")
    assert index_of(source).blocks == []


def test_tokens_come_before_text_and_stay_as_they_are(tmp_path):
    path = write_lines(tmp_path, '{"text": "no", "tokens": ["Mara", "Holt."], "own": "Mara Holt\'s"}')
    assert sentences(open_source(path, None), index_of(open_source(path, None))) == [["Mara Holt."]]
    own = open_source(path, "own")
    assert sentences(own, index_of(own)) == [["Mara Holt 's"]]


BAD = [
    ("{", "not JSON"),
    ("[1]", "a JSON array, not one object a line"),
    ("{}", "no 'text'"),
    ('{"text": null}', "no 'text'"),
    ('{"text": " \\t "}', "'text' is empty"),
    ('{"text": []}', "'text' is empty"),
    ('{"text": 5}', "'text' is neither a text nor a list of tokens"),
    ('{"text": ["a", 5]}', "'text' is neither a text nor a list of tokens"),
    ('{"text": ["a", "b c"]}', "token 1 in 'text' is empty or holds white space"),
    ('{"text": ["a", ""]}', "token 1 in 'text' is empty or holds white space"),
    ('{"text": "a", "x": NaN}', "NaN is not JSON"),
    ('{"text": "a", "x": 1e999}', "not JSON: 1e999 is too large"),
    ('{"text": "a", "x": "\\ud83d"}', "half of a surrogate pair"),
    (b'{"text": "\xe9"}', "not UTF-8"),
    ('{"text": "a", "x": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
]


@pytest.mark.parametrize(("line", "problem"), BAD, ids=[problem for _, problem in BAD])
def test_a_bad_row_is_one_line_with_its_place_or_is_left_out(tmp_path, line, problem):
    path = write_lines(tmp_path, '{"text": "good"}', line, '{"text": "also good"}')
    with pytest.raises(InputError) as caught:
        index_of(open_source(path, None))
    assert f"rows.jsonl, line 2: {problem}" in str(caught.value)
    assert "--on-bad-row skip" in str(caught.value)
    skipping = open_source(path, None, skips_bad_rows=True)
    index = index_of(skipping)
    assert sentences(skipping, index) == [["good", "also good"]]
    assert (index.n_sentences, index.n_bad) == (2, 1)


def test_a_row_that_has_gone_bad_since_the_index_is_no_less_bad(tmp_path):
    path = write_lines(tmp_path, '{"text": "good"}', '{"text": "more"}')
    source = open_source(path, None)
    (block,) = index_of(source).blocks
    write_lines(tmp_path, '{"text": "good"}', '{"text": 123456}')
    with pytest.raises(InputError, match="line 2: 'text' is neither"):
        read_block(source, block)


def test_of_many_bad_rows_the_first_are_named_and_all_are_counted(tmp_path):
    path = write_lines(tmp_path, '{"text": "good"}', *["{}"] * 12)
    index = index_of(open_source(path, None, skips_bad_rows=True))
    assert index.n_bad == 12
    assert len(index.bad) == N_TOLD
    assert index.bad[0].endswith("rows.jsonl, line 2: no 'text'.")


def test_a_parquet_row_without_a_sentence_is_named_by_its_number(tmp_path):
    path = parquet_file(tmp_path, "SELECT unnest(['a', NULL, 'b']) AS text")
    with pytest.raises(InputError, match=r"rows\.parquet, row 2: no 'text'"):
        index_of(open_source(path, None))
    numbers = parquet_file(tmp_path, "SELECT 5 AS text")
    with pytest.raises(InputError, match="row 1: 'text' is neither a text nor a list of tokens"):
        index_of(open_source(numbers, None))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("rows.csv", "text\n", r"ending in \.jsonl, \.ndjson, \.parquet"),
        ("rows.jsonl", '{"sentence": "x"}\n', "no column 'tokens' or 'text' .* it has: sentence"),
        ("rows.jsonl", "", "it has: nothing"),
    ],
)
def test_what_cannot_be_an_input_is_refused(tmp_path, name, content, told):
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=told):
        open_source(tmp_path / name, None)


def test_a_file_that_is_not_there_and_one_that_is_no_parquet_are_told(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        open_source(tmp_path / "rows.jsonl", None)
    (tmp_path / "rows.parquet").write_text("PAR")
    with pytest.raises(InputError, match=r"rows\.parquet"):
        open_source(tmp_path / "rows.parquet", None)


@pytest.mark.parametrize("as_table", [False, True])
def test_a_column_that_would_be_overwritten_is_refused(tmp_path, as_table):
    path = write_lines(tmp_path, '{"text": "x"}', '{"text": "x", "predicted": []}')
    with pytest.raises(InputError, match="line 2: it has a column 'predicted' already"):
        index_of(open_source(path, None, skips_bad_rows=True), as_table=as_table)
    table = parquet_file(tmp_path, "SELECT 'x' AS text, 1 AS Predicted")
    with pytest.raises(InputError, match="it has a column 'Predicted' already"):
        index_of(open_source(table, None))


def test_columns_of_a_table_take_every_row(tmp_path):
    rows = [
        {"text": "a", "n": 1, "x": 1, "b": True, "mixed": 1, "nested": {"a": 1}, "huge": 1},
        {"text": "b", "n": None, "x": 0.5, "b": False, "mixed": "1", "tags": ["a"], "huge": 2**70},
    ]
    path = write_lines(tmp_path, *map(json.dumps, rows))
    assert index_of(open_source(path, None), as_table=True).columns == {
        "text": "VARCHAR",
        "n": "BIGINT",
        "x": "DOUBLE",
        "b": "BOOLEAN",
        "mixed": "JSON",
        "nested": "JSON",
        "huge": "JSON",
        "tags": "VARCHAR[]",
    }


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"text": "x", "Text": 1}], "'text' and 'Text' differ in case alone"),
        ([{"text": "x", "PREDICTED": 1}], "differ in case alone"),
        ([{"text": "x", **{f"k{n}": 1 for n in range(1000)}}], "more than 1000 different keys"),
    ],
)
def test_keys_that_are_no_columns_are_refused_for_a_table_alone(tmp_path, rows, told):
    source = open_source(write_lines(tmp_path, *map(json.dumps, rows)), None)
    with pytest.raises(InputError, match=rf"{told}.*OUTPUT\.jsonl"):
        index_of(source, as_table=True)
    assert index_of(source).n_sentences == 1


def test_memory_does_not_grow_with_the_file(tmp_path):
    def peak(n: int) -> int:
        source = open_source(rows_file(tmp_path, n, more="x" * 4000), None)
        tracemalloc.start()
        index = index_of(source, 50, as_table=True)
        for block in index.blocks:
            read_block(source, block)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(300)  # what is made once
    assert peak(3000) < 1.3 * peak(300)
