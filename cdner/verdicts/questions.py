"""From a mention to the request that asks an LLM for its type.

Everything that is the same for all mentions comes first (the system message), so that it is computed once. Knows no
backend and never sees the gold label of the mention it asks about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from string import ascii_uppercase

from cdner.config import Judging, Llm
from cdner.errors import UsageError
from cdner.prompts import Template
from cdner.prompts.templates import call_macro
from cdner.types import Domain, Entity, Message, ReasoningRequest, Sampling, Sentence

ANSWER_PREFIX = "Type:"  # the beginning of the assistant's message, which the LLM continues


@dataclass(frozen=True, slots=True)
class Question:
    """One mention, with the labelled mentions shown before it, nearest last."""

    sentence: Sentence
    start: int
    end: int
    neighbours: tuple[tuple[Sentence, Entity], ...]
    candidates: tuple[str, ...]  # types, in the domain's order


@dataclass(frozen=True, slots=True)
class _Shown:
    """A mention as the template sees it."""

    text: str
    mention: str
    answer: str  # "" where it is asked for

    @property
    def entities(self) -> tuple[_Shown, ...]:
        """Of the text around it: itself."""
        return (self,)


@dataclass(frozen=True, slots=True)
class _ShownSentence:
    """A labelled sentence as the template sees it (from judge.v2 on)."""

    text: str
    entities: tuple[_Shown, ...]


def fixed_part(template: Template, domain: Domain, settings: Judging) -> Message:
    """The system message, equal for every mention of a domain."""
    context: dict[str, object] = {
        "domain": domain,
        "rows": [
            {"answer": answer, "entry": entry}
            for answer, entry in zip(answer_names(domain, settings).values(), domain.entries, strict=True)
        ],
        "definitions": settings.definitions,
        "letters": settings.answer == "letter",
    }
    return Message("system", call_macro(template, "instructions", context))


def question_maker(
    template: Template, domain: Domain, settings: Judging, llm: Llm
) -> Callable[[Question], ReasoningRequest]:
    """``question_request`` for the mentions of a domain: the fixed part is made once. Can be pickled."""
    fixed = fixed_part(template, domain, settings)
    return partial(question_request, template, fixed, domain=domain, settings=settings, llm=llm)


def question_request(
    template: Template, fixed: Message, question: Question, *, domain: Domain, settings: Judging, llm: Llm
) -> ReasoningRequest:
    """The request about one mention. Its choices are those of ``choices_of``."""
    answers = answer_names(domain, settings)
    shown: Sequence[_Shown | _ShownSentence]
    if settings.neighbours_of == "sentence":
        shown = _shown_sentences(question.neighbours, answers)
        around = len(question.sentence.tokens)  # all mentions of it stand behind the same words
    else:
        shown = [
            _shown(sentence, entity, settings.words_around_neighbour, answers[entity.type])
            for sentence, entity in question.neighbours
        ]
        around = settings.words_around
    asked = _shown(question.sentence, Entity(question.start, question.end, ""), around, "")
    restricted = len(question.candidates) < len(domain.types)
    listed = [answers[name] for name in question.candidates] if restricted else []
    user = call_macro(template, "question", {}, shown, asked, listed)
    return ReasoningRequest(
        (fixed, Message("user", user), Message("assistant", ANSWER_PREFIX)),
        Sampling(
            max_tokens=llm.max_tokens,
            seed=llm.seed,
            choices=choices_of(question.candidates, domain=domain, settings=settings),
            n_choosings=settings.n_choosings,
        ),
    )


def choices_of(candidates: Sequence[str], *, domain: Domain, settings: Judging) -> tuple[str, ...]:
    """How the answer goes on behind ``ANSWER_PREFIX`` for each candidate type, in order."""
    answers = answer_names(domain, settings)
    return tuple(f" {answers[name]}" for name in candidates)


def answer_names(domain: Domain, settings: Judging) -> Mapping[str, str]:
    """Type -> what the LLM calls it: its phrase, or a letter. UsageError where there are not enough letters."""
    if settings.answer == "letter":
        if len(domain.types) > len(ascii_uppercase):
            raise UsageError(
                f"judge.answer = 'letter' takes {len(ascii_uppercase)} types at most; "
                f"'{domain.name}' has {len(domain.types)}. Use 'name'."
            )
        return dict(zip(domain.types, ascii_uppercase, strict=False))
    phrases = {entry.name: entry.phrase for entry in domain.entries}
    # Two types that people call the same are told apart by their labels.
    twice = {phrase for phrase in phrases.values() if list(phrases.values()).count(phrase) > 1}
    return {name: name if phrase in twice else phrase for name, phrase in phrases.items()}


def _shown_sentences(
    neighbours: Sequence[tuple[Sentence, Entity]], answers: Mapping[str, str]
) -> list[_ShownSentence]:
    """Each sentence once, with those of its entities that follow one another in ``neighbours``."""
    found = []
    for _, together in groupby(neighbours, key=lambda pair: id(pair[0])):
        pairs = list(together)
        sentence = pairs[0][0]
        entities = tuple(_shown(sentence, entity, 0, answers[entity.type]) for _, entity in pairs)
        found.append(_ShownSentence(one_line(sentence.tokens), entities))
    return found


def _shown(sentence: Sentence, entity: Entity, words_around: int, answer: str) -> _Shown:
    """The words around a mention, on one line: a line break in a token must not look like a field of the question."""
    first, last = max(0, entity.start - words_around), entity.end + words_around
    return _Shown(
        one_line(sentence.tokens[first:last]),
        one_line(sentence.tokens[entity.start : entity.end]),
        answer,
    )


def one_line(tokens: Sequence[str]) -> str:
    """Tokens joined by single spaces; a line break or a tab in a token becomes a space, too."""
    return " ".join(" ".join(tokens).split())
