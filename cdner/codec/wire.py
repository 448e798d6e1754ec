"""The paper's JSON, and the form of it that a given vocabulary can read and write.

T5's vocabulary has no ``{ } < > ~ ^ \\ =`` and no newline: what it cannot spell is lost between ``encode``
and ``decode``. So each vocabulary gets one ``Wire``, which says what is left out on the way to the model
and how a text looks after that way. Knows nothing of tokens' spans (see ``align``) and of broken output
(see ``decode``).

==================  ==========================  ===========================
                    JSON form                   brace-free form
==================  ==========================  ===========================
two types           ``{"a": ["x"], "b": ["y"]}``  ``"a": ["x"], "b": ["y"]``
no entity           ``{}``                      ``[]``
``"`` in a mention  ``\\"``                      ``'`` (without backslashes)
==================  ==========================  ===========================

The brace-free form of "no entity" is ``[]`` and not the empty text: a target of only an end token is what a
sequence-to-sequence model falls back to when it has learnt nothing, and it could not be told from a lost
output.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cdner.errors import InputError, UsageError
from cdner.types import Sentence, Vocabulary

WireForm = Literal["auto", "json", "braceless"]

NO_ENTITY_JSON = "{}"
NO_ENTITY_BRACELESS = "[]"
_FRAME = '"a": ["b", "c"], "d": ["e"]'  # every piece of syntax both forms need


@dataclass(frozen=True, slots=True)
class Wire:
    """What one vocabulary can carry. ``vocabulary`` None carries everything (an LLM's own text)."""

    braces: bool
    escapes: bool  # backslashes survive, so JSON escapes do
    angle_brackets: bool
    vocabulary: Vocabulary | None = field(default=None, repr=False)
    _surfaces: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def no_entity(self) -> str:
        return NO_ENTITY_JSON if self.braces else NO_ENTITY_BRACELESS

    def round_trip(self, text: str) -> str:
        """``decode(encode(text))`` with white space folded: the text as it comes back from the model's
        side.
        """
        if self.vocabulary is None:
            return fold(text)
        return fold(self.vocabulary.decode(self.vocabulary.encode(text)))

    def surface(self, text: str) -> str:
        """What a mention, a token or a type reads like on the decoded side of the wire. Cached per wire."""
        known = self._surfaces.get(text)
        if known is None:
            known = self._surfaces[text] = self.round_trip(text if self.escapes else without_quotes(text))
        return known

    def survives(self, text: str) -> bool:
        """Whether the text comes back as it went."""
        return self.surface(text) == fold(text)

    def quoted(self, text: str) -> str:
        """A string as the wire writes it, with its quotes."""
        return json.dumps(text, ensure_ascii=False) if self.escapes else f'"{without_quotes(text)}"'

    def to_wire(self, entities_json: str) -> str:
        """The paper's JSON as the model is to write it. InputError when it is not ``{type: [mention,
        ...]}``.
        """
        mentions = _parsed(entities_json)
        body = ", ".join(
            f"{self.quoted(name)}: [{', '.join(map(self.quoted, values))}]"
            for name, values in mentions.items()
        )
        if not body:
            return self.no_entity
        return f"{{{body}}}" if self.braces else body

    def types_by_surface(self, types: Sequence[str]) -> dict[str, str]:
        """Decoded spelling -> declared type. UsageError when two types read the same through this
        vocabulary.
        """
        found: dict[str, str] = {}
        for name in types:
            other = found.setdefault(self.surface(name), name)
            if other != name:
                raise UsageError(
                    f"This vocabulary cannot tell type '{name}' from '{other}': rename one of them."
                )
        return found


PLAIN_WIRE = Wire(braces=True, escapes=True, angle_brackets=True)


def wire_for(vocabulary: Vocabulary, form: WireForm = "auto") -> Wire:
    """Find out what the vocabulary can spell and choose the form; ``auto`` takes JSON where braces survive.

    UsageError when ``form`` is ``json`` without braces, or when quotes, brackets, colon or comma do not
    survive.
    """

    def carries(character: str) -> bool:
        return character in vocabulary.decode(vocabulary.encode(f"a{character}b"))

    if fold(vocabulary.decode(vocabulary.encode(_FRAME))) != _FRAME:
        raise UsageError(f"This vocabulary cannot write {_FRAME}, so no entities: choose another model.")
    has_braces = carries("{") and carries("}")
    if form == "json" and not has_braces:
        raise UsageError('This vocabulary has no braces: use the "braceless" form, or add "{" and "}" to it.')
    return Wire(
        braces=has_braces and form != "braceless",
        escapes=carries("\\"),
        angle_brackets=carries("<") and carries(">"),
        vocabulary=vocabulary,
    )


def encode_entities(sentence: Sentence, types: Sequence[str]) -> str:
    """The paper's JSON of a sentence's entities (3.3.2).

    Types in declared order, types without entity left out, mentions in text order, repeated mentions
    repeated. InputError when an entity has an undeclared type.
    """
    mentions: dict[str, list[str]] = {name: [] for name in types}
    for entity in sorted(sentence.entities):
        if entity.type not in mentions:
            raise InputError(f"Entity type '{entity.type}' is not one of: {', '.join(types)}.")
        mentions[entity.type].append(" ".join(sentence.tokens[entity.start : entity.end]))
    return json.dumps({name: values for name, values in mentions.items() if values}, ensure_ascii=False)


def fold(text: str) -> str:
    """Each run of white space as one space, none at the ends."""
    return " ".join(text.split())


def without_quotes(text: str) -> str:
    """A double quote would end the string where no backslash can protect it."""
    return text.replace('"', "'")


def _parsed(entities_json: str) -> Mapping[str, Sequence[str]]:
    try:
        value = json.loads(entities_json)
    except json.JSONDecodeError as error:
        raise InputError(f"Not the JSON of entities: {error}.") from error
    if not isinstance(value, dict) or not all(_is_text_list(mentions) for mentions in value.values()):
        raise InputError(f'Not of the form {{"type": ["mention", ...]}}: {entities_json[:80]!r}.')
    return value


def _is_text_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
