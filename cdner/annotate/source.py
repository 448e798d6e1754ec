"""Rows of a JSON Lines file: each line an object, or a reason why it is none; and the columns they would make.

Knows nothing of sentences.

The input of a bulk annotation in blocks: which sentence each row holds, and where a block lies in the file.

Blocks follow from the file and the number of rows alone, so that every engine cuts alike and a second run finds what
the first has done. One pass before anything is loaded finds every bad row; no more than a block is in memory.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

from cdner.corpora.plain_text import tokenise
from cdner.errors import InputError, UsageError
from cdner.files import Json, file_sha256
from cdner.store.parquet import FileFormat, column_values, parquet_columns
from cdner.types import Sentence

MOST_COLUMNS = 1000  # of a table; keys that are data make a column each
_INT64 = 1 << 63
_LIST_OF_TEXTS = "VARCHAR[]"
_ARRAY = "a JSON array, not one object a line"
_ANYTHING = "JSON"  # a column whose values have no common type holds them as JSON text


def parsed(line: bytes) -> dict[str, Json]:
    """The object of a line. InputError says what is wrong, not where."""
    try:
        row = json.loads(line.decode("utf-8-sig"), parse_constant=_refused, parse_float=_finite)
        if b"\\ud" in line.lower():  # half a surrogate pair is JSON, but no text
            written(row).encode()
    except UnicodeDecodeError:
        raise InputError("not UTF-8") from None
    except UnicodeEncodeError:
        raise InputError("half of a surrogate pair, which is no character") from None
    except ValueError as error:
        if line.lstrip(b"\xef\xbb\xbf \t").startswith(b"["):
            raise InputError(_ARRAY) from None
        raise InputError(f"not JSON: {error}") from None
    except RecursionError:
        raise InputError("nested too deeply") from None
    if not isinstance(row, dict):
        raise InputError(_ARRAY if isinstance(row, list) else "not a JSON object")
    return cast(dict[str, Json], row)


def written(value: Any) -> str:
    """The value on one line, keys in their order."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def note_columns(types: dict[str, str], row: Mapping[str, Json]) -> None:
    """Widen the columns' types (DuckDB's; "" is not known yet) so that they take the row."""
    for name, value in row.items():
        kind, known = _type_of(value), types.get(name, "")
        if not known or not kind or known == kind:
            types[name] = known or kind
        else:
            types[name] = "DOUBLE" if {known, kind} == {"BIGINT", "DOUBLE"} else _ANYTHING


def table_columns(types: Mapping[str, str]) -> dict[str, str]:
    """The columns' final types. InputError for too many, and for names that a table cannot tell apart."""
    if len(types) > MOST_COLUMNS:
        raise InputError(f"the rows have more than {MOST_COLUMNS} different keys")
    folded: dict[str, str] = {}
    for name in types:
        if other := folded.get(name.casefold()):
            raise InputError(f"the keys '{other}' and '{name}' differ in case alone")
        folded[name.casefold()] = name
    return {name: kind or "VARCHAR" for name, kind in types.items()}


def _type_of(value: Json) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "BOOLEAN"
    if isinstance(value, int):
        return "BIGINT" if -_INT64 <= value < _INT64 else _ANYTHING
    if isinstance(value, float):
        return "DOUBLE"
    if isinstance(value, str):
        return "VARCHAR"
    is_texts = isinstance(value, list) and value and all(isinstance(part, str) for part in value)
    return _LIST_OF_TEXTS if is_texts else _ANYTHING


def _refused(constant: str) -> float:
    raise InputError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


FORMATS: dict[str, FileFormat] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
TOKENS, TEXT = "tokens", "text"  # columns looked for, in this order
RENAMED = "input_tokens"  # what the input's own tokens are called where annotating makes others
ROWS = "_rows.jsonl"  # in OUTPUT: the rows made of a text or a table
N_TOLD = 5  # bad rows that are named; the rest is counted


@dataclass(frozen=True, slots=True)
class Source:
    """A file of rows, each with a sentence in one column: a text, or a list of tokens."""

    path: Path
    format: FileFormat
    column: str
    skips_bad_rows: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    number: int  # 0-based
    first: int  # 0-based row of the file; a line of JSON Lines, empty ones among them
    n_rows: int
    offset: int  # JSON Lines: in bytes
    n_bytes: int
    n_sentences: int  # rows that can be annotated


