"""Rows of a file of reasoning texts: what is refused, and which sentence each row belongs to."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from cdner.errors import InputError
from cdner.reasoning.imported import ImportedRow, Matched, imported_chain, match_rows, read_rows

FILE = Path("texts.jsonl")
TEXTS = ("Ann Lee runs .", "The park .", "Ann Lee runs .", "It rains .")
GOOD: dict[str, Any] = {
    "domain": "film",
    "split": "train",
    "position": 0,
    "model": "m",
    "reasoning": "Because.",
}


def row(**changes: Any) -> dict[str, Any]:
    """A good row with changes; None takes a key away."""
    return {key: value for key, value in (GOOD | changes).items() if value is not None}


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def read(*rows: dict[str, Any]) -> list[ImportedRow]:
    return read_rows(FILE, lines(*rows))


def match(*rows: dict[str, Any]) -> Matched:
    return match_rows(read(*rows), TEXTS, domain="film", split="train", path=FILE)


def written(matched: Matched) -> dict[int, str]:
    return {position: found.written for position, found in sorted(matched.rows.items())}


# --- the file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{", "not JSON in UTF-8: Expecting property name"),
        (b'{"domain": "\xff"}', "not JSON in UTF-8: 'utf-8' codec can't decode byte 0xff"),
        (b"[" * 100_000, "not JSON in UTF-8: maximum recursion depth"),
        (b"[1]", "expected one JSON object a line, found a list."),
        (row(domain=None), "domain is missing, expected a text."),
        (row(domain=3), "domain is 3, expected a text."),
        (row(split="validation"), "split is 'validation', expected one of train, dev, test."),
        (row(position=-1), "position is -1, expected a whole number from 0."),
        (row(position=True), "position is True, expected a whole number from 0."),
        (row(position=1.5), "position is 1.5, expected a whole number from 0."),
        (row(position="1"), "position is a str, expected a whole number from 0."),
        (row(position=None), "neither position nor text says which sentence it is about."),
        (row(position=None, text=" \n"), "neither position nor text says which sentence it is about."),
        (row(text=["a"]), "text is a list, expected a text."),
        (row(model=None), "model is missing, expected a text."),
        (row(model=" "), "model is empty; name who wrote the text."),
        (row(reasoning=None), "expected either reasoning, or both initial and bidirectional."),
        (row(reasoning=None, initial="a"), "expected either reasoning, or both initial and bidirectional."),
        (
            row(initial="a", bidirectional="b"),
            "expected either reasoning, or both initial and bidirectional.",
        ),
        (row(reasoning={}), "reasoning is a dict, expected a text."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_line_is_named_with_file_and_number(line: bytes | dict[str, Any], complaint: str) -> None:
    bad = line if isinstance(line, bytes) else lines(line).rstrip()
    with pytest.raises(InputError) as refused:
        read_rows(FILE, lines(row()) + b"\n" + bad + b"\n" + lines(row()))
    assert str(refused.value).startswith(f"texts.jsonl, line 3: {complaint}")


def test_line_breaks_marks_and_other_keys_are_no_matter() -> None:
    separator = "\u2028"  # a line break to str.splitlines, none to JSON Lines
    found = read_rows(
        FILE, b"\xef\xbb\xbf" + lines(row(reasoning=f"a{separator}b", id=7)).replace(b"\n", b"\r\n")
    )
    raw = json.dumps(row(reasoning=f"a{separator}b"), ensure_ascii=False).encode()
    assert found == read_rows(FILE, raw)
    assert found[0].written == f"a{separator}b"


def test_characters_no_store_takes_are_replaced() -> None:
    (found,) = read(row(model="m\ud800", reasoning="a\x00b\udfffc"))
    assert (found.model, found.written) == ("m\ufffd", "a\ufffdb\ufffdc")


# --- rows to sentences -----------------------------------------------------------------------------------


def test_rows_go_by_position_else_by_text_whatever_its_white_space() -> None:
    matched = match(
        row(position=3, reasoning="third"),
        row(position=1, text="The  park.", reasoning="first"),
        row(position=None, text="AnnLee\truns.", reasoning="twice"),
    )
    assert written(matched) == {0: "twice", 1: "first", 2: "twice", 3: "third"}


def test_a_row_with_a_position_serves_its_equal_only_where_that_has_none() -> None:
    assert written(match(row(position=2, reasoning="b"))) == {0: "b", 2: "b"}
    two = match(row(position=0, reasoning="a"), row(position=2, reasoning="b"))
    assert written(two) == {0: "a", 2: "b"}


def test_rows_of_other_splits_unknown_texts_and_repetitions_are_counted() -> None:
    matched = match(
        row(split="dev"),
        row(domain="news"),
        row(),
        row(),
        row(position=4, reasoning="beyond"),
        row(position=None, text="Nobody wrote this .", reasoning="elsewhere"),
        row(position=None, text=TEXTS[1]),
        row(position=None, text=TEXTS[1]),
    )
    assert (matched.n_elsewhere, matched.n_repeated, matched.unmatched) == (2, 2, (5, 6))


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (
            [row(), row(position=1, text=TEXTS[0]), row(position=9, text=TEXTS[0])],
            "position and text disagree in 2 rows, first in line 2 (position 1)",
        ),
        (
            [row(), row(reasoning="else"), row(position=1), row(position=1, model="other")],
            "2 sentences have two different rows, the first in lines 1 and 2.",
        ),
        (
            [row(position=1), row(position=None, text=TEXTS[1], reasoning="else")],
            "1 sentences have two different rows, the first in lines 1 and 2.",
        ),
    ],
    ids=["misplaced", "two texts and two models", "position and text"],
)
def test_rows_at_odds_are_refused_with_their_number(rows: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(InputError) as refused:
        match(*rows)
    assert str(refused.value).startswith(f"texts.jsonl, film/train: {complaint}")


def test_of_equal_sentences_none_gets_a_text_that_two_rows_disagree_about() -> None:
    texts = (*TEXTS, TEXTS[0])
    rows = read(row(position=0, reasoning="a"), row(position=2, reasoning="b"))
    matched = match_rows(rows, texts, domain="film", split="train", path=FILE)
    assert written(matched) == {0: "a", 2: "b"}


def test_a_hundred_thousand_rows_take_seconds() -> None:
    texts = [f"Sentence number {n} of many ." for n in range(100_000)]
    rows = (row(position=None, text=text, reasoning="Because. " * 20) for text in texts)
    content = lines(*rows)
    started = time.process_time()
    matched = match_rows(read_rows(FILE, content), texts, domain="film", split="train", path=FILE)
    assert len(matched.rows) == len(texts)
    assert time.process_time() - started < 10


# --- texts to reasoning ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "initial", "bidirectional", "malformed"),
    [
        ({"reasoning": None, "initial": " one", "bidirectional": "two\n"}, "one", "two", {}),
        (
            {"reasoning": None, "initial": "", "bidirectional": '{"a": 1}'},
            "",
            '{"a": 1}',
            {"missing_initial": 1},
        ),
        ({"reasoning": "Just prose."}, "", "Just prose.", {}),
        ({"reasoning": "Initial reasoning: one\nBidirectional reasoning: two"}, "one", "two", {}),
        ({"reasoning": '{"initial_reasoning": "one", "bidirectional_reasoning": "two"}'}, "one", "two", {}),
        (
            {"reasoning": '{"initial_reasoning": "one", "bidir'},
            "one",
            "",
            {"missing_bidirectional": 1, "truncated_json": 1},
        ),
    ],
    ids=["two parts", "one part empty", "prose", "headings", "json", "cut off"],
)
def test_one_text_or_two_become_the_two_parts(
    changes: dict[str, Any], initial: str, bidirectional: str, malformed: dict[str, int]
) -> None:
    (found,) = read(row(**changes))
    chain = imported_chain(found.written, "full")
    assert (chain.initial, chain.bidirectional, chain.malformed) == (initial, bidirectional, malformed)


def test_a_setting_without_initial_reasoning_takes_the_other_part_alone() -> None:
    (found,) = read(row(reasoning=None, initial="one", bidirectional="two"))
    chain = imported_chain(found.written, "without_initial")
    assert (chain.initial, chain.bidirectional, chain.malformed) == ("", "two", {})
