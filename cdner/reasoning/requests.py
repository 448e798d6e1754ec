"""From texts and settings to requests: messages, sampling and schema, which together identify a request.

Takes texts, never sentences: gold labels cannot reach a prompt. Knows no backend.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from cdner.config import Llm, Reasoning, Setting
from cdner.prompts import (
    INITIAL_PART,
    Example,
    PbrcInputs,
    Template,
    output_parts,
    render_description,
    render_fixed_part,
    render_sentence,
)
from cdner.types import Domain, ReasoningRequest, Sampling

# A completion cut off inside a JSON string is lost work. English prose takes four to five characters a token,
# so strings bounded by three times the token budget leave room to close the object.
CHARACTERS_PER_TOKEN = 3
# The paper's sample reasonings (figures 8 to 11) are about one third initial, two thirds bidirectional.
INITIAL_SHARE = 1 / 3
NEXT_TEXT = "<text>"  # a model that goes on after its answer invents the next text; stop it there


def reasoning_requests(
    texts: Sequence[str],
    template: Template,
    *,
    setting: Setting,
    source: Domain,
    target: Domain,
    prefixes: Mapping[str, str],
    rivals: Mapping[str, tuple[str, ...]],
    examples: tuple[Example, ...],
    settings: Reasoning,
) -> tuple[ReasoningRequest, ...]:
    """One request per text, in order; all share the message objects of the fixed part.

    ``prefixes``: every target type -> short name of a source type. ``rivals``: target type -> the types it is
    taken for; a type without a clear rival is left out or has an empty tuple.
    """
    inputs = PbrcInputs(
        setting=setting,
        source=source,
        target=target,
        prefixes=prefixes,
        rivals=rivals,
        examples=examples,
        n_examples=settings.n_examples,
        structured=settings.structured,
    )
    fixed = render_fixed_part(template, inputs)
    sampling = _sampling(settings)
    schema = reasoning_schema(setting, max_tokens=settings.max_tokens) if settings.structured else None
    return tuple(
        ReasoningRequest((*fixed, render_sentence(template, text)), sampling, schema) for text in texts
    )


def description_requests(
    target: Domain, glosses: Mapping[str, str], *, template: Template, settings: Llm
) -> tuple[ReasoningRequest, ...]:
    """Eq. 5, C_e = F_LLM(C_s, phi_0): one request per type in declared order; no or "" gloss = none known."""
    sampling = _sampling(settings)
    schema = (
        _schema({"description": settings.max_tokens * CHARACTERS_PER_TOKEN}) if settings.structured else None
    )
    return tuple(
        ReasoningRequest(
            render_description(template, target, entry, glosses.get(entry.name, "")), sampling, schema
        )
        for entry in target.entries
    )


def reasoning_schema(setting: Setting, *, max_tokens: int) -> str:
    """JSON schema of the answer, every string bounded so that the object closes within ``max_tokens``."""
    budget = max_tokens * CHARACTERS_PER_TOKEN
    parts = output_parts(setting)
    n_initial = int(budget * INITIAL_SHARE) if INITIAL_PART in parts else 0
    return _schema({part.key: n_initial if part == INITIAL_PART else budget - n_initial for part in parts})


def _schema(max_lengths: Mapping[str, int]) -> str:
    """Not ``canonical_json``: servers generate keys in the schema's order; sorting would swap the steps."""
    return json.dumps(
        {
            "type": "object",
            "properties": {key: {"type": "string", "maxLength": n} for key, n in max_lengths.items()},
            "required": list(max_lengths),
            "additionalProperties": False,
        },
        separators=(",", ":"),
    )


def _sampling(settings: Llm) -> Sampling:
    return Sampling(
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        seed=settings.seed,
        stop=() if settings.structured else (NEXT_TEXT,),
    )
