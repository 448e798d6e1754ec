"""Converts plain text, folders of texts, tables and standard input to rows of JSON Lines.

The rows are kept in OUTPUT, so that each block has the same bytes when the command continues after a kill.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path

from cdner.annotate.output import SCRATCH, refuse_foreign
from cdner.annotate.source import ROWS, written
from cdner.errors import InputError, UsageError
from cdner.files import Json
from cdner.formats.annotated_text import sentence_spans

STANDARD_INPUT = Path("-")
_TEXT = (".txt", ".text")
_TABLES = {".csv": ",", ".tsv": "\t"}


def as_rows(path: Path, output: Path) -> Path:
    """The file itself, or ``OUTPUT/_rows.jsonl`` made of a text, a folder of texts, a table or standard input ("-").

    A text gives one row a sentence: text, file (its name) and start (in characters). A table gives its rows. Raises
    InputError with file and line for what cannot be read, UsageError for a folder without texts.
    """
    if path != STANDARD_INPUT and not path.is_dir() and path.suffix.lower() not in (*_TEXT, *_TABLES):
        return path
    refuse_foreign(output)
    output.mkdir(parents=True, exist_ok=True)
    scratch = output / f"{SCRATCH}rows"
    with scratch.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in _lines(path))
    return scratch.replace(output / ROWS)


def _lines(path: Path) -> Iterator[str]:
    if path == STANDARD_INPUT:
        content = _decoded(sys.stdin.buffer.read(), "standard input")
        is_rows = content.lstrip("\ufeff \t\r\n").startswith("{")
        yield from content.splitlines() if is_rows else _of_text(content, "-")
    elif path.is_dir():
        texts = sorted(part for part in path.rglob("*") if part.suffix.lower() in _TEXT and part.is_file())
        if not texts:
            raise UsageError(f"{path}: no texts in this folder; their names end in {' or '.join(_TEXT)}.")
        for text in texts:
            yield from _of_text(_read(text), str(text.relative_to(path)))
    elif path.suffix.lower() in _TABLES:
        yield from map(written, _of_table(path, _TABLES[path.suffix.lower()]))
    else:
        yield from _of_text(_read(path), path.name)


def _of_text(text: str, name: str) -> Iterator[str]:
    for start, end in sentence_spans(text, ()):
        if text[start:end].strip():
            yield written({"text": text[start:end], "file": name, "start": start})


def _of_table(path: Path, separator: str) -> Iterator[dict[str, Json]]:
    reader = csv.reader(io.StringIO(_read(path), newline=""), delimiter=separator, strict=True)
    try:
        header = next(reader, [])
        if twice := [name for name in header if header.count(name) > 1]:
            raise InputError(f"{path}, line 1: two columns are called '{twice[0]}'.")
        for row in reader:
            if len(row) > len(header):
                raise InputError(
                    f"{path}, line {reader.line_num}: {len(row)} cells, but the header has {len(header)}."
                )
            if row:
                yield {**dict.fromkeys(header), **dict(zip(header, row, strict=False))}
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not a table: {error}.") from error


def _read(path: Path) -> str:
    try:
        return _decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from error


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{name}, line {line}: not UTF-8. Convert it first.") from error
