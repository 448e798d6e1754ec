"""A million lines through the reader, a hundred thousand outputs through the parsers: nothing raises, all adds up."""

from __future__ import annotations

import html
import json
import random
import time
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
from codec_vocabularies import unigram_vocabulary
from fuzzed import found_cases, mutations, repeated
from test_reasoning_malformed import FIXTURES as SPOILT

import cdner
from cdner.codec import PLAIN_WIRE, Wire, decode, encode_entities, wire_for
from cdner.codec.decode import (
    EXCESS_MENTION,
    MALFORMED_KINDS,
    OVERLAPPING_MENTION,
    RESPELLED_MENTION,
    UNGROUNDED_MENTION,
    UNKNOWN_TYPE,
)
from cdner.codec.scan import scan
from cdner.codec.wire import fold
from cdner.config import REASONING_SETTINGS, Setting
from cdner.corpora.conll import ConllReader
from cdner.corpora.plain_text import tokenise
from cdner.errors import InputError
from cdner.reasoning import entities_text, parse_description, parse_reasoning
from cdner.types import Corpus, ReasoningChain, Sentence

N_LINES, N_OUTPUTS = 1_000_000, 100_000
LINES_A_SECOND = 100_000  # of CPU; measured: 250,000
DEMO = Path(cdner.__file__).parent / "corpora" / "demo" / "film"
BRACELESS = wire_for(unigram_vocabulary(), "braceless")
KINDS_OF_REASONING = {
    *("empty", "code_fence", "surrounding_text", "truncated_json", "other_format", "missing_heading"),
    *("missing_initial", "missing_bidirectional", "duplicate_part", "unexpected_part", "wrong_type"),
    *("invalid_characters", "thoughts"),
}


@cache
def sentences() -> tuple[Sentence, ...]:
    return ConllReader().read(DEMO / "test.txt", domain="film", split="test").sentences


TYPES = ConllReader().read(DEMO / "test.txt", domain="film", split="test").types


# --- the reader ------------------------------------------------------------------------------------------

