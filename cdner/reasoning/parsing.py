"""Reads what an LLM wrote: JSON or headings, complete or cut off. What is wrong is a named count, no error.

The raw text is kept by the caller; what is returned here is clean Unicode that any store and any model can
take.

Kinds: ``empty`` nothing was written · ``code_fence`` the answer stands in a Markdown fence ·
``surrounding_text`` text before or after it was dropped · ``truncated_json`` an object that does not end or
does not parse was read as far as it goes · ``other_format`` headings where JSON was asked for, or the reverse
· ``missing_heading`` prose was taken for a part although its heading is missing · ``missing_initial`` and
``missing_bidirectional`` a part is absent or empty · ``duplicate_part`` a part came again, the first one
counts · ``unexpected_part`` a part or key nobody asked for was dropped · ``wrong_type`` a value is no string
· ``invalid_characters`` NUL or lone surrogates were replaced.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import cast

from cdner.config import Setting
from cdner.hashing import Json
from cdner.prompts import INITIAL_PART, output_parts
from cdner.types import ReasoningChain

_PART = r"(initial|bidirectional|forward)[ _-]reasoning"
# Repetitions are bounded and never cross a line, so that a megabyte of asterisks takes linear time.
_HEADING = re.compile(
    rf"^[ \t>*#_\d.)-]{{0,8}}{_PART}[ \t*_]{{0,4}}(?::[*_]{{0,3}}|$)|\b{_PART}[*_]{{0,3}}:[*_]{{0,3}}",
    re.IGNORECASE | re.MULTILINE,
)
_JSON_KEY = re.compile(rf'"{_PART}"\s{{0,20}}:\s{{0,20}}"', re.IGNORECASE)
_STRING_BODY = re.compile(r'(?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*', re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ENTITIES = re.compile(r"\"entities\"\s{0,20}:|^[ \t*#]{0,8}entities[*]{0,3}:", re.IGNORECASE | re.MULTILINE)
_FENCE = re.compile(r"```[a-zA-Z]{0,10}")
_INVALID = re.compile(r"[\x00\ud800-\udfff]")
_PLAIN_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_FIRST, _SECOND = "initial", "bidirectional"  # a part's slot; "forward" is what stands in the second one


def parse_reasoning(text: str, setting: Setting, *, structured: bool) -> ReasoningChain:
    """The two parts of an answer; a part the setting does not ask for is "". Never raises on any text."""
    counts: Counter[str] = Counter()
    wanted = [_FIRST, _SECOND] if INITIAL_PART in output_parts(setting) else [_SECOND]
    parts = _json_parts(text, counts)
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
    pairs = _object_pairs(text)
    for key, value in pairs[0] if pairs else ():
        if key == "description":
            text = _as_text(value, counts)
    return " ".join(_clean(_FENCE.sub("", text), counts).strip('"').split())


def entities_text(text: str) -> str:
    """The part of an answer by a ``ner`` template that holds the entities, as ``cdner.codec`` reads it.

    The last object named "entities" or headed "Entities:"; without such a mark the whole text.
    """
    marks = list(_ENTITIES.finditer(text))
    answer = text[marks[-1].end() :] if marks else text
    start = answer.find("{")
    if not marks or start < 0:
        return _FENCE.sub("", answer).strip()
    decoded = _object_pairs(answer)
    return answer[start : decoded[2]] if decoded else _FENCE.sub("", answer[start:]).strip()


def _json_parts(text: str, counts: Counter[str]) -> dict[str, str] | None:
    """Slot -> text, from an object that names at least one part; None when there is none such."""
    decoded = _object_pairs(text)
    if decoded is None:
        return _broken_json_parts(text, counts)
    pairs, start, end = decoded
    parts: dict[str, str] = {}
    n_unexpected = n_duplicates = 0
    for key, value in pairs:
        slot = _slot(key)
        if slot is None:
            n_unexpected += 1
        elif slot in parts:
            n_duplicates += 1
        elif value is not None:
            parts[slot] = _as_text(value, counts)
    if not parts:
        return None
    counts["unexpected_part"] += n_unexpected
    counts["duplicate_part"] += n_duplicates
    _count_surroundings(text[:start] + "\n" + text[end:], counts)
    return parts


def _object_pairs(text: str) -> tuple[list[tuple[str, Json]], int, int] | None:
    """Keys and values of the first JSON object, repeated keys kept, and where it starts and ends."""
    start = text.find("{")
    if start < 0:
        return None
    outermost: list[tuple[str, Json]] = []

    def keep(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        outermost[:] = pairs  # called innermost first, so the last call is the outermost object's
        return dict(pairs)

    decoder = json.JSONDecoder(object_pairs_hook=keep, strict=False)
    try:
        _, end = decoder.raw_decode(text, start)
    except (ValueError, RecursionError):  # RecursionError: a hundred thousand opening brackets
        return None
    return outermost, start, end


def _broken_json_parts(text: str, counts: Counter[str]) -> dict[str, str] | None:
    """Reads string values key by key where the whole does not parse: cut off, or with a stray character."""
    parts: dict[str, str] = {}
    first = end = -1
    for match in _JSON_KEY.finditer(text):
        if match.start() < end:
            continue  # inside the value just read
        first = match.start() if first < 0 else first
        body = cast(re.Match[str], _STRING_BODY.match(text, match.end()))
        end = body.end()
        slot = _slot(match.group(1) + "_reasoning")
        if slot in parts:
            counts["duplicate_part"] += 1
        elif slot is not None:
            parts[slot] = _ESCAPE.sub(_unescape, body.group())
    if not parts:
        return None
    counts["truncated_json"] += 1
    _count_surroundings(text[:first].rstrip().removesuffix("{"), counts)
    return parts


def _heading_parts(text: str, wanted: list[str], counts: Counter[str]) -> dict[str, str]:
    """Slot -> text under its heading. Prose without a heading stands in for the one part that is missing."""
    if _FENCE.search(text):
        counts["code_fence"] += 1
        text = _FENCE.sub("", text)
    headings = list(_HEADING.finditer(text))
    parts: dict[str, str] = {}
    ends = [*[heading.start() for heading in headings[1:]], len(text)]
    for heading, end in zip(headings, ends, strict=False):  # without headings nothing is read here
        slot = _slot((heading.group(1) or heading.group(2)) + "_reasoning")
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
    match = re.fullmatch(_PART, key.strip(), re.IGNORECASE)
    if match is None:
        return None
    return _FIRST if match.group(1).lower() == "initial" else _SECOND


def _count_surroundings(text: str, counts: Counter[str]) -> None:
    """``text`` is what lies around the answer."""
    if _FENCE.search(text):
        counts["code_fence"] += 1
        text = _FENCE.sub("", text)
    counts["surrounding_text"] += bool(text.strip())


def _as_text(value: Json, counts: Counter[str]) -> str:
    if isinstance(value, str):
        return value
    counts["wrong_type"] += 1
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " ".join(cast(list[str], value))
    return json.dumps(value, ensure_ascii=False)


def _unescape(match: re.Match[str]) -> str:
    code = match.group(1)
    return chr(int(code[1:], 16)) if len(code) > 1 else _PLAIN_ESCAPES.get(code, code)


def _clean(text: str, counts: Counter[str]) -> str:
    """Surrogate pairs joined; lone surrogates and NUL, which no UTF-8 store takes, replaced by U+FFFD."""
    joined = (
        text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _INVALID.search(text) else text
    )
    replaced = joined.replace("\x00", "\ufffd")
    counts["invalid_characters"] += "\ufffd" in replaced and "\ufffd" not in text
    return replaced.strip()
