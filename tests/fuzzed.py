"""A seeded mutator of real material, for the bulk of fuzzing: a hundred thousand texts in a few seconds.

Hypothesis looks for structure elsewhere; here are numbers. What once broke something lies in ``fixtures/fuzz``.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

FOUND = Path(__file__).parent / "fixtures" / "fuzz" / "found.txt"
# What breaks parsers: every kind of bracket, quote and blank, both ends of Unicode, halves of characters.
PIECES = (
    *'{}[]",:\\/\'`*#_-. \n\t\r\x00\x1b\x85\xa0\u200b\u202e\u2028\ufeff\ufffd',
    *('“', "”", "„", "«", "：", "é", "e\u0301", "漢", "😀", "\U0010ffff", "\ud83d", "\udc00"),
    *('{"', '"}', '": "', '", "', "\\u", "\\ud83d", "\\u0000", '\\"', "```json\n", "```", "<think>", "</think>"),
    *("null", "true", "-1e999", "9" * 30, "NaN", "[[[[", "]]]]", "{{{{", "initial_reasoning", "entities"),
    *('"initial_reasoning": "', '"bidirectional_reasoning": "', "Initial Reasoning:", "Step 5: Forward Reasoning"),
    *('"entities": {', '"description": "', "Entities:", '"person": ["', '"person"', "person", "<|im_end|>", "</s>"),
)  # fmt: skip


def mutations(material: Sequence[str], n: int, *, seed: int) -> Iterator[str]:
    """``n`` texts: each one of the material with one to six cuts, insertions, repetitions or swaps."""
    generator = random.Random(seed)
    chosen = generator.choice
    for _ in range(n):
        text = chosen(material)
        for _ in range(generator.randrange(1, 7)):
            at = generator.randrange(len(text) + 1)
            other = at + generator.randrange(12)
            kind = generator.randrange(10)
            if kind == 0:
                text = text[:at]
            elif kind <= 2:
                text = text[:at] + text[other:]
            elif kind == 3:
                text = text[:at] + text[at:other] * 3 + text[other:]
            else:
                text = text[:at] + chosen(PIECES) + text[at if kind <= 7 else other :]
        yield text


def repeated(n_characters: int, *, seed: int) -> str:
    """A beginning, a unit repeated to that length, and an end, each of up to three pieces: what slows a parser down."""
    generator = random.Random(seed)
    start, unit, end = (
        "".join(generator.choices(PIECES, k=generator.randrange(low, 4))) for low in (0, 1, 0)
    )
    return start + unit * (n_characters // len(unit)) + end


def found_cases() -> list[str]:
    """Texts that once broke something (``fixtures/fuzz/found.txt`` says what)."""
    lines = FOUND.read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines if not line.startswith("#")]
    return ["".join(piece * times for piece, times in case) for case in cases]
