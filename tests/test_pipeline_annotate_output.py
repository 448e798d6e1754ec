"""Files of an output folder: every column as it came in, types and all, and nothing left of what a kill cut short."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from cdner.annotate.output import (
    MANIFEST,
    Annotated,
    Output,
    added_columns,
    answers_file,
    block_file,
    claimed,
    write_block,
)
from cdner.annotate.source import Index, Source, open_source, read_block, read_index
from cdner.errors import UsageError
from cdner.types import Entity, Prediction, ReasoningChain

MANIFEST_OF = {"made_of": {"block_size": 2}}


def opened(
    path: Path, folder: Path, *, with_reasoning: bool = False, with_scores: bool = False
) -> tuple[Index, Output]:
    source = open_source(path, None, skips_bad_rows=True)
    added = added_columns(source, with_reasoning=with_reasoning, with_scores=with_scores)
    index = read_index(source, block_size=2, added=added, as_table=folder.suffix == ".parquet")
    folder.mkdir()
    return index, Output(folder, "parquet" if folder.suffix == ".parquet" else "jsonl", added, index.columns)


def write_all(
    index: Index, output: Output, chain: ReasoningChain | None = None, said: dict[str, float] | None = None
) -> None:
    """The first two tokens of each row are a person."""
    found = Prediction(
        "a \x00 ~ 'b'", (Entity(0, 2, "person"),), {"leading_text": 2}, () if said is None else (said,)
    )
    for block in index.blocks:
        rows = read_block(index.source, block)
        write_block(output, index.source, block, [Annotated(row, found, chain) for row in rows])


def parquet(folder: Path, path: str = "rows.parquet") -> Path:
    duckdb.sql(
        "COPY (SELECT i AS id, 'Mara  Holt''s film' || i AS text, i::DECIMAL(9, 2) / 4 AS price, "
        "TIMESTAMPTZ '2026-01-01 00:00:00+00' AS made_at, {'a': [i]} AS nested, MAP {'k': i} AS map, "
        "'\\xC3'::BLOB AS raw "
        f"FROM range(5) AS r(i)) TO '{folder / path}' (FORMAT parquet)"
    )
    return folder / path


def test_columns_of_parquet_keep_their_types_and_values(tmp_path):
    path = parquet(tmp_path)
    index, output = opened(path, tmp_path / "out.parquet")
    write_all(index, output)
    files = f"read_parquet('{output.folder}/*.parquet')"
    assert len(list(output.folder.glob("block-*.parquet"))) == 3
    names = "id, text, price, made_at, nested, map, raw"
    told = [duckdb.sql(f"DESCRIBE SELECT {names} FROM {table}").fetchall() for table in (files, f"'{path}'")]
    assert told[0] == told[1]
    assert duckdb.sql(f"(SELECT {names} FROM {files}) EXCEPT (FROM '{path}')").fetchall() == []
    ids = [
        duckdb.sql(f"SELECT id FROM '{file}'").fetchall() for file in sorted(output.folder.glob("block-*"))
    ]
    assert ids == [[(0,), (1,)], [(2,), (3,)], [(4,)]]
    ((entity, tokens, generated),) = duckdb.sql(
        f"SELECT predicted[1], tokens, generated FROM {files} WHERE id = 3"
    ).fetchall()
    assert entity == {
        **{"type": "person", "text": "Mara  Holt", "start_token": 0, "end_token": 2},
        **{"start": 0, "end": 10},
    }
    assert tokens == ["Mara", "Holt", "'s", "film3"]
    assert generated == "a \x00 ~ 'b'"


def test_parquet_becomes_json_lines(tmp_path):
    index, output = opened(parquet(tmp_path), tmp_path / "out.jsonl")
    write_all(index, output)
    row = json.loads(block_file(output, 1).read_text().splitlines()[1])
    assert (row["id"], row["price"], row["nested"], row["n_malformed"]) == (3, 0.75, {"a": [3]}, 2)
    assert row["predicted"][0]["text"] == "Mara  Holt"


def test_json_lines_become_parquet_with_the_same_columns_in_every_block(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"text": "Mara Holt left.", "n": 1, "who": None},
        {"text": "", "n": 5, "who": "skipped"},
        {"text": "Mara Holt left.", "n": 0.5, "nested": {"a": "\x00'"}},
        {"text": "Mara Holt left.", "who": "Ø", "big": 2**62},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    index, output = opened(path, tmp_path / "out.parquet", with_reasoning=True)
    write_all(index, output, ReasoningChain("first", "second"))
    for block in index.blocks:
        columns = duckdb.sql(f"DESCRIBE FROM '{block_file(output, block.number)}'").fetchall()
        assert [(name, kind) for name, kind, *_ in columns] == list(
            {**output.columns, **output.added}.items()
        )
    files = f"'{output.folder}/*.parquet'"
    found = duckdb.sql(f"SELECT n, who, nested, big, initial_reasoning FROM {files}").fetchall()
    assert found == [
        (1.0, None, None, None, "first"),
        (0.5, None, '{"a":"\\u0000\'"}', None, "first"),
        (None, "Ø", None, 2**62, "first"),
    ]


def test_json_lines_keep_what_they_hold_and_their_order(tmp_path):
    path = tmp_path / "rows.jsonl"
    text = "\\u2028Mara Holt \\ud83d\\ude00"
    line = f'{{"z": [1, {{"b": null}}], "id": {10**29}, "text": "{text}", "a": 1.5}}'
    path.write_text(line + "\n")
    index, output = opened(path, tmp_path / "out")
    write_all(index, output)
    (row,) = block_file(output, 0).read_text(encoding="utf-8").split("\n")[:-1]
    assert list(json.loads(row)) == [*json.loads(line), *output.added]
    assert json.loads(row).items() >= json.loads(line).items()
    assert (json.loads(row)["predicted"][0]["start"], json.loads(row)["predicted"][0]["end"]) == (1, 10)


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("said", "expected"), [({"person": 0.5, "place": 0.1, "club": 0.4}, (0.5, "club")), ({}, (None, None))]
)
def test_entities_have_their_score_and_runner_up(tmp_path, ending, said, expected):
    index, output = opened(parquet(tmp_path), tmp_path / f"out{ending}", with_scores=True)
    write_all(index, output, said=said)
    if ending == ".jsonl":
        entity = json.loads(block_file(output, 0).read_text().splitlines()[0])["predicted"][0]
        assert (entity.get("score"), entity.get("runner_up")) == expected
    else:
        found = duckdb.sql(
            f"SELECT predicted[1].score, predicted[1].runner_up FROM '{block_file(output, 0)}' LIMIT 1"
        )
        assert found.fetchall() == [expected]


def test_tokens_that_came_in_are_not_written_twice(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"tokens": ["Mara", "Holt"]}\n')
    index, output = opened(path, tmp_path / "out.parquet")
    write_all(index, output)
    ((tokens, text),) = duckdb.sql(
        f"SELECT tokens, predicted[1]['text'] FROM '{block_file(output, 0)}'"
    ).fetchall()
    assert (tokens, text) == (["Mara", "Holt"], "Mara Holt")


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
@pytest.mark.parametrize("source", ["rows.jsonl", "rows.parquet"])
def test_a_block_of_bad_rows_alone_is_an_empty_file(tmp_path, ending, source):
    if source == "rows.jsonl":
        (tmp_path / source).write_text('{"text": ""}\n{"text": " "}\n{"text": "Mara Holt"}\n')
    else:
        rows = "SELECT unnest(['', ' ', 'Mara Holt']) AS text"
        duckdb.sql(f"COPY ({rows}) TO '{tmp_path / source}' (FORMAT parquet)")
    index, output = opened(tmp_path / source, tmp_path / f"out{ending}")
    write_all(index, output)
    read = "read_json" if ending == ".jsonl" else "read_parquet"
    assert [block.n_sentences for block in index.blocks] == [0, 1]
    assert block_file(output, 0).exists()
    if ending == ".jsonl":
        assert block_file(output, 0).read_text() == ""
    else:
        assert duckdb.sql(f"SELECT count(*) FROM {read}('{block_file(output, 0)}')").fetchall() == [(0,)]


# --- the folder ------------------------------------------------------------------------------------------


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path / "out", "jsonl", {}, {})


def test_what_a_kill_left_is_swept_and_answers_of_unfinished_blocks_stay(output):
    with claimed(output, MANIFEST_OF):
        pass
    (output.folder / ".scratch-abc").mkdir()
    (output.folder / ".scratch-abc" / "rows.jsonl").write_text("half")
    (output.folder / ".scratch-manifest").write_text("half")
    block_file(output, 0).write_text("")
    for number in (0, 1):
        answers_file(output, number).write_text("")
    with claimed(output, MANIFEST_OF):
        left = {path.name for path in output.folder.iterdir()}
    assert left == {".lock", MANIFEST, "block-000000.jsonl", ".answers-000001.jsonl"}


def test_a_folder_has_one_writer(output):
    with (
        claimed(output, MANIFEST_OF),
        pytest.raises(UsageError, match="another process is annotating"),
        claimed(output, MANIFEST_OF),
    ):
        pass
    with claimed(output, MANIFEST_OF):
        pass


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"made_of": 5}'])
def test_a_broken_manifest_is_told(output, text):
    output.folder.mkdir()
    (output.folder / MANIFEST).write_text(text)
    with pytest.raises(UsageError, match="Name another folder"), claimed(output, MANIFEST_OF):
        pass


def test_a_failing_write_leaves_nothing_under_the_name(tmp_path, monkeypatch):
    path = parquet(tmp_path)
    index, output = opened(path, tmp_path / "out.parquet")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_all(index, output)
    assert list(output.folder.iterdir()) == []


def test_sources_say_where_they_lie_for_other_processes(tmp_path, monkeypatch):
    parquet(tmp_path)
    monkeypatch.chdir(tmp_path)
    source = open_source(Path("rows.parquet"), None)
    assert source == replace(source, path=tmp_path / "rows.parquet") == Source(source.path, "parquet", "text")