@dataclass(frozen=True, slots=True)
class Row:
    number: int  # 0-based, in the file
    sentence: Sentence
    text: str  # that the tokens lie in, in their order
    fields: dict[str, Json] | None  # of a JSON Lines row, as it is; None: they stay in the Parquet file


@dataclass(slots=True)
class Index:
    """What one pass over a source finds."""

    source: Source
    sha256: str
    blocks: list[Block] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)  # name -> DuckDB's type; of JSON Lines as a table
    n_bad: int = 0
    n_renamed: int = 0  # rows whose own tokens are kept as ``RENAMED``
    bad: list[str] = field(default_factory=list)  # the first few, each with its place

    @property
    def n_sentences(self) -> int:
        return sum(block.n_sentences for block in self.blocks)


class _Scanned(NamedTuple):
    number: int
    n_bytes: int
    value: object  # of the sentence's column
    fields: dict[str, Json] | None
    problem: str  # "": none
    is_row: bool = True  # False: an empty line
    is_renamed: bool = False  # its own tokens are now called ``RENAMED``


def open_source(path: Path, column: str | None, *, skips_bad_rows: bool = False) -> Source:
    """The column given, else "tokens", else "text". UsageError for another ending and for no such column.

    Tokens that are objects (Prodigy's) are passed over: their text is read. InputError if no line is an object.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"{path}: rows come from files ending in {', '.join(FORMATS)}. Convert or rename it."
        )
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file.")
    file_format = FORMATS[path.suffix.lower()]
    names = (
        list(parquet_columns(path)) if file_format == "parquet" else _first_keys(path, by_name=bool(column))
    )
    wanted = (column,) if column else (TOKENS, TEXT)
    found = next((name for name in wanted if name in names), None)
    if found is None:
        raise UsageError(
            f"{path}: no column {' or '.join(repr(name) for name in wanted)} in the first row; it has: "
            f"{', '.join(names) or 'nothing'}. Name the one with the sentences: --column NAME."
        )
    return Source(path.resolve(), file_format, found, skips_bad_rows)


def read_index(source: Source, *, block_size: int, added: Collection[str], as_table: bool) -> Index:
    """Go over all rows once. InputError for the first bad one, unless the source skips them: then they are counted.

    ``added``: columns that no row may have already. ``as_table``: find the columns' types of JSON Lines, too.
    """
    index = Index(source, file_sha256(source.path))
    if source.format == "parquet":
        index.columns = parquet_columns(source.path)
        if taken := [name for name in index.columns if name.casefold() in added]:
            raise InputError(f"{source.path}: {_taken(taken[0])}")
    scanned, types, offset = _scan(source), dict[str, str](), 0
    while piece := list(islice(scanned, block_size)):
        for row in piece:
            _note(index, row, types if as_table else None, added)
        if as_table and source.format == "jsonl":
            index.columns = _table_columns(source, types, added)
        n_bytes = sum(row.n_bytes for row in piece)
        n_sentences = sum(row.is_row and not row.problem for row in piece)
        index.blocks.append(
            Block(len(index.blocks), piece[0].number, len(piece), offset, n_bytes, n_sentences)
        )
        offset += n_bytes
    return index


def read_block(source: Source, block: Block) -> list[Row]:
    """The rows of a block that can be annotated, in order. InputError as in ``read_index``."""
    rows = []
    for scanned in _scan(source, block):
        if scanned.problem and not source.skips_bad_rows:
            raise InputError(_placed(source, scanned))
        if scanned.is_row and not scanned.problem:
            rows.append(_row(scanned))
    return rows


def _note(index: Index, row: _Scanned, types: dict[str, str] | None, added: Collection[str]) -> None:
    """What a row adds to the index."""
    if row.problem:
        if not index.source.skips_bad_rows:
            raise InputError(f"{_placed(index.source, row)} To leave such rows out: --on-bad-row skip.")
        index.n_bad += 1
        if index.n_bad <= N_TOLD:
            index.bad.append(_placed(index.source, row))
    elif row.fields is not None:
        index.n_renamed += row.is_renamed
        if taken := sorted(row.fields.keys() & set(added)):
            raise InputError(f"{index.source.path}, line {row.number + 1}: {_taken(taken[0])}")
        if types is not None:
            note_columns(types, row.fields)


def _taken(name: str) -> str:
    return f"it has a column '{name}' already, which annotating adds. Rename it."


def _placed(source: Source, row: _Scanned) -> str:
    place = "line" if source.format == "jsonl" else "row"
    return f"{source.path}, {place} {row.number + 1}: {row.problem}."


def _table_columns(source: Source, types: dict[str, str], added: Collection[str]) -> dict[str, str]:
    try:
        table_columns({**types, **dict.fromkeys(added, "")})
        return table_columns(types)
    except InputError as error:
        raise InputError(f"{source.path}: {error}. Write JSON Lines instead: OUTPUT.jsonl.") from error


# --- rows ------------------------------------------------------------------------------------------------


def _scan(source: Source, block: Block | None = None) -> Iterator[_Scanned]:
    """Every row of the file, or of one block."""
    if source.format == "parquet":
        return _scan_parquet(source, block)
    return _scan_json_lines(source, block)


def _scan_parquet(source: Source, block: Block | None) -> Iterator[_Scanned]:
    first, n_rows = (block.first, block.n_rows) if block else (0, None)
    values = column_values(source.path, source.column, first=first, n_rows=n_rows)
    for number, value in enumerate(values, start=first):
        yield _Scanned(number, 0, value, None, _problem(value, source.column))


def _scan_json_lines(source: Source, block: Block | None) -> Iterator[_Scanned]:
    with source.path.open("rb") as file:
        if block is None:
            yield from _scan_lines(file, source.column, first=0)
        else:
            file.seek(block.offset)
            yield from _scan_lines(io.BytesIO(file.read(block.n_bytes)), source.column, first=block.first)


def _scan_lines(lines: io.BufferedIOBase, column: str, *, first: int) -> Iterator[_Scanned]:
    for number, line in enumerate(lines, start=first):
        if not line.strip():
            yield _Scanned(number, len(line), None, None, "", is_row=False)
            continue
        try:
            fields = parsed(line)
        except InputError as error:
            yield _Scanned(number, len(line), None, None, str(error))
            continue
        value, is_renamed = fields.get(column), False
        if column != TOKENS and TOKENS in fields and RENAMED not in fields:
            fields = {RENAMED if name == TOKENS else name: held for name, held in fields.items()}
            is_renamed = True
        yield _Scanned(number, len(line), value, fields, _problem(value, column), is_renamed=is_renamed)


def _problem(value: object, column: str) -> str:
    """Why this is no sentence; "" if it is one."""
    if value is None:
        return f"no '{column}'"
    if isinstance(value, str):
        return "" if value.split() else f"'{column}' is empty"
    if not isinstance(value, list) or not all(isinstance(token, str) for token in value):
        return f"'{column}' is neither a text nor a list of tokens"
    if not value:
        return f"'{column}' is empty"
    broken = next((place for place, token in enumerate(value) if token.split() != [token]), None)
    return "" if broken is None else f"token {broken} in '{column}' is empty or holds white space"


def _row(scanned: _Scanned) -> Row:
    value = scanned.value
    if isinstance(value, str):
        return Row(scanned.number, Sentence(tokenise(value)), value, scanned.fields)
    assert isinstance(value, list)  # noqa: S101  `_problem` has seen to it
    sentence = Sentence(tuple(value))
    return Row(scanned.number, sentence, sentence.text, scanned.fields)


def _first_keys(path: Path, *, by_name: bool) -> list[str]:
    """Keys of the first line that is an object; without ``by_name`` tokens that are objects are none of them.

    Raises InputError with the place of the first line if no line is an object.
    """
    first = ""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = parsed(line)
            except InputError as error:
                first = first or f"{path}, line {number}: {error}."
                continue
            tokens = row.get(TOKENS)
            has_objects = isinstance(tokens, list) and any(isinstance(token, dict) for token in tokens)
            return [name for name in row if by_name or name != TOKENS or not has_objects]
    if first:
        raise InputError(first)
    return []
