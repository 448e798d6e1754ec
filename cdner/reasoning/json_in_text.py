"""JSON objects in a text that is not all JSON, and what is left of those that do not parse.

A language model puts prose around its answer, stops in the middle, forgets to escape a quote. Nothing here raises on
any text, and a megabyte of anything takes linear time. Knows no keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from cdner.files import Json

Pairs = list[tuple[str, Json]]
_MAX_OBJECTS = 16  # looked for in one text: a megabyte of opening brackets is no megabyte of attempts

# Quotes that nobody escaped are told from the end of their value by what follows: another key, a closing bracket, or
# nothing more.
_BEHIND = r"""(?![,\s]{0,20}(?://[^\n]{0,80}\n\s{0,20})?(?:["'“][^"'“”\n]{0,60}(?:["'”]\s{0,20}(?::|\Z)|\Z)|[}\]]|\Z))"""
_ESCAPED = r"\\u[0-9a-fA-F]{4}|\\u(?=[0-9a-fA-F]{0,3}[^0-9a-fA-F])|\\[^u]"
_CUT_ESCAPE = r"(?:\\(?:u[0-9a-fA-F]{0,3})?\Z)?"
_BODIES = {
    opening: re.compile(rf"((?:[^{closing}\\]|{_ESCAPED}|{closing}{_BEHIND})*){_CUT_ESCAPE}", re.DOTALL)
    for opening, closing in ('""', "''", "“”")
}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_PLAIN_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "u": "\\u"}
_CUT_KEY = re.compile(r"""[,\s]{0,20}["'“][^"'“”\n]{0,40}(?:["'”]\s{0,20}:?\s{0,20}["'“]?)?\Z""")
# Possessive: blanks that a model repeats until it is stopped would else be shared out among the places in every way.
_NOTHING_SAID = re.compile(r"""\s*+\{\s*+(?:["'“][^"'“”\n]{0,40}["'”]?\s*+:?\s*+["'“]?)?\s*+\}?\s*+""")


@dataclass(frozen=True, slots=True)
class FoundObject:
    """``pairs``: keys and values as written, repeated keys kept. It is ``text[start:end]``."""

    pairs: Pairs
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class QuotedValue:
    """A string value and its key, whose opening quote is ``text[start]``; the value ends before ``text[end]``."""

    key: str
    value: str
    start: int
    end: int


def objects(text: str) -> Iterator[FoundObject]:
    """The outermost JSON objects that parse, in order."""
    outermost: Pairs = []

    def keep(pairs: Pairs) -> dict[str, Json]:
        outermost[:] = pairs  # called innermost first, so the last call is the outermost object's
        return dict(pairs)

    decoder = json.JSONDecoder(object_pairs_hook=keep, strict=False)
    start = text.find("{")
    for _ in range(_MAX_OBJECTS):
        if start < 0:
            return
        end = start + 1
        try:
            _, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):  # RecursionError: a hundred thousand opening brackets
            pass
        else:
            yield FoundObject(list(outermost), start, end)
        start = text.find("{", end)


def quoted_values(text: str, key: str) -> list[QuotedValue]:
    """String values of the keys that match a pattern (of one group), however they end; none inside another."""
    found: list[QuotedValue] = []
    end = -1
    pattern = rf"""["'“]{key}["'”]\s{{0,20}}:\s{{0,20}}(["'“])"""
    for match in re.finditer(pattern, text, re.IGNORECASE):
        if match.start() < end:
            continue
        body = cast(re.Match[str], _BODIES[match.group(2)].match(text, match.end()))
        end = body.end()
        value = _ESCAPE.sub(_unescape, body.group(1))
        found.append(QuotedValue(match.group(1), value, match.start(), end))
    return found


def without_cut_key(text: str) -> str:
    """Without the key at its end that was cut off before its value."""
    return _CUT_KEY.sub("", text)


def says_nothing(text: str) -> bool:
    """Whether it is an object that was cut off in its first key, or before it, or holds nothing."""
    return _NOTHING_SAID.fullmatch(text) is not None


def _unescape(match: re.Match[str]) -> str:
    code = match.group(1)
    return chr(int(code[1:], 16)) if len(code) > 1 else _PLAIN_ESCAPES.get(code, code)
