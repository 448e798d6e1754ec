"""The step tell: writes the LLM's verdicts on the mentions of a sentence as a text that a backbone can read.

The texts are stored like reasoning texts. Every sentence gets a row; a sentence without a verdict has an empty text.
Asks no LLM and loads no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from cdner import prompts
from cdner.files import Json
from cdner.steps.context import Context
from cdner.steps.judging import probabilities_of
from cdner.steps.protocol import StepKind
from cdner.steps.step import Identities, Step
from cdner.steps.windows import EVALUATED, windows
from cdner.store import llm_log as stored
from cdner.store import verdicts as stored_verdicts
from cdner.store.corpora import load_sentences
from cdner.types import Message, ReasoningRequest, Sampling, Sentence
from cdner.verdicts import told_verdicts
from cdner.verdicts.telling import Span

FAMILY = "told"  # backend of the requests that these texts belong to; the view llm_usage leaves them out


TELL_TEMPLATE = "tell.v1"


def settings(identities: Identities) -> dict[str, Json]:
    """What identifies the texts, beside their inputs and the sample."""
    return {"template": identities.template(TELL_TEMPLATE)}


def tell(step: Step, context: Context) -> None:
    """Store a text for every sentence of the step. Mentions without a verdict are left out and counted."""
    settings = cast(Mapping[str, Any], step.spec.settings)
    corpus_run = context.input_run(step, "corpus")
    template = prompts.load_template(TELL_TEMPLATE)
    stored.save_template(context.store, template.name, template.text)
    verdicts = _by_position(step, context)
    positions = context.positions(corpus_run, settings["n"])
    context.progress.start(step.label, len(positions))
    for window in windows(positions, EVALUATED):
        sentences = load_sentences(context.store, corpus_run, window)
        rows = [
            (position, request, told_verdicts(template, sentence.tokens, verdicts.get(position, {})))
            for position, request, sentence in zip(
                window, _requests(context, sentences), sentences, strict=True
            )
        ]
        stored.save_reasoning(context.store, step.spec.run_id, rows)
        context.progress.advance(len(rows))


def _by_position(step: Step, context: Context) -> dict[int, dict[Span, dict[str, float]]]:
    """Position -> span -> the LLM's probabilities."""
    verdicts = stored_verdicts.load_verdicts(context.store, context.input_run(step, "verdicts"))
    found: dict[int, dict[Span, dict[str, float]]] = {}
    for mention, verdict in verdicts.items():
        found.setdefault(mention.position, {})[mention.start, mention.end] = probabilities_of(verdict)
    if n_without := sum(verdict.gap_reason is not None for verdict in verdicts.values()):
        context.progress.warn(
            f"{step.label}: {n_without} of {len(verdicts)} mentions have no verdict; "
            "the texts leave them out."
        )
    return found


def _requests(context: Context, sentences: Sequence[Sentence]) -> list[str]:
    """Ids of the requests that the texts belong to: the sentence alone, as for texts from a file.

    A text states the answers to several requests (table ``judged_mention``) or to none, so it has none of its own.
    """
    judges = context.model("llm", context.experiment.judging.model)
    requests = [
        ReasoningRequest((Message("user", sentence.text),), Sampling(max_tokens=0)) for sentence in sentences
    ]
    return stored.save_requests(context.store, FAMILY, judges, requests)


KIND = StepKind("tell", 1, tell)
