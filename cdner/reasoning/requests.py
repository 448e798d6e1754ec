"""From texts and settings to requests: messages, sampling and schema, which together identify a request.

Takes texts, never sentences: gold labels cannot reach a prompt. Knows no backend.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from cdner.config import Llm, Reasoning, Setting
from cdner.files import Json
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
NER_TEMPLATES = "ner."  # the answer ends in the entities (table 7: the LLM alone)
ENTITIES_SHARE = 1 / 4
LONGEST_MENTION = 120  # characters
MOST_MENTIONS = (
    40  # of one type; CrossNER has up to 34. A small model repeats itself until something stops it.
)
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
    types = target.types if template.name.startswith(NER_TEMPLATES) else ()
    schema = _reasoning_schema(setting, settings.max_tokens, types) if settings.structured else None
    return tuple(
        ReasoningRequest((*fixed, render_sentence(template, text)), sampling, schema) for text in texts
    )


def description_requests(
    target: Domain, glosses: Mapping[str, str], *, template: Template, settings: Llm
) -> tuple[ReasoningRequest, ...]:
    """Eq. 5, C_e = F_LLM(C_s, phi_0): one request per type in declared order; no or "" gloss = none known."""
    sampling = _sampling(settings)
    schema = _description_schema(settings.max_tokens) if settings.structured else None
    return tuple(
        ReasoningRequest(
            render_description(template, target, entry, glosses.get(entry.name, "")), sampling, schema
        )
        for entry in target.entries
    )


def _reasoning_schema(setting: Setting, max_tokens: int, entity_types: Sequence[str]) -> str:
    """Schema of the answer, every string bounded so that the reasoning closes within ``max_tokens``."""
    budget = max_tokens * CHARACTERS_PER_TOKEN
    if entity_types:
        budget -= int(budget * ENTITIES_SHARE)
    parts = output_parts(setting)
    n_initial = int(budget * INITIAL_SHARE) if INITIAL_PART in parts else 0
    properties = {
        part.key: _string(n_initial if part == INITIAL_PART else budget - n_initial) for part in parts
    }
    if entity_types:
        mentions: Json = {
            "type": "array",
            "items": _string(LONGEST_MENTION),
            "maxItems": MOST_MENTIONS,
        }
        properties["entities"] = _object(dict.fromkeys(entity_types, mentions))
    return _as_text(_object(properties))


def _description_schema(max_tokens: int) -> str:
    return _as_text(_object({"description": _string(max_tokens * CHARACTERS_PER_TOKEN)}))


def _string(max_length: int) -> Json:
    return {"type": "string", "maxLength": max_length}


def _object(properties: Mapping[str, Json]) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _as_text(schema: Json) -> str:
    """Not ``canonical_json``: servers generate keys in the schema's order; sorting would swap the steps."""
    return json.dumps(schema, separators=(",", ":"), ensure_ascii=False)


def _sampling(settings: Llm) -> Sampling:
    return Sampling(
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        seed=settings.seed,
        stop=() if settings.structured else (NEXT_TEXT,),
    )
