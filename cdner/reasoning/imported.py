"""Reasoning texts made elsewhere: rows of a JSON Lines file, and which sentence each belongs to.

Exists because a text by another tool, another machine or a person should train the same backbone as one asked for
here. Strict where a slip would put a text beside the wrong sentence: a row whose position and text disagree, and two
different rows for one sentence, are errors. Knows nothing of the store, of backends or of gold labels.

A row is ``{"domain", "split", "position" and/or "text", "model", "reasoning" or "initial" and "bidirectional"}``;
other keys are ignored. ``position`` is the sentence's 0-based place in the whole split. Texts are compared without
their white space, so a text need not be cut into tokens as the corpus is.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from cdner.config import Setting
from cdner.errors import InputError
from cdner.reasoning.parsing import parse_reasoning
from cdner.types import ReasoningChain, Split

_INITIAL, _BIDIRECTIONAL = "initial", "bidirectional"
# What an answer to our prompt would be blamed for and a file is free to do: its format, and parts no setting asked for.
_NO_FAULT = {"other_format", "unexpected_part"}
_ONE_PART = {
    "missing_heading",
    "missing_initial",
}  # prose without headings stands in the part that is cut last


@dataclass(frozen=True, slots=True)
class ImportedRow:
    line: int  # 1-based
    domain: str
    split: str
    position: int | None
    text: str | None  # of the sentence, without white space
    model: str
    written: str  # the reasoning in one text; two parts as JSON. "": the row has none

    def says_the_same(self, other: ImportedRow) -> bool:
        return (self.model, self.written) == (other.model, other.written)


@dataclass(frozen=True, slots=True)
class Matched:
    """Which row serves which sentence of one split, and what became of the others."""

    rows: Mapping[int, ImportedRow]  # by position
    n_elsewhere: int  # rows of other domains or splits
    n_repeated: int  # rows that say again what another said of the sentence
    unmatched: tuple[int, ...]  # lines of rows whose text or position no sentence has


# --- the file --------------------------------------------------------------------------------------------


def read_rows(path: Path, content: bytes) -> list[ImportedRow]:
    """All rows of a JSON Lines file. InputError names file, line and what is wrong."""
    return [
        _read_row(line, where=f"{path}, line {number}", number=number)
        for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1)
        if line.strip()
    ]


def _read_row(line: bytes, *, where: str, number: int) -> ImportedRow:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON in UTF-8: {error}.") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected one JSON object a line, found {_kind(row)}.")
    split = _string(row, "split", where)
    if split not in get_args(Split):
        raise InputError(f"{where}: split is '{split}', expected one of {', '.join(get_args(Split))}.")
    position = row.get("position")
    if position is not None and (type(position) is not int or position < 0):
        raise InputError(f"{where}: position is {_kind(position)}, expected a whole number from 0.")
    text = _string(row, "text", where) if row.get("text") is not None else None
    if position is None and not (text and text.strip()):
        raise InputError(f"{where}: neither position nor text says which sentence it is about.")
    model = _string(row, "model", where).strip()
    if not model:
        raise InputError(f"{where}: model is empty; name who wrote the text.")
    key = _key(text) if text is not None else None
    return ImportedRow(
        number, _string(row, "domain", where), split, position, key, model, _written(row, where)
    )


def _written(row: dict[str, Any], where: str) -> str:
    parts = [name for name in (_INITIAL, _BIDIRECTIONAL) if row.get(name) is not None]
    if (row.get("reasoning") is not None) == bool(parts) or len(parts) == 1:
        raise InputError(f"{where}: expected either reasoning, or both {_INITIAL} and {_BIDIRECTIONAL}.")
    if not parts:
        return _string(row, "reasoning", where).strip()
    texts = {f"{name}_reasoning": _string(row, name, where).strip() for name in parts}
    return json.dumps(texts, ensure_ascii=False) if any(texts.values()) else ""


def _string(row: dict[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise InputError(f"{where}: {name} is {_kind(value)}, expected a text.")
    # Lone surrogates and NUL, which JSON can spell and no store takes, become U+FFFD.
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\x00", "\ufffd")


def _kind(value: object) -> str:
    if value is None:
        return "missing"
    return repr(value) if isinstance(value, int | float) else f"a {type(value).__name__}"


def _key(text: str) -> str:
    return "".join(text.split())


# --- rows to sentences -----------------------------------------------------------------------------------


def match_rows(
    rows: Sequence[ImportedRow], texts: Sequence[str], *, domain: str, split: str, path: Path
) -> Matched:
    """Give every sentence of a split (``texts``, all of them in order) its row, by its position or by its text.

    A row serves all sentences with its text that have none of their own. InputError, with the number of cases and
    the lines of the first, for rows at odds with the corpus or with each other.
    """
    keys = [_key(text) for text in texts]
    mine = [row for row in rows if (row.domain, row.split) == (domain, split)]
    _refuse_misplaced(mine, keys, where=f"{path}, {domain}/{split}")
    known = set(keys)
    by_position: dict[int, list[ImportedRow]] = defaultdict(list)
    by_text: dict[str, list[ImportedRow]] = defaultdict(list)
    unmatched = []
    for row in mine:
        if row.position is not None and row.position < len(keys):
            by_position[row.position].append(row)
        elif row.position is None and row.text in known:
            by_text[row.text or ""].append(row)
        else:
            unmatched.append(row.line)
    candidates = {
        position: [*by_position.get(position, ()), *by_text.get(key, ())] for position, key in enumerate(keys)
    }
    _refuse_rivals(candidates.values(), where=f"{path}, {domain}/{split}")
    n_repeated = sum(len(same) - 1 for same in (*by_position.values(), *by_text.values()))
    chosen = {position: found[0] for position, found in candidates.items() if found}
    return Matched(chosen | _siblings(chosen, keys), len(rows) - len(mine), n_repeated, tuple(unmatched))


def _siblings(chosen: Mapping[int, ImportedRow], keys: Sequence[str]) -> dict[int, ImportedRow]:
    """Rows for sentences without one: that of an equal text elsewhere, if all such rows say the same."""
    by_key: dict[str, list[ImportedRow]] = defaultdict(list)
    for position, row in chosen.items():
        by_key[keys[position]].append(row)
    return {
        position: same[0]
        for position, key in enumerate(keys)
        if position not in chosen and (same := by_key.get(key)) and all(map(same[0].says_the_same, same))
    }


def _refuse_misplaced(rows: Iterable[ImportedRow], keys: Sequence[str], *, where: str) -> None:
    wrong = [
        row
        for row in rows
        if row.position is not None
        and row.text is not None
        and (row.position >= len(keys) or keys[row.position] != row.text)
    ]
    if wrong:
        raise InputError(
            f"{where}: position and text disagree in {len(wrong)} rows, first in line {wrong[0].line} (position "
            f"{wrong[0].position}). Is it another version of the corpus? Without positions rows go by their texts."
        )


def _refuse_rivals(candidates: Iterable[Sequence[ImportedRow]], *, where: str) -> None:
    rivals = [
        (rows[0], other)
        for rows in candidates
        if (other := next((row for row in rows if not rows[0].says_the_same(row)), None)) is not None
    ]
    if rivals:
        one, other = rivals[0]
        raise InputError(
            f"{where}: {len(rivals)} sentences have two different rows, the first in lines {one.line} and "
            f"{other.line}. Keep one of each, or give positions where the corpus has a text twice."
        )


# --- texts to reasoning ----------------------------------------------------------------------------------


def imported_chain(written: str, setting: Setting) -> ReasoningChain:
    """The parts the setting uses. One text is read as an LLM's answer: JSON, headings, or all of it one part."""
    chain = parse_reasoning(written, setting, structured=False)
    no_fault = _NO_FAULT | (_ONE_PART if "missing_heading" in chain.malformed else set())
    malformed = {kind: count for kind, count in chain.malformed.items() if kind not in no_fault}
    return ReasoningChain(chain.initial, chain.bidirectional, malformed)
