"""Real tokenizers for tests of the codec, and sentences that are hard on them.

The unigram one lacks ``{ } < > ~ ^ \\ =`` and newline, as T5's does; the byte-level one can spell anything.
"""

from __future__ import annotations

import string
from functools import cache
from pathlib import Path

from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, T5Tokenizer

from cdner.models.vocabulary import TokenizerVocabulary
from cdner.spans import bio_to_entities
from cdner.types import Entity, Sentence, Vocabulary

MISSING = "{}<>~^\\="
TYPES = ("person", "political party", "programlang")
_TRAINING = [
    '"person": ["Mira Olsen", "Tomas Reyl"], "political party": ["Harbour List"], "programlang": ["Corvid"]',
    '"person": ["Ada Voss"], "programlang": ["Tin 2", "Corvid"]',
    "Mira Olsen of the Harbour List met Tomas Reyl, who writes Corvid and Tin 2; Ada Voss did not come.",
    "[]",
]


@cache
def unigram_vocabulary() -> Vocabulary:
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    printable = string.ascii_letters + string.digits + string.punctuation
    trainer = trainers.UnigramTrainer(
        vocab_size=200,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        initial_alphabet=[character for character in printable + "éö" if character not in MISSING],
    )
    backend.train_from_iterator(_TRAINING, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", pad_token="<pad>"
    )
    return TokenizerVocabulary(tokenizer)


@cache
def byte_level_vocabulary() -> Vocabulary:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken("<|endoftext|>", special=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator([f"{{{text}}}" for text in _TRAINING], trainer)
    return TokenizerVocabulary(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>"))


@cache
def genuine_t5_vocabulary(shared_data: Path) -> Vocabulary:
    return TokenizerVocabulary(T5Tokenizer.from_pretrained(shared_data / "t5-tokenizer"))


class OneCharacterVocabulary:
    """Each printable ASCII character is a token: texts can be enumerated one way only."""

    unknown_id = None
    end_id = 0

    def __init__(self) -> None:
        self.pieces = (None, *(bytes([code]) for code in range(0x20, 0x7F)))

    def encode(self, text: str) -> list[int]:
        return [ord(character) - 0x1F for character in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(token_id + 0x1F) for token_id in ids)


AWKWARD_TOKENS = (
    *(
        "a",
        "b",
        "ab",
        'a"',
        '"',
        '""',
        "\\",
        '\\"',
        "\\\\n",
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        '",',
        '"],',
        "~",
        "^",
    ),
    *("=", "<unk>", "</s>", "<|endoftext|>", "▁", "x▁y", "''", "``", "´", "´a", "½", "…", "ﬁ", "Ａ"),
    *("Łódź", "łł", "漢字", "漢", "e\u0301", "é", "🙂", "\u200b", "\u0301"),
)


def _is_token(text: str) -> bool:
    return len(text.split()) == 1 and text == text.strip()


tokens = st.one_of(
    st.sampled_from(AWKWARD_TOKENS),
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=6).filter(_is_token),
)


@st.composite
def sentences(draw: st.DrawFn, *, unique: bool = False, plain: bool = False) -> Sentence:
    """Tokens with random disjoint entities of ``TYPES``."""
    words = st.sampled_from(("a", "b", "ab", "c")) if plain else tokens
    chosen = draw(st.lists(words, min_size=1, max_size=8, unique=unique))
    tags = draw(
        st.lists(
            st.sampled_from(("O", *(f"{mark}-{name}" for mark in "BI" for name in TYPES))),
            min_size=len(chosen),
            max_size=len(chosen),
        )
    )
    return Sentence(tuple(chosen), bio_to_entities(tags)[0])


def read_sentences(path: Path) -> list[Sentence]:
    """A ``token<TAB>tag`` file, in a few lines of its own."""
    blocks = [block.splitlines() for block in path.read_text(encoding="utf-8").split("\n\n") if block.strip()]
    found = []
    for block in blocks:
        rows = [line.split("\t") for line in block if line]
        found.append(Sentence(tuple(row[0] for row in rows), bio_to_entities([row[1] for row in rows])[0]))
    return found


def declared_types(found: list[Sentence]) -> tuple[str, ...]:
    return tuple(sorted({entity.type for sentence in found for entity in sentence.entities}))


def texts(sentence: Sentence, entities: tuple[Entity, ...]) -> list[tuple[str, str]]:
    """Sorted (type, mention)."""
    return sorted((e.type, " ".join(sentence.tokens[e.start : e.end])) for e in entities)
