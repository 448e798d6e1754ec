"""Lays a template's pieces out as chat messages: everything fixed first, the sentence alone in the last.

The fixed part is rendered once for a setting and its messages are shared by all sentences, so it is
byte-identical by construction and a server's prefix cache holds all of it. Knows nothing of gold labels: a
sentence comes in as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cdner.config import REASONING_SETTINGS, Setting
from cdner.errors import UsageError, unknown_name
from cdner.prompts.examples import Example
from cdner.prompts.templates import Template, call_macro
from cdner.types import Domain, Message, TypeEntry


@dataclass(frozen=True, slots=True)
class OutputPart:
    """One text the model writes: its key in JSON, its heading otherwise."""

    key: str
    heading: str


INITIAL_PART = OutputPart("initial_reasoning", "Initial Reasoning")
BIDIRECTIONAL_PART = OutputPart("bidirectional_reasoning", "Bidirectional Reasoning")
FORWARD_PART = OutputPart("forward_reasoning", "Forward Reasoning")  # step 5 of the settings without backward
_HAS_INITIAL: frozenset[Setting] = frozenset({"full", "without_backward"})
_HAS_BACKWARD: frozenset[Setting] = frozenset({"full", "without_initial"})


@dataclass(frozen=True, slots=True)
class PbrcInputs:
    """What the fixed part of a PBRC prompt is made of."""

    setting: Setting
    source: Domain
    target: Domain
    prefixes: Mapping[str, str]  # every target type -> short name of a source type (eq. 3)
    rivals: Mapping[str, tuple[str, ...]]  # target type -> the types it is taken for (eq. 14); none if flat
    examples: tuple[Example, ...]
    n_examples: int
    structured: bool  # JSON by schema; headings otherwise


@dataclass(frozen=True, slots=True)
class _TargetRow:
    """A target type as the template sees it."""

    entry: TypeEntry
    prefix: str
    rivals: tuple[str, ...]


def output_parts(setting: Setting) -> tuple[OutputPart, ...]:
    """The texts the model writes in this setting, in order. UsageError for a setting without an LLM."""
    if setting not in REASONING_SETTINGS:
        raise unknown_name("setting with reasoning", setting, REASONING_SETTINGS)
    second = BIDIRECTIONAL_PART if setting in _HAS_BACKWARD else FORWARD_PART
    return (INITIAL_PART, second) if setting in _HAS_INITIAL else (second,)


def render_pbrc(template: Template, inputs: PbrcInputs, sentence_text: str) -> tuple[Message, ...]:
    """The whole prompt of one sentence: the fixed part, then the sentence as the last user message."""
    return (*render_fixed_part(template, inputs), render_sentence(template, sentence_text))


def render_fixed_part(template: Template, inputs: PbrcInputs) -> tuple[Message, ...]:
    """System message with steps, types and confusion map, then each example as two turns."""
    context = _context(inputs)
    messages = [Message("system", call_macro(template, "instructions", context))]
    for example in inputs.examples[: inputs.n_examples]:
        messages.append(render_sentence(template, example.text))
        messages.append(Message("assistant", call_macro(template, "answer", context, example)))
    return tuple(messages)


def render_sentence(template: Template, sentence_text: str) -> Message:
    """One text as the user's message, delimited; the text itself comes through unchanged."""
    return Message("user", call_macro(template, "question", {}, sentence_text))


def render_description(
    template: Template, target: Domain, entry: TypeEntry, gloss: str
) -> tuple[Message, ...]:
    """Prompt phi_0 of eq. 5: enrich the WordNet gloss C_s ("" = the dictionary has none) of one type."""
    context: dict[str, object] = {"domain": target, "entry": entry, "gloss": gloss}
    return (
        Message("system", call_macro(template, "instructions", context)),
        Message("user", call_macro(template, "question", context)),
    )


def _context(inputs: PbrcInputs) -> dict[str, object]:
    parts = output_parts(inputs.setting)
    _check(inputs)
    return {
        "source": inputs.source,
        "target": inputs.target,
        "rows": [
            _TargetRow(entry, inputs.prefixes[entry.name], inputs.rivals.get(entry.name, ()))
            for entry in inputs.target.entries
        ],
        "initial": inputs.setting in _HAS_INITIAL,
        "backward": inputs.setting in _HAS_BACKWARD,
        "structured": inputs.structured,
        "parts": parts,
    }


def _check(inputs: PbrcInputs) -> None:
    """Refuse what would silently make another prompt than the one asked for."""
    types, shorts = inputs.target.types, [entry.short for entry in inputs.source.entries]
    if set(inputs.prefixes) != set(types):
        different = sorted(set(inputs.prefixes) ^ set(types))
        raise UsageError(f"Prefixes must cover the types of '{inputs.target.name}'; differs: {different}.")
    for prefix in inputs.prefixes.values():
        if prefix not in shorts:
            raise unknown_name("source type prefix", prefix, shorts)
    for entity_type, rivals in inputs.rivals.items():
        for name in (entity_type, *rivals):
            if name not in types:
                raise unknown_name("target type", name, types)
        if entity_type in rivals:
            raise UsageError(f"The type '{entity_type}' cannot be its own rival.")
    if inputs.n_examples > len(inputs.examples):
        raise UsageError(
            f"n_examples = {inputs.n_examples}, but '{inputs.target.name}' has {len(inputs.examples)}. "
            "Lower n_examples or add some to its examples file."
        )
