"""A scanner for text that is meant to be ``{"type": ["mention", ...], ...}`` and often is not quite.

Left to right, each character looked at a bounded number of times, so a megabyte of noise is no trouble. It
knows syntax only: which types and mentions make sense is for ``decode``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_SPACE = re.compile(r"\s*+")
_EMPTY_LIST = re.compile(r"\[\s*+\]")
_NEXT_PAIR = re.compile(r'["}]')
_NEXT_MENTION = re.compile(r'["\]}]')
_AFTER_VALUE = re.compile(r'[",}]')
_REST_OF_STRING = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_REST_OF_STRING_WITHOUT_ESCAPES = re.compile(r'[^"]*+"')


@dataclass(frozen=True, slots=True)
class Scanned:
    pairs: tuple[tuple[str, tuple[str, ...]], ...]  # (type, mentions) as written, in order
    leading_text: bool
    trailing_text: bool
    truncated: bool
    n_invalid: int  # places that had to be repaired or skipped


def scan(text: str, *, braces: bool, escapes: bool) -> Scanned:
    """Read what is there. ``braces``: the wire form has outer braces; ``escapes``: backslashes protect
    quotes.
    """
    scanner = _Scanner(text, escapes=escapes)
    scanner.read(braces=braces)
    return Scanned(
        pairs=tuple((name, tuple(values)) for name, values in scanner.pairs),
        leading_text=scanner.leading_text,
        trailing_text=bool(text[scanner.at :].strip()),
        truncated=scanner.truncated,
        n_invalid=scanner.n_invalid,
    )


class _Scanner:
    """``at`` only moves forward, but for one string that is read again as the type it turned out to be."""

    def __init__(self, text: str, *, escapes: bool) -> None:
        self.text = text
        self.escapes = escapes
        self.at = 0
        self.pairs: list[tuple[str, list[str]]] = []
        self.leading_text = False
        self.truncated = False
        self.n_invalid = 0

    def read(self, *, braces: bool) -> None:
        if not self._peek():
            return
        empty = None if braces else _EMPTY_LIST.match(self.text, self.at)
        if empty:
            self.at = empty.end()
            return
        start = self.text.find("{", self.at) if braces or self._peek() == "{" else -1
        has_brace = start >= 0
        if not has_brace:
            self.n_invalid += braces
            start = self.text.find('"', self.at)
        if start < 0:
            self.n_invalid += not braces
            self.at = len(self.text)
            return
        self.leading_text = start > self.at
        self.at = start + has_brace
        self._read_pairs(has_brace=has_brace)

    def _read_pairs(self, *, has_brace: bool) -> None:
        first, after_comma = True, False
        while character := self._peek():
            if character == '"':
                self.n_invalid += not (first or after_comma)
                self._read_pair()
                first = after_comma = False
            elif character == "}" and has_brace:
                self.n_invalid += after_comma
                self.at += 1
                return
            elif character == "," and not (first or after_comma):
                self.at += 1
                after_comma = True
            elif not has_brace and not _NEXT_PAIR.search(self.text, self.at + 1):
                return  # nothing more to read: trailing text
            else:
                self._skip_to(_NEXT_PAIR)
        self.truncated |= has_brace or after_comma

    def _read_pair(self) -> None:
        name = self._read_string()
        following = self._peek()
        if following == ":":
            self.at += 1
            following = self._peek()
        elif following == "[":
            self.n_invalid += 1  # a colon is missing
        elif following:
            self.n_invalid += 1  # a text that opens no type
            return
        if name is None or not following:
            self.truncated = True
            return
        values: list[str] = []
        self.pairs.append((name, values))
        if following == "[":
            self.at += 1
            self._read_mentions(values)
        elif following == '"':
            self.n_invalid += 1  # one mention without its list
            value = self._read_string()
            values.extend([] if value is None else [value])
        else:
            self._skip_to(_AFTER_VALUE)

    def _read_mentions(self, values: list[str]) -> None:
        first, after_comma = True, False
        while character := self._peek():
            if character == "]":
                self.n_invalid += after_comma
                self.at += 1
                return
            if character == "}":
                self.n_invalid += 1
                return
            if character == '"':
                start = self.at
                value = self._read_string()
                if value is not None and self._peek() == ":":
                    self.at = (
                        start  # the list was never closed: this is the next type, with no comma before it
                    )
                    return
                self.n_invalid += not (first or after_comma)
                values.extend([] if value is None else [value])
                first = after_comma = False
            elif character == "," and not (first or after_comma):
                self.at += 1
                after_comma = True
            else:
                self._skip_to(_NEXT_MENTION)
        self.truncated = True

    def _peek(self) -> str:
        """The next character that is not white space, "" at the end."""
        character = self.text[self.at : self.at + 1]
        if not character.isspace():
            return character
        space = _SPACE.match(self.text, self.at)
        self.at = space.end() if space else self.at
        return self.text[self.at : self.at + 1]

    def _skip_to(self, following: re.Pattern[str]) -> None:
        """One repair: go on at the next character that can start something."""
        found = following.search(self.text, self.at + (following is not _AFTER_VALUE))
        self.at = found.start() if found else len(self.text)
        self.n_invalid += 1

    def _read_string(self) -> str | None:
        """The string that starts here; None, at the end of the text, when it is not finished."""
        rest = _REST_OF_STRING if self.escapes else _REST_OF_STRING_WITHOUT_ESCAPES
        found = rest.match(self.text, self.at + 1)
        if not found:
            self.truncated = True
            self.at = len(self.text)
            return None
        self.at = found.end()
        body = found.group()[:-1]
        if "\\" not in body or not self.escapes:
            return body
        try:
            return str(json.loads(f'"{body}"', strict=False))
        except json.JSONDecodeError:
            self.n_invalid += 1
            return body
