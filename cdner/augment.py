"""Sentence, types and reasoning as the backbone's input (3.3.2). Knows nothing of tokenizers' lengths or of
models.

The segments are joined verbatim. Where a model's window is too short, the backbone cuts the highest
priority number first: initial reasoning goes before bidirectional reasoning; instruction, types and
sentence are never cut.
"""

from __future__ import annotations

from collections.abc import Sequence

from cdner.codec.wire import Wire
from cdner.types import ModelInput, ReasoningChain, Segment, Sentence

KEPT = 0
BIDIRECTIONAL_PRIORITY = 1
INITIAL_PRIORITY = 2


def model_input(
    types: Sequence[str], sentence: Sentence, *, chain: ReasoningChain | None, wire: Wire
) -> ModelInput:
    """``Find all entities of types <t1, t2> in <text>.``, with `` Reasoning information: <I_R>`` for M_aug.

    The first segment is equal for every sentence of a domain, so a backbone may share its state. Angle
    brackets are left off where the vocabulary lacks them. A chain without text adds nothing.
    """
    listed = ", ".join(types)
    named = f"<{listed}>" if wire.angle_brackets else listed
    segments = [
        Segment(f"Find all entities of types {named} in", KEPT),
        Segment(f" {sentence.text}", KEPT),
        Segment(".", KEPT),
    ]
    texts = reasoning_text(chain)
    return (*segments, Segment(" Reasoning information:", KEPT), *texts) if texts else tuple(segments)


def reasoning_text(chain: ReasoningChain | None) -> ModelInput:
    """I_R alone, as a tagger reads it beside the sentence; nothing where the chain has no text."""
    if chain is None:
        return ()
    parts = [(chain.initial, INITIAL_PRIORITY), (chain.bidirectional, BIDIRECTIONAL_PRIORITY)]
    return tuple(Segment(f" {text.strip()}", priority) for text, priority in parts if text.strip())
