"""Reads what an LLM wrote: JSON or headings, complete or cut off. What is wrong is a named count, no error.

The raw text is kept by the caller; what is returned here is clean Unicode that any store and any model can
take.

Kinds: ``empty`` nothing was written · ``code_fence`` the answer stands in a Markdown fence ·
``surrounding_text`` text before or after it was dropped · ``truncated_json`` an object that does not end or
does not parse was read as far as it goes · ``other_format`` headings where JSON was asked for, or the reverse
· ``missing_heading`` prose was taken for a part although its heading is missing · ``missing_initial`` and
``missing_bidirectional`` a part is absent or empty · ``duplicate_part`` a part came again, the first one
counts · ``unexpected_part`` a part or key nobody asked for was dropped · ``wrong_type`` a value is no string
· ``thoughts`` a reasoning model's thoughts were dropped · ``invalid_characters`` NUL or lone surrogates were replaced.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import cast

from cdner.config import Setting
from cdner.files import Json
from cdner.prompts import INITIAL_PART, output_parts
from cdner.reasoning.entity_shapes import by_type
from cdner.reasoning.json_in_text import (
    FoundObject,
    Pairs,
    QuotedValue,
    objects,
    quoted_values,
    says_nothing,
    without_cut_key,
)
from cdner.thoughts import separate_thoughts
from cdner.types import ReasoningChain

_PART = r"(initial|bidirectional|forward)[ _-]?reasoning"
_STEP = r"(?:step[ \t]{0,2}\d{1,2}[ \t:.)*_-]{0,6})?"  # the steps of the prompt are numbered
# Repetitions are bounded and never cross a line, so that a megabyte of asterisks takes linear time.
_HEADING = re.compile(
    rf"^[ \t>*#_\d.)-]{{0,8}}{_STEP}{_PART}[ \t*_]{{0,4}}(?:[:：][*_]{{0,3}}|$)|\b{_PART}[*_]{{0,3}}[:：][*_]{{0,3}}",
    re.IGNORECASE | re.MULTILINE,
)
_ENTITIES = re.compile(r"\"entities\"\s{0,20}:|^[ \t*#]{0,8}entities[*]{0,3}:", re.IGNORECASE | re.MULTILINE)
_FENCE = re.compile(r"`{3,8}(?:[\w+-]{1,12}(?=\s{0,8}[\n{\[]))?")
_LABEL = re.compile(r"\A[\s*#_]{0,8}description[*_]{0,3}\s?[:：][*_]{0,3}", re.IGNORECASE)
_INVALID = re.compile(r"[\x00\ud800-\udfff]")
_PUNCTUATION = " \t\r\n{}[],:\"'“”"  # what is left of an object around its values
_OPENING_BLANKS = " \t\r\n\ufeff"  # with the byte order mark
_FIRST, _SECOND = "initial", "bidirectional"  # a part's slot; "forward" is what stands in the second one


def parse_reasoning(text: str, setting: Setting, *, structured: bool) -> ReasoningChain:
    """The two parts of an answer; a part the setting does not ask for is "". Never raises on any text."""
    counts: Counter[str] = Counter()
    wanted = [_FIRST, _SECOND] if INITIAL_PART in output_parts(setting) else [_SECOND]
    text = _without_thoughts(text.lstrip(_OPENING_BLANKS), counts)
    parts = _json_parts(text, wanted, counts)
    is_json = parts is not None
    if parts is None:
        parts = _heading_parts(text, wanted, counts)
    if text.strip():
        counts["other_format"] += is_json != structured
    else:
        counts["empty"] += 1
    for slot in [slot for slot in parts if slot not in wanted]:
        del parts[slot]
        counts["unexpected_part"] += 1
    found = {slot: _clean(part, counts) for slot, part in parts.items()}
    for slot in wanted:
        counts[f"missing_{slot}"] += not found.get(slot)
    return ReasoningChain(
        initial=found.get(_FIRST, ""),
        bidirectional=found.get(_SECOND, ""),
        malformed={kind: count for kind, count in sorted(counts.items()) if count},
    )


def parse_description(text: str) -> str:
    """One clean paragraph (C_e of eq. 5) from plain text or {"description": ...}; may be ""."""
    counts: Counter[str] = Counter()
    text = _without_thoughts(text.lstrip(_OPENING_BLANKS), counts)
    text = _LABEL.sub("", _FENCE.sub("", _described(text, counts)), count=1)
    return " ".join(_clean(text, counts).strip('"').split())


def entities_text(text: str) -> str:
    """The part of an answer by a ``ner`` template that holds the entities, as ``cdner.codec`` reads it.

    The last object named "entities" or headed "Entities:"; without such a mark the whole text. Objects with a text and
    a type become ``{type: [mention, ...]}`` (``entity_shapes``).
    """
    text = separate_thoughts(text).answer
    marks = list(_ENTITIES.finditer(text))
    answer = text[marks[-1].end() :] if marks else text
    if (named := by_type(_FENCE.sub("", answer))) is not None:
        return named
    start = answer.find("{")
    if not marks or start < 0:
        return _FENCE.sub("", answer).strip()
    whole = next(objects(answer), None)
    if whole is not None and whole.start == start:
        return answer[start : whole.end]
    return _FENCE.sub("", answer[start:]).strip()


def without_entities(text: str) -> str:
    """A headed answer by a ``ner`` template up to its entities: the reasoning alone."""
    text = separate_thoughts(text).answer
    marks = list(_ENTITIES.finditer(text))
    return text[: marks[-1].start()] if marks else text


def _without_thoughts(text: str, counts: Counter[str]) -> str:
    """Without what a reasoning model wrote to itself before its answer."""
    written = separate_thoughts(text)
    counts["thoughts"] += bool(written.thoughts)
    return written.answer


def _described(text: str, counts: Counter[str]) -> str:
    """The description in an object, whole or cut; or the only text in an object; or the text itself."""
    found = list(objects(text))
    for key, value in (pair for one in found for pair in one.pairs):
        if key.strip().lower() == "description":
            return "" if value is None else _as_text(value, counts)
    if broken := quoted_values(text, "(description)"):
        return broken[0].value
    if len(found) == 1 and len(found[0].pairs) == 1 and isinstance(only := found[0].pairs[0][1], str):
        return only
    return "" if says_nothing(text) else text


def _json_parts(text: str, wanted: list[str], counts: Counter[str]) -> dict[str, str] | None:
    """Slot -> text, from the objects that name a part; None when there is none such."""
    parts: dict[str, str] = {}
    read: list[FoundObject] = []
    for found in objects(text):
        values = _named_values(found.pairs, counts)
        if values is None:
            continue
        read.append(found)
        for slot, value in values:
            if slot in parts:
                counts["duplicate_part"] += 1
            elif value is not None:
                parts[slot] = _as_text(value, counts)
    rest = _outside(text, read)
    missing = [slot for slot in wanted if slot not in parts]
    broken = quoted_values(rest, _PART) if missing else []
    if broken:
        counts["truncated_json"] += 1
        rest = without_cut_key(_outside(rest, broken))
        for piece in broken:
            slot = cast(str, _slot(piece.key))
            counts["duplicate_part"] += slot in parts
            parts.setdefault(slot, piece.value)
    elif read and missing and _HEADING.search(rest):  # half of it an object, half under headings
        return _heading_parts(rest, [], counts) | parts
    elif not read:
        if not says_nothing(_FENCE.sub("", text)):
            return None
        counts["truncated_json"] += 1
        return {}
    _count_surroundings(rest, counts)
    return parts


def _named_values(pairs: Pairs, counts: Counter[str]) -> list[tuple[str, Json]] | None:
    """(slot, value) of the keys that name a part, also of an object one level down; None where none does."""
    named = [(slot, value) for key, value in pairs if (slot := _slot(key)) is not None]
    n_other = len(pairs) - len(named)
    if not named:
        inner = [field for _, value in pairs if isinstance(value, dict) for field in value.items()]
        texts = [(key, value) for key, value in inner if isinstance(value, str)]
        named = [(slot, value) for key, value in texts if (slot := _slot(key)) is not None]
    if not named:
        return None
    counts["unexpected_part"] += n_other
    return named


def _outside(text: str, read: Sequence[FoundObject | QuotedValue]) -> str:
    """What lies around the pieces that were read."""
    ends = [0, *(piece.end for piece in read)]
    starts = [*(piece.start for piece in read), len(text)]
    return "\n".join(text[end:start] for end, start in zip(ends, starts, strict=True))


def _heading_parts(text: str, wanted: list[str], counts: Counter[str]) -> dict[str, str]:
    """Slot -> text under its heading. Prose without a heading stands in for the one part that is missing."""
    if _FENCE.search(text):
        counts["code_fence"] += 1
        text = _FENCE.sub("", text)
    headings = list(_HEADING.finditer(text))
    parts: dict[str, str] = {}
    ends = [*[heading.start() for heading in headings[1:]], len(text)]
    for heading, end in zip(headings, ends, strict=False):  # without headings nothing is read here
        slot = _slot(heading.group(1) or heading.group(2))
        if slot in parts:
            counts["duplicate_part"] += 1
        elif slot is not None:
            parts[slot] = text[heading.end() : end]
    before = text[: headings[0].start()] if headings else text
    if not before.strip():
        return parts
    # Without any heading the text is the last part: the backbone's input keeps that one longest.
    stand_in = _FIRST if headings else _SECOND
    if stand_in in wanted and stand_in not in parts:
        counts["missing_heading"] += 1
        parts[stand_in] = before
    else:
        counts["surrounding_text"] += 1
    return parts


def _slot(key: str) -> str | None:
    match = re.fullmatch(r"(initial|bidirectional|forward)(?:[ _-]?reasoning)?", key.strip(), re.IGNORECASE)
    if match is None:
        return None
    return _FIRST if match.group(1).lower() == "initial" else _SECOND


def _count_surroundings(text: str, counts: Counter[str]) -> None:
    """``text`` is what lies around the answer."""
    if _FENCE.search(text):
        counts["code_fence"] += 1
        text = _FENCE.sub("", text)
    counts["surrounding_text"] += bool(text.strip(_PUNCTUATION))


def _as_text(value: Json, counts: Counter[str]) -> str:
    if isinstance(value, str):
        return value
    counts["wrong_type"] += 1
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " ".join(cast(list[str], value))
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:  # just shallow enough to be read
        return ""


def _clean(text: str, counts: Counter[str]) -> str:
    """Surrogate pairs joined; lone surrogates and NUL, which no UTF-8 store takes, replaced by U+FFFD."""
    joined = (
        text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _INVALID.search(text) else text
    )
    replaced = joined.replace("\x00", "\ufffd")
    counts["invalid_characters"] += "\ufffd" in replaced and "\ufffd" not in text
    return replaced.strip()