TOKENS = (
    *("Ann", "film", "…", "e\u0301", "\u202eevil\u202c", "שלום", "\u200b", "\x1b[31m", "\u00a0", "1\u20090", "O", "B"),
    *("#", '"', "'", "{{x}}", "=1+1", "IMGID:5", "-DOCSTART", "\ufeffx", "\U0010ffff", "x" * 300, "漢字", "\x85", "-"),
)  # fmt: skip
TAGS = ("O", "O", "O", "B-a", "I-a", "B-b", "I-b", "E-a", "S-b", "I-x-y", "B-\u202e", "S-'", "E-O", "B-*")
BREAKS = ("", "\t", "  ", "-DOCSTART- -X- O O", "IMGID:7", "-DOCSTART-\tO")
BYTES = (b"\x00", b"\r", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\t", b" ", b"\n", b"-", b"\xef\xbb\xbf", b"Q")


def fuzzed_file(generator: random.Random, n_lines: int) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Lines that a reader must take, every one made anew, and the rows it must find, sentence by sentence."""
    between = generator.choice(("\t", " ", "\t x\t", "   y "))
    end = generator.choice(("", "", " ", "\t ", "\r"))
    tokens, tags = generator.choices(TOKENS, k=n_lines), generator.choices(TAGS, k=n_lines)
    lines, rows = [f"first{between}O{end}"], [[("first", "O")]]
    for token, tag, is_break in zip(
        tokens, tags, generator.choices((True, *[False] * 15), k=n_lines), strict=True
    ):
        if is_break:
            lines.append(generator.choice(BREAKS))
            rows.append([])
        else:
            lines.append(f"{token}{between}{tag}{end}")
            rows[-1].append((token.replace("\ufeff", ""), tag))  # a byte order mark is no part of a token
    return lines, [sentence for sentence in rows if sentence]


def check_corpus(corpus: Corpus, rows: Sequence[Sequence[tuple[str, str]]] | None) -> None:
    """What holds for every corpus; all of it where the rows are known."""
    types: dict[str, None] = {}
    for sentence in corpus.sentences:
        ends = [0, *(entity.end for entity in sentence.entities)]
        assert all(
            end <= entity.start < entity.end for end, entity in zip(ends, sentence.entities, strict=False)
        )
        assert ends[-1] <= len(sentence.tokens) and all(sentence.tokens)
        types.update(dict.fromkeys(entity.type for entity in sentence.entities))
    assert corpus.types == tuple(types)
    if rows is None:
        return
    assert [sentence.tokens for sentence in corpus.sentences] == [
        tuple(token for token, _ in row) for row in rows
    ]
    for sentence, row in zip(corpus.sentences, rows, strict=True):
        for entity in sentence.entities:
            assert {tag[2:] for _, tag in row[entity.start : entity.end]} == {entity.type}
        n_tagged = sum(tag != "O" for _, tag in row)
        assert sum(entity.end - entity.start for entity in sentence.entities) == n_tagged


def refused_at(error: InputError, path: Path) -> int:
    message = str(error)
    assert message.startswith(f"{path}, line ") and message.isprintable() and len(message) < 400
    return int(message.removeprefix(f"{path}, line ").partition(":")[0])


@pytest.mark.slow
def test_a_million_fuzzed_lines_are_read_or_refused_by_line(tmp_path: Path) -> None:
    """Whole files whose rows are known, and the same with a few bytes broken, read up to the line that is refused."""
    generator, path, reader = random.Random(5), tmp_path / "fuzzed.txt", ConllReader()
    n_read = n_refused = 0
    seconds = 0.0
    while n_read < N_LINES:
        lines, rows = fuzzed_file(generator, generator.choice((3, 40, 2000)))
        content = "\n".join(lines).encode()
        is_broken = generator.random() < 0.5
        for _ in range(generator.randrange(1, 4) if is_broken else 0):
            at = generator.randrange(len(content))
            content = content[:at] + generator.choice(BYTES) + content[at + generator.randrange(3) :]
        path.write_bytes(content)
        begun = time.process_time()
        try:
            corpus = reader.read(path, domain="d", split="train")
        except InputError as error:
            seconds += time.process_time() - begun
            assert is_broken
            n_read += refused_at(error, path)
            n_refused += 1
        else:
            seconds += time.process_time() - begun
            n_read += content.count(b"\n") + 1
            check_corpus(corpus, None if is_broken else rows)
    assert n_refused > 100
    assert n_read / seconds > LINES_A_SECOND


# --- what models write -----------------------------------------------------------------------------------


def outputs() -> Iterator[tuple[int, str]]:
    """(sentence, text): spoilt entities of that sentence and spoilt reasonings, in turn."""
    chosen = [sentence for sentence in sentences() if sentence.entities][:25]
    reasonings = [answer for _, (answer, *_) in SPOILT if len(answer) < 2000]
    for number, sentence in enumerate(chosen):
        whole = encode_entities(sentence, TYPES)
        braceless = BRACELESS.to_wire(whole)
        asked = json.dumps(
            {"initial_reasoning": sentence.text, "bidirectional_reasoning": "B.", "entities": whole}
        )
        material = [whole, braceless, whole, braceless, asked, f"Entities: {whole}", *reasonings[number::25]]
        for text in mutations(material, N_OUTPUTS // len(chosen), seed=number):
            yield number, text


def letters(text: str) -> str:
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", html.unescape(text)).casefold()))


def check_prediction(text: str, sentence: Sentence, wire: Wire) -> None:
    prediction = decode(text, sentence=sentence, types=TYPES, wire=wire)
    counts = prediction.malformed
    assert set(counts) <= set(MALFORMED_KINDS) and min(counts.values(), default=1) > 0
    ends = [0, *(entity.end for entity in prediction.entities)]
    assert all(
        end <= entity.start < entity.end for end, entity in zip(ends, prediction.entities, strict=False)
    )
    assert ends[-1] <= len(sentence.tokens)
    pairs = scan(text, braces=wire.braces, escapes=wire.escapes).pairs
    declared = wire.types_by_surface(TYPES)
    written = [
        (declared[fold(name)], fold(mention))
        for name, found in pairs
        if fold(name) in declared
        for mention in found
    ]
    assert counts.get(UNKNOWN_TYPE, 0) == sum(fold(name) not in declared for name, _ in pairs)
    lost = sum(counts.get(kind, 0) for kind in (UNGROUNDED_MENTION, EXCESS_MENTION, OVERLAPPING_MENTION))
    assert len(written) == len(prediction.entities) + lost
    n_otherwise = 0
    for entity in prediction.entities:
        text = fold(" ".join(map(wire.surface, sentence.tokens[entity.start : entity.end])))
        n_otherwise += (entity.type, text) not in written
        assert letters(text) in {letters(mention) for name, mention in written if name == entity.type}
    assert n_otherwise <= counts.get(RESPELLED_MENTION, 0)


def check_reasoning(text: str, setting: Setting, *, structured: bool) -> None:
    chain = parse_reasoning(text, setting, structured=structured)
    assert chain.malformed.keys() <= KINDS_OF_REASONING and min(chain.malformed.values(), default=1) > 0
    for part in (chain.initial, chain.bidirectional):
        part.encode("utf-8")
        assert part == part.strip() and "\x00" not in part and len(part) <= 2 * len(text) + 20
    if chain.initial and chain.bidirectional:
        again = {"initial_reasoning": chain.initial, "bidirectional_reasoning": chain.bidirectional}
        read = parse_reasoning(json.dumps(again), "full", structured=True)
        assert read == ReasoningChain(chain.initial, chain.bidirectional, {})
    description = parse_description(text)
    assert description == fold(description)
    description.encode("utf-8")
    assert len(entities_text(text)) <= len(text)


@pytest.mark.slow
def test_a_hundred_thousand_fuzzed_outputs_are_decoded_and_parsed() -> None:
    """Every mention is accounted for, and what was found in a reasoning is found again when it is written properly."""
    chosen = [sentence for sentence in sentences() if sentence.entities]
    for count, (number, text) in enumerate(outputs()):
        check_prediction(text, chosen[number], (PLAIN_WIRE, BRACELESS)[count % 2])
        setting = REASONING_SETTINGS[count // 2 % len(REASONING_SETTINGS)]
        check_reasoning(text, setting, structured=count % 3 > 0)


# --- time ------------------------------------------------------------------------------------------------


def seconds_for(text: str) -> float:
    """CPU time of everything that reads what a model or a user wrote."""
    film = Sentence(("film",) * 2000, ())
    begun = time.process_time()
    for sentence in (film, sentences()[0]):
        for wire in (PLAIN_WIRE, BRACELESS):
            decode(text, sentence=sentence, types=TYPES, wire=wire)
    for structured in (True, False):
        parse_reasoning(text, "full", structured=structured)
    parse_description(text)
    entities_text(text)
    tokenise(text)
    return time.process_time() - begun


@pytest.mark.parametrize("text", found_cases(), ids=range(len(found_cases())))
def test_what_once_took_too_long_is_read_at_once(text: str) -> None:
    assert seconds_for(text) < 15  # each was minutes; under a second when nothing else runs


@pytest.mark.parametrize("seed", range(40))
def test_any_repetition_is_read_in_linear_time(seed: int) -> None:
    short, long = (seconds_for(repeated(n, seed=seed)) for n in (2_000, 32_000))
    assert long < 1 + 60 * short  # 16 times as long; quadratic time would be 256 times as much
