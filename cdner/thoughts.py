"""Tells a reasoning model's thoughts from its answer, in the text that the model wrote.

Models mark their thoughts in different ways, and servers cut the marks off in different ways: the opening mark is
often part of the prompt and therefore missing. So the closing mark decides: everything up to the last closing mark is
thought. A thought that has begun and does not end leaves no answer behind it.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

_NAME = (
    r"(?:[a-z]{1,8}:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?(?:[_-]content)?|analysis|reflection|"
    r"scratch[_-]?pad|inner[_-]?monologue|chain[_-]of[_-]thought|cot)"
)
_BLANK = r"\s{0,3}"
_BRACKETS = (
    (r"(?:<|&lt;)", r"(?:\s[^<>\n]{0,60})?", r"(?:>|&gt;)"),
    (r"\[", "", r"\]"),
    (r"[◁〈《⟨]", "", r"[▷〉》⟩]"),
    (r"<[|｜]", "", r"[|｜]>"),
)


def _marks(slash: str) -> list[str]:
    return [
        rf"{opening}{_BLANK}{slash}{_BLANK}{_NAME}{attributes}{_BLANK}{closing}"
        for opening, attributes, closing in _BRACKETS
    ]


# gpt-oss writes channels, Gemma 4 and MedGemma their own, Cohere and OpenThinker long names, Granite sentences.
# Servers that drop special tokens leave "analysis" and "assistantfinal" glued to the text.
_CLOSING = re.compile(
    "|".join(
        [
            *_marks("[/\\\\]"),
            r"<\|channel\|>\s{0,3}final\s{0,3}(?:<\|constrain\|>[^<]{0,20})?<\|message\|>",
            r"<channel\|>",
            r"<unused95>",
            r"<\|end[_-](?:of[_-])?(?:thoughts?|thinking|reasoning)\|>",
            r"^[ \t*#]{0,5}here is my response[ \t*]{0,3}:",
            r"(?-i:assistantfinal)",
        ]
    ),
    re.IGNORECASE | re.MULTILINE,
)
_OPENING = re.compile(
    "|".join(
        [
            *_marks(""),
            r"<\|channel\|>\s{0,3}(?:analysis|commentary)\b",
            r"<\|channel>\s{0,3}thought\b",
            r"<unused94>",
            r"<\|(?:start|begin)[_-](?:of[_-])?(?:thoughts?|thinking|reasoning)\|>",
            r"^[ \t*#]{0,5}here is my thought process[ \t*]{0,3}:",
            r"(?-i:\Aanalysis(?=[A-Z]))",
        ]
    ),
    re.IGNORECASE | re.MULTILINE,
)
_AROUND = re.compile(
    r"<\|(?:start|end|return|message|call|(?:start|begin|end)[_-](?:of[_-])?(?:response|solution|text|turn))\|>",
    re.IGNORECASE,
)
_BLANKS = " \t\r\n\ufeff\u200b"


class Written(NamedTuple):
    """``answer`` holds no thoughts; ``thoughts`` hold no marks at their ends."""

    answer: str
    thoughts: str


def separate_thoughts(text: str) -> Written:
    """The answer in a text, and the thoughts before or behind it. A text without marks is returned as it is.

    A text that is one JSON object has no thoughts: what looks like a mark is part of a string. Takes linear time.
    """
    closing = opening = None
    for closing in _CLOSING.finditer(text):  # noqa: B007  the last one counts
        pass
    start = closing.end() if closing else 0
    opening = _OPENING.search(text, start)
    if closing is None and opening is None:
        return Written(text, "")
    if _is_object(text):
        return Written(text, "")
    answer = text[start : opening.start()] if opening else text[start:]
    before = text[: closing.start()] if closing else ""
    behind = text[opening.end() :] if opening else ""
    thoughts = "\n".join(part for part in (_bare(before), _bare(behind)) if part)
    return Written(_AROUND.sub("", answer).strip(_BLANKS), thoughts)


def _bare(thought: str) -> str:
    """Without the opening marks, which begin the thought or stand in its middle."""
    return _AROUND.sub("", _OPENING.sub("", thought)).strip(_BLANKS)


def _is_object(text: str) -> bool:
    stripped = text.strip(_BLANKS)
    if not stripped.startswith("{"):
        return False
    try:
        return isinstance(json.loads(stripped, strict=False), dict)
    except (ValueError, RecursionError):
        return False
