"""Kinds of mentions that models spell otherwise than the sentence, each with the tokens that are meant."""

from __future__ import annotations

import html
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdner.codec import PLAIN_WIRE, decode
from cdner.codec.align import Mention, SentenceIndex, align
from cdner.types import Entity, Sentence

# kind -> (tokens, what the model wrote, the run of tokens; None: it is no mention of this sentence)
KINDS: dict[str, tuple[str, str, tuple[int, int] | None]] = {
    "no space before a clitic": ("Children 's Hospital", "Children's Hospital", (0, 3)),
    "a space that is not there": ("in 10.5.2 of", "10 . 5 . 2", (1, 2)),
    "a no-break space": ("New York", "New\u00a0York", (0, 2)),
    "decomposed accents": ("Caf\u00e9 Bl\u00e9riot", "Cafe\u0301 Ble\u0301riot", (0, 2)),
    "composed accents": ("Cafe\u0301 Bar", "Caf\u00e9", (0, 1)),
    "a ligature and full width": ("Eﬃe ＡＢＣ", "Effie ABC", (0, 2)),
    "typographic quotes": ("Aoife O\u2019Neill", "Aoife O'Neill", (0, 2)),
    "quotes of the Penn Treebank": ("the `` Big '' Apple", '"Big" Apple', (1, 5)),
    "brackets of the Penn Treebank": ("Oslo -LRB- old -RRB-", "Oslo (old)", (0, 4)),
    "another hyphen": ("Anne\u2010Marie left", "Anne-Marie", (0, 1)),
    "a zero-width space": ("AT\u200b&T", "AT&T", (0, 1)),
    "a soft hyphen in the answer": ("Donau Dampf", "Do\u00adnau", (0, 1)),
    "an HTML entity in the answer": ("AT&T fell", "AT&amp;T", (0, 1)),
    "an HTML entity in the sentence": ("R&#38;B and", "R&B", (0, 1)),
    "an HTML entity that tokens cut apart": ("AT & amp ; T fell", "AT&T", (0, 5)),
    "another case": ("the IPHONE sold", "iPhone", (1, 2)),
    "another case, expanding": ("STRASSE 5", "Straße", (0, 1)),
    "capitals in the sentence": ("an EU law", "eu", (1, 2)),
    "a short word is no acronym": ("they told us", "US", None),
    "half a token": ("Oslo-based firm", "Oslo", None),
    "the end of one token and the start of the next": ("ab cd", "bc", None),
    "one word more": ("Oslo fell", "Oslo fell down", None),
    "white space alone": ("Oslo fell", "\u200b ", None),
}


def entities(tokens: str, *mentions: str) -> list[Entity]:
    index = SentenceIndex(Sentence(tuple(tokens.split(" "))), PLAIN_WIRE)
    return list(align([Mention("t", mention) for mention in mentions], index).entities)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mention_is_found_however_it_is_spelled(kind: str) -> None:
    tokens, mention, span = KINDS[kind]
    assert entities(tokens, mention) == ([] if span is None else [Entity(*span, "t")])


def test_what_is_found_so_is_counted() -> None:
    sentence = Sentence(("Ann", "O’Neill", "of", "Oslo"))
    found = decode('{"a": ["Ann", "O\'Neill", "Bonn"]}', sentence=sentence, types=["a"], wire=PLAIN_WIRE)
    assert found.entities == (Entity(0, 1, "a"), Entity(1, 2, "a"))
    assert found.malformed == {"ungrounded_mention": 1, "respelled_mention": 1}


def test_exact_mentions_come_first_and_the_case_of_the_sentence_before_any_other() -> None:
    assert entities("Tomas met TOMAS", "TOMAS", "tomas") == [Entity(0, 1, "t"), Entity(2, 3, "t")]
    assert entities("Tom's TOM’S TOM'S", "TOM‘S") == [Entity(1, 2, "t")]
    assert entities("tomas", "Tomas", "tomas") == [Entity(0, 1, "t")]


WORDS = st.text(st.sampled_from("aAé\u0301'’-–&;mp \u200bßS`"), min_size=1, max_size=4).filter(str.split)
TOKENS = st.lists(WORDS.map(lambda word: "".join(word.split())), min_size=1, max_size=6)


@given(TOKENS, st.lists(WORDS, max_size=5), st.data())
def test_the_second_look_never_changes_what_the_first_one_found(
    tokens: list[str], others: list[str], data: st.DataObject
) -> None:
    sentence = Sentence(tuple(tokens))
    index = SentenceIndex(sentence, PLAIN_WIRE)
    written = data.draw(st.permutations([*others, *tokens[::2]]))
    mentions = [Mention("ab"[i % 2], text) for i, text in enumerate(written)]
    exact = align([m for m in mentions if index.occurrences(m.text)], index)
    both = align(mentions, index)
    assert set(exact.entities) <= set(both.entities)
    assert (exact.n_excess, exact.n_overlapping) == (both.n_excess, both.n_overlapping)
    assert len(both.entities) - len(exact.entities) == both.n_respelled
    assert both.n_ungrounded + both.n_respelled == sum(not index.occurrences(m.text) for m in mentions)


def respelled(text: str) -> str:
    """The slow twin: the whole run at once."""
    text = unicodedata.normalize("NFKC", html.unescape(text).replace("``", '"').replace("''", '"'))
    text = text.translate(str.maketrans("’–`´", "'-''"))
    return "".join(c for c in text if not c.isspace() and unicodedata.category(c) != "Cf")


@given(TOKENS.filter(lambda tokens: "\u0301" not in {token[0] for token in tokens}), WORDS)
def test_every_run_that_reads_alike_is_found_and_no_other(tokens: list[str], mention: str) -> None:
    found = SentenceIndex(Sentence(tuple(tokens)), PLAIN_WIRE).respelled.occurrences(mention, any_case=False)
    wanted = respelled(mention)
    alike = [
        (start, end)
        for start in range(len(tokens))
        for end in range(start + 1, len(tokens) + 1)
        if wanted and respelled("".join(tokens[start:end])) == wanted
        and respelled(tokens[start]) and respelled(tokens[end - 1])
    ]  # fmt: skip
    assert list(found) == alike
