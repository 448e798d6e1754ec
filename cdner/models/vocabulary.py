"""What the codec needs of a tokenizer: the bytes of its pieces, encoding, and decoding.

The codec itself needs no tokenizer library. Text from a corpus must never become a special token, even one that is an
ordinary piece of the vocabulary (T5's ``</s>``): call ``neutralised`` first, then ``encode_plain``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_WORD_START = "▁"


@dataclass(frozen=True, slots=True)
class PlainTokens:
    ids: list[int]
    last_characters: list[int]  # per token: index of the last character of the text it covers


def special_strings(tokenizer: Any) -> tuple[str, ...]:
    """Every string that the tokenizer reads as a special token, longest first."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    several = (text for text in {*added, *tokenizer.all_special_tokens} if len(text) > 1)
    return tuple(sorted(several, key=lambda text: (-len(text), text)))


def neutralised(text: str, specials: Sequence[str]) -> str:
    """The text with a space inside every special-token string, which is then ordinary text."""
    while found := next((special for special in specials if special in text), None):
        text = text.replace(found, f"{found[0]} {found[1:]}")
    return text


def encode_plain(tokenizer: Any, text: str) -> PlainTokens:
    """Token ids of a ``neutralised`` text, without special tokens except the unknown token."""
    encoded = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
    )
    last = [max(start, end - 1) for start, end in encoded["offset_mapping"]]
    return PlainTokens(ids=list(encoded["input_ids"]), last_characters=last)


class TokenizerVocabulary:
    """``cdner.types.Vocabulary`` over a Hugging Face tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._specials = special_strings(tokenizer)
        self._pieces: tuple[bytes | None, ...] = ()

    @property
    def pieces(self) -> Sequence[bytes | None]:
        if not self._pieces:
            self._pieces = _pieces(self._tokenizer)
        return self._pieces

    @property
    def unknown_id(self) -> int | None:
        unknown = self._tokenizer.unk_token_id
        # A byte-level vocabulary can spell any text; its unknown token is used between documents.
        return None if unknown is None or _is_byte_level(self._tokenizer) else int(unknown)

    @property
    def end_id(self) -> int:
        return int(self._tokenizer.eos_token_id)

    def encode(self, text: str) -> list[int]:
        return encode_plain(self._tokenizer, neutralised(text, self._specials)).ids

    def decode(self, ids: Sequence[int]) -> str:
        text = self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)


def _is_byte_level(tokenizer: Any) -> bool:
    decoder = json.loads(tokenizer.backend_tokenizer.to_str()).get("decoder") or {}
    parts = decoder.get("decoders", [decoder])
    return any(part.get("type") == "ByteLevel" for part in parts)


def _pieces(tokenizer: Any) -> tuple[bytes | None, ...]:
    byte_level = _is_byte_level(tokenizer)
    characters = _byte_level_characters() if byte_level else {}
    special = {tokenizer.convert_tokens_to_ids(text) for text in special_strings(tokenizer)}
    added = {index: token.content for index, token in tokenizer.added_tokens_decoder.items()}
    found: list[bytes | None] = []
    for index, piece in enumerate(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))):
        if piece is None or index in special:
            found.append(None)
        elif index in added:
            found.append(added[index].encode())
        elif byte_level:
            found.append(bytes(characters[character] for character in piece))
        else:
            found.append(_sentencepiece_bytes(piece))
    return tuple(found)


def _sentencepiece_bytes(piece: str) -> bytes:
    if match := _BYTE_PIECE.fullmatch(piece):
        return bytes([int(match[1], 16)])
    return piece.replace(_WORD_START, " ").encode()


def _byte_level_characters() -> dict[str, int]:
    """Byte-level BPE writes a byte as a visible character: itself, or the next free one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + rank): byte for rank, byte in enumerate(hidden)})
    return table
