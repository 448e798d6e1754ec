"""Two hundred answers as language models spoil them, each with what must come out of it.

Every kind of slip is one function of two texts; the texts come from a seeded list that holds what breaks parsers.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable

import pytest

from cdner.reasoning import parse_description, parse_reasoning

TEXTS = [
    ("Io is MISC, since it circles Jupiter.", "Io is a moon: it circles a planet. It is no event."),
    ("„München“ ist ein Ort; 東京 も。", "Straße, naïve café — «да» и 😀👩‍🔬 и \u202eقمر\u202c."),
    ("First line.\nSecond line:\t- a\n- b", "He wrote: it's {a: 1}, [b], (c) and 50 % of x < y & z."),
    (
        "The initial reasoning of the critics was wrong.",
        "Entities, types, C:/dev/null; see ```code``` \\ and /.",
    ),
]
Slip = Callable[[str, str], tuple[str, str, str, dict[str, int]]]  # answer, initial, bidirectional, kinds
BAD = {"truncated_json": 1}


def obj(initial: object, bidirectional: object, **more: object) -> str:
    fields = {"initial_reasoning": initial, "bidirectional_reasoning": bidirectional, **more}
    return json.dumps(fields, ensure_ascii=False)


def opened(initial: str, rest: str) -> str:
    return f'{{"initial_reasoning": {json.dumps(initial)}, "bidirectional_reasoning": "{rest}'


def headed(initial: str, bidirectional: str) -> str:
    return f"Initial Reasoning: {initial}\nBidirectional Reasoning: {bidirectional}"


def cut(text: str) -> str:
    return text[: random.Random(len(text)).randrange(3, len(text) - 1)].rstrip()


def plain(text: str) -> str:
    """Without what would be ambiguous where nothing is escaped."""
    return " ".join(text.translate(dict.fromkeys(map(ord, "\"'„“”«»\\`\u202e\u202c"))).split())


SLIPS: dict[str, Slip] = {
    # --- around the object
    "as asked": lambda i, b: (obj(i, b), i, b, {}),
    "ascii only": lambda i, b: (json.dumps(json.loads(obj(i, b))), i, b, {}),
    "byte order mark": lambda i, b: ("\ufeff" + obj(i, b), i, b, {}),
    "carriage returns": lambda i, b: (obj(i, b).replace(', "bi', ',\r\n\r\n "bi'), i, b, {}),
    "fence": lambda i, b: (f"```json\n{obj(i, b)}\n```", i, b, {"code_fence": 1}),
    "fence with a version": lambda i, b: (f"```json5\n{obj(i, b)}\n```", i, b, {"code_fence": 1}),
    "fence in one line": lambda i, b: (f"```json {obj(i, b)}```", i, b, {"code_fence": 1}),
    "fence that never closes": lambda i, b: (f"```\n{obj(i, b)}", i, b, {"code_fence": 1}),
    "prose first": lambda i, b: (f"Sure! Here it is:\n{obj(i, b)}", i, b, {"surrounding_text": 1}),
    "prose after": lambda i, b: (f"{obj(i, b)}\nI hope this helps.", i, b, {"surrounding_text": 1}),
    "braces in prose first": lambda i, b: (f"Given {{x}} and {{1, 2}}: {obj(i, b)}", i, b, {"surrounding_text": 1}),
    "prose and fence": lambda i, b: (
        f"Answer:\n```json\n{obj(i, b)}\n```\nDone.", i, b, {"code_fence": 1, "surrounding_text": 1}),
    "thoughts first": lambda i, b: (
        f"<think>Maybe {obj('draft', 'draft')}?</think>\n{obj(i, b)}", i, b, {"thoughts": 1}),
    "end token": lambda i, b: (obj(i, b) + "<|im_end|>", i, b, {"surrounding_text": 1}),
    "in a list": lambda i, b: (f"[{obj(i, b)}]", i, b, {}),
    # --- cut off
    "cut in the second": lambda i, b: (opened(i, json.dumps(cut(b))[1:-1]), i, cut(b), BAD),
    "cut in the first": lambda i, b: (
        obj(i, b)[: len(obj(cut(i), b).partition(', "bi')[0]) - 1], cut(i), "", BAD | {"missing_bidirectional": 1}),
    "cut in the second key": lambda i, b: (
        opened(i, "").partition("irectional")[0], i, "", BAD | {"missing_bidirectional": 1}),
    "cut after a colon": lambda i, b: (opened(i, "")[:-1], i, "", BAD | {"missing_bidirectional": 1}),
    "cut in the first key": lambda i, b: (
        '{"initial_rea', "", "", BAD | {"missing_initial": 1, "missing_bidirectional": 1}),
    "cut in an escape": lambda i, b: (opened(i, json.dumps(b)[1:-1] + "\\u00"), i, b, BAD),
    "cut in a fence": lambda i, b: ("```json\n" + opened(i, json.dumps(b)[1:-1]), i, b, BAD | {"code_fence": 1}),
    "nothing in it": lambda i, b: ("{}", "", "", BAD | {"missing_initial": 1, "missing_bidirectional": 1}),
    # --- no JSON
    "trailing comma": lambda i, b: (obj(i, b)[:-1] + ",}", i, b, BAD),
    "missing comma": lambda i, b: (obj(i, b).replace(', "bi', ' "bi'), i, b, BAD),
    "doubled comma": lambda i, b: (obj(i, b).replace(', "bi', ',, "bi'), i, b, BAD),
    "doubled closing": lambda i, b: (obj(i, b) + "}", i, b, {}),
    "missing opening": lambda i, b: (obj(i, b)[1:], i, b, BAD),
    "comment": lambda i, b: (
        obj(i, b).replace(', "bi', ', // then\n"bi'), i, b, BAD | {"surrounding_text": 1}),
    "python quotes": lambda i, b: (
        str({"initial_reasoning": plain(i), "bidirectional_reasoning": plain(b)}), plain(i), plain(b), BAD),
    "typographic quotes": lambda i, b: (
        f"{{“initial_reasoning”: “{plain(i)}”, “bidirectional_reasoning”: “{plain(b)}”}}", plain(i), plain(b), BAD),
    "quotes inside": lambda i, b: (
        f'{{"initial_reasoning": "A "{plain(i)}" A", "bidirectional_reasoning": "B "{plain(b)}" B"}}',
        f'A "{plain(i)}" A', f'B "{plain(b)}" B', BAD),
    "line breaks inside": lambda i, b: (obj(i, b).replace("\\n", "\n"), i, b, {}),
    "escapes nobody knows": lambda i, b: (
        opened(i, r"a\_b \(c\) D:\users" + '"}'), i, r"a_b (c) D:\users", BAD),
    # --- keys
    "first key twice": lambda i, b: (
        f'{{"initial_reasoning": {json.dumps(i)}, {obj("later", b)[1:]}', i, b, {"duplicate_part": 1}),
    "object twice": lambda i, b: (f"{obj(i, b)}\n{obj('later', 'later')}", i, b, {"duplicate_part": 2}),
    "more keys": lambda i, b: (obj(i, b, entities={"moon": ["Io"]}, n=3), i, b, {"unexpected_part": 2}),
    "wrapped": lambda i, b: (f'{{"answer": {obj(i, b)}}}', i, b, {"unexpected_part": 1}),
    "one object each": lambda i, b: (
        json.dumps({"initial_reasoning": i}) + "\n" + json.dumps({"bidirectional_reasoning": b}), i, b, {}),
    "half under a heading": lambda i, b: (
        json.dumps({"initial_reasoning": i}) + f"\n**Bidirectional Reasoning:** {plain(b)}", i, plain(b), {}),
    "keys as headings": lambda i, b: (json.dumps({"Initial Reasoning": i, "Forward Reasoning": b}), i, b, {}),
    "keys in camel case": lambda i, b: (
        json.dumps({"initialReasoning": i, "bidirectionalReasoning": b}), i, b, {}),
    "short keys": lambda i, b: (json.dumps({"initial": i, "bidirectional": b}), i, b, {}),
    # --- values
    "null": lambda i, b: (obj(None, b), "", b, {"missing_initial": 1}),
    "blank": lambda i, b: (obj(" \n", b), "", b, {"missing_initial": 1}),
    "number and truth": lambda i, b: (obj(-1.5, True), "-1.5", "true", {"wrong_type": 2}),
    "endless number": lambda i, b: (
        f'{{"initial_reasoning": {"9" * 5000}, "bidirectional_reasoning": {json.dumps(b)}}}', "", b,
        BAD | {"missing_initial": 1, "surrounding_text": 1}),
    "list": lambda i, b: (obj([i, b], b), f"{i} {b}", b, {"wrong_type": 1}),
    "list of objects": lambda i, b: (
        obj([{"mention": i}], b), json.dumps([{"mention": i}], ensure_ascii=False), b, {"wrong_type": 1}),
    "NUL and half a character": lambda i, b: (
        opened(i + "\x00", "B \\ud83d" + '"}'), i + "\ufffd", "B \ufffd", {"invalid_characters": 2}),
    "control characters": lambda i, b: (obj(f"\x1b[31m{i}\x07", b), f"\x1b[31m{i}\x07", b, {}),
    # --- headings where JSON was asked for
    "headings": lambda i, b: (headed(i, plain(b)), i, plain(b), {"other_format": 1}),
    "numbered steps": lambda i, b: (
        f"**Step 3: Initial Reasoning**\n{i}\n\n**Step 5: Bidirectional Reasoning**\n{plain(b)}", i, plain(b),
        {"other_format": 1}),
    "headings in a fence": lambda i, b: (
        f"```\n{headed(i, plain(b))}\n```", i, plain(b), {"code_fence": 1, "other_format": 1}),
    "only prose": lambda i, b: (
        plain(b), "", plain(b), {"missing_heading": 1, "missing_initial": 1, "other_format": 1}),
    # --- a megabyte
    "a megabyte of answer": lambda i, b: (obj(i, (b + " ") * 20_000), i, ((b + " ") * 20_000).strip(), {}),
    "a megabyte of blanks": lambda i, b: (" \n" * 500_000 + obj(i, b), i, b, {}),
    "a megabyte of quotes": lambda i, b: (opened(i, '"x' * 500_000), i, '"x' * 500_000, BAD),
}  # fmt: skip

FIXTURES = [(f"{name} {n}", slip(*texts)) for name, slip in SLIPS.items() for n, texts in enumerate(TEXTS)]


def test_there_are_two_hundred_different_ones() -> None:
    assert len({answer for _, (answer, *_) in FIXTURES}) >= 200


@pytest.mark.parametrize("fixture", [fixture for _, fixture in FIXTURES], ids=[name for name, _ in FIXTURES])
def test_spoilt_answer_is_read_as_far_as_it_goes(fixture: tuple[str, str, str, dict[str, int]]) -> None:
    answer, initial, bidirectional, kinds = fixture
    begun = time.process_time()
    chain = parse_reasoning(answer, "full", structured=True)
    assert (chain.initial, chain.bidirectional) == (initial.strip(), bidirectional.strip())
    assert chain.malformed == dict(sorted(kinds.items()))
    parse_description(answer).encode("utf-8")
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("depth", range(900, 1000, 3))
def test_nesting_at_the_edge_of_what_can_be_read(depth: int) -> None:
    deep = "[" * depth + "]" * depth
    answer = f'{{"initial_reasoning": {deep}, "bidirectional_reasoning": "B."}}'
    assert parse_reasoning(answer, "full", structured=True).bidirectional == "B."
    parse_description(f'{{"description": {deep}}}')


@pytest.mark.parametrize(
    ("answer", "description"),
    [
        ('{"description": "A moon."}', "A moon."),
        ('```json\n{"description": "A moon."}\n```', "A moon."),
        ('Sure:\n{"description": "A moon."}\nDone.', "A moon."),
        ('\ufeff{"description": "A moon."}', "A moon."),
        ('{"description": "A moon', "A moon"),
        ('{"description": "A moon.",}', "A moon."),
        ('{"description": "A "moon" it is."}', 'A "moon" it is.'),
        ("{'description': 'A moon.'}", "A moon."),
        ('{"description": "A moon.", "description": "Another."}', "A moon."),
        ('{"Description": "A moon."}', "A moon."),
        ('{"definition": "A moon."}', "A moon."),
        ('{"description": ["A", "moon."]}', "A moon."),
        ('{"description": {"text": "A moon."}}', '{"text": "A moon."}'),
        ('{"description": 3}', "3"),
        ('{"description": null}', ""),
        ('{"descr', ""),
        ("{}", ""),
        ("**Description:** A moon.", "A moon."),
        ("Description: A moon.", "A moon."),
        ("The description: a moon.", "The description: a moon."),
        ("<think>Hm.</think>A moon.", "A moon."),
        ("A moon of {x}.", "A moon of {x}."),
        ("A \x00 moon \ud800", "A \ufffd moon \ufffd"),
        ("\n \t", ""),
        ("x" * 1_000_000, "x" * 1_000_000),
    ],
)
def test_spoilt_description_is_read_as_far_as_it_goes(answer: str, description: str) -> None:
    assert parse_description(answer) == description
