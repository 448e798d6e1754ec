"""Rows of a JSON Lines file: each line an object, or a reason why it is none; and the columns they would make.

Knows nothing of sentences.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, cast

from cdner.errors import InputError
from cdner.hashing import Json

MOST_COLUMNS = 1000  # of a table; keys that are data make a column each
_INT64 = 1 << 63
_LIST_OF_TEXTS = "VARCHAR[]"
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
        raise InputError(f"not JSON: {error}") from None
    except RecursionError:
        raise InputError("nested too deeply") from None
    if not isinstance(row, dict):
        raise InputError("not a JSON object")
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
    raise ValueError(f"{constant} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number
