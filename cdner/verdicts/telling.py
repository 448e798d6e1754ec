"""Verdicts as a text that a backbone reads beside the sentence, so that it learns how far to trust the LLM.

Knows neither store nor models. Sees tokens, spans and the LLM's probabilities; a gold label never.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cdner.prompts import Template
from cdner.prompts.templates import call_macro
from cdner.types import ReasoningChain
from cdner.verdicts.questions import one_line

Span = tuple[int, int]  # first token, token after the last


@dataclass(frozen=True, slots=True)
class _Opinion:
    type: str
    probability: float


@dataclass(frozen=True, slots=True)
class _Told:
    """A mention as the template sees it."""

    mention: str
    first: _Opinion
    rival: _Opinion | None  # None where the LLM had one type to choose from


def told_verdicts(
    template: Template, tokens: Sequence[str], verdicts: Mapping[Span, Mapping[str, float]]
) -> ReasoningChain:
    """One clause for each mention, in text order, as bidirectional reasoning: ``Kuutar: product rather than
    researcher, 0.81 against 0.12.``

    ``verdicts``: span -> candidate type -> probability, candidates in the domain's order, which decides between equal
    probabilities. A mention without a verdict (an empty mapping) gets no clause; no clause, no text. Types have the
    names that the backbone writes. InputError for a template that cannot be run.
    """
    told = []
    for (start, end), probabilities in sorted(verdicts.items()):
        ranked = sorted(probabilities.items(), key=lambda item: -item[1])
        opinions = [_Opinion(name, probability) for name, probability in ranked[:2]]
        if opinions:
            rival = opinions[1] if len(opinions) > 1 else None
            told.append(_Told(one_line(tokens[start:end]), opinions[0], rival))
    return ReasoningChain("", call_macro(template, "text", {}, told) if told else "")
