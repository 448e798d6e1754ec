"""Makes text that someone else wrote harmless to look at, whatever shows it: a terminal, a page, a table.

Knows nothing of HTML, LaTeX or terminals beyond that they obey control characters; each escapes its own syntax.
"""

from __future__ import annotations

import unicodedata


def visible(text: str) -> str:
    """The text with escape sequences, direction marks and the like spelled out; new lines stay."""
    return "".join(char if _is_harmless(char) else _escaped(char) for char in text)


def _is_harmless(char: str) -> bool:
    return char.isprintable() or char == "\n" or unicodedata.category(char) == "Zs"


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
