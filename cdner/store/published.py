"""Published numbers, read from ``store/published/*.toml`` into a table that is remade when a file changes.

The files are laid out as the tables are printed, so that a reader can check them side by side. What a key does not
say in a row, its block says, or the file. Knows nothing of our own scores: the view ``published_comparison`` does.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from cdner.errors import StoreError
from cdner.hashing import content_hash
from cdner.resources import resource_root
from cdner.store.rows import Row, insert_rows

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# Column -> what it is where neither row, block nor file says; ... where one of them must.
_COLUMNS: Mapping[str, Any] = {
    "publication": ...,
    "source_table": ...,
    "method": ...,
    "year": None,
    "setting": "",
    "source_domain": "",
    "target_domain": ...,
    "entity_type": "*",
    "shots": ...,
    "backbone": "",
    "llm": "",
    "metric": ...,
    "scorer": ...,
    "split": ...,
    "n_seeds": None,
    "value": ...,
    "reference": ...,
    "remark": "",
}
_LAYOUT = {"block", "remark_on", "column", "columns", "fields", "rows"}
_NOT_PRINTED = "-"


@cache
def published_texts() -> Mapping[str, str]:
    """File name -> text, by name."""
    files = sorted((resource_root("store") / "published").glob("*.toml"))
    return {file.name: file.read_text(encoding="utf-8") for file in files}


def read_published(name: str, text: str) -> list[dict[str, Any]]:
    """One record (the columns of ``published_score``) a printed number. StoreError for a file laid out otherwise."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StoreError(f"store/published/{name}: {error}.") from error
    records: list[dict[str, Any]] = []
    for block in table["block"]:
        common = {**{key: value for key, value in table.items() if key not in _LAYOUT}, **block}
        columns = common.pop("columns", table.get("columns"))
        for row in common["rows"]:
            records += _records_of(name, row, common, columns=columns, column=table["column"])
    for remark in table.get("remark_on", ()):
        _attach(name, records, remark)
    return records


def _records_of(
    name: str, row: Sequence[Any], common: Mapping[str, Any], *, columns: Sequence[str], column: str
) -> list[dict[str, Any]]:
    """The numbers of one printed row."""
    fields = common["fields"]
    values = row[len(fields) :]
    if len(values) != len(columns):
        raise StoreError(
            f"store/published/{name}: {row} has {len(values)} numbers for {len(columns)} columns."
        )
    known = {key: value for key, value in common.items() if key not in _LAYOUT}
    known |= dict(zip(fields, row, strict=False))
    found = []
    for heading, value in zip(columns, values, strict=True):
        if value == _NOT_PRINTED:
            continue
        record = {**_COLUMNS, **known, column: heading, "value": float(value)}
        missing = [key for key, given in record.items() if given is ...]
        if missing or len(record) != len(_COLUMNS):
            unknown = [key for key in record if key not in _COLUMNS]
            raise StoreError(f"store/published/{name}: {row} lacks {missing}, has unknown {unknown}.")
        found.append(record)
    return found


def _attach(name: str, records: Sequence[dict[str, Any]], remark: Mapping[str, Any]) -> None:
    """Put a remark on the records it names."""
    where = remark["where"]
    meant = [record for record in records if all(record.get(key) == value for key, value in where.items())]
    if not meant:
        raise StoreError(f"store/published/{name}: no number fits the remark on {where}.")
    for record in meant:
        record["remark"] = remark["text"]


def is_current(connection: DuckDBPyConnection) -> bool:
    """Whether the table was made from the files as they are."""
    made = connection.execute("SELECT name, text_hash FROM published_file").fetchall()
    return dict(made) == _hashes()


def remake(connection: DuckDBPyConnection) -> None:
    """Make the table from the files, inside the caller's transaction."""
    rows: list[Row] = [
        tuple(record[column] for column in _COLUMNS)
        for name, text in published_texts().items()
        for record in read_published(name, text)
    ]
    connection.execute("DELETE FROM published_score")
    connection.execute("DELETE FROM published_file")
    insert_rows(connection, "published_score", tuple(_COLUMNS), rows)
    insert_rows(connection, "published_file", ("name", "text_hash"), list(_hashes().items()))


@cache
def _hashes() -> dict[str, str]:
    return {name: content_hash(text) for name, text in published_texts().items()}
