"""The tokens of several possible next texts behind a rendered prompt, as the tokenizer cuts prompt and text together.

Where a tokenizer joins the prompt's last characters with a text's first ones, the tokens that differ from the prompt's
own belong to the texts: all of them then begin a little earlier, at the last token that they share with the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cdner.backbone.vocabulary import neutralised, special_strings


@dataclass(frozen=True, slots=True)
class Continuations:
    """``prompt``: the tokens in front of all texts; ``texts``: those of each text."""

    prompt: tuple[int, ...]
    texts: tuple[tuple[int, ...], ...]


class ContinuationEncoder:
    """Remembers the texts' tokens behind the same last words: thousands of prompts end alike."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._specials = special_strings(tokenizer)
        self._known: dict[tuple[str, tuple[str, ...]], Continuations] = {}

    def prompt(self, rendered: str) -> list[int]:
        """Tokens of a rendered prompt alone."""
        ids: list[int] = self._tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def encode(self, rendered: str, texts: Sequence[str]) -> Continuations:
        """``rendered``: a chat whose special-token strings count; in ``texts`` they are broken up."""
        ids = self.prompt(rendered)
        # No token crosses a special token: what stands in front of the last one is the same with and without a text.
        cut = max((rendered.rfind(special) for special in self._specials), default=-1)
        tail = rendered[max(cut, 0) :]
        if cut < 0:
            return self._joined(rendered, texts)
        key = (tail, tuple(texts))
        if key not in self._known:
            self._known[key] = self._joined(tail, texts)
        end = self._known[key]
        own = self.prompt(tail)
        head = ids[: len(ids) - len(own)]
        if ids[len(head) :] != own:  # a tokenizer that does otherwise
            return self._joined(rendered, texts)
        return Continuations((*head, *end.prompt), end.texts)

    def _joined(self, rendered: str, texts: Sequence[str]) -> Continuations:
        harmless = [neutralised(text, self._specials) for text in texts]
        rows = [self.prompt(rendered), *(self.prompt(rendered + text) for text in harmless)]
        low, high = min(rows), max(rows)
        shortest = min(map(len, rows))
        n = next((n for n in range(shortest) if low[n] != high[n]), shortest)
        return Continuations(tuple(rows[0][:n]), tuple(tuple(row[n:]) for row in rows[1:]))
