"""What a step would still ask of its LLM, before anything is asked: for checks beforehand and for ``--dry-run``.

Opens no backend. The prompts of a step are known once its inputs are done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from cdner.config import Llm
from cdner.pipeline.asking import Defects, to_send
from cdner.pipeline.context import Context
from cdner.pipeline.judging import asked_mentions, question_windows, questions_are_known
from cdner.pipeline.plan import FROM_FILE, Step
from cdner.pipeline.reasoning import (
    NO_LLM,
    description_defects,
    description_requests_of,
    extraction_defects,
    reasoning_defects,
    request_windows,
)
from cdner.types import ReasoningRequest, Split


def llm_of(step: Step, context: Context) -> Llm | None:
    """Who a step asks; None where its texts come from a file or are the glosses."""
    if step.kind == "judge":
        return context.experiment.judging
    llm = context.experiment.describe if step.kind == "describe" else context.experiment.reason
    asks_nobody = llm.backend == FROM_FILE or (step.kind == "describe" and llm.backend == NO_LLM)
    return None if asks_nobody else llm


def must_ask(step: Step, context: Context) -> bool:
    """Whether a step still needs its LLM; one whose prompts are not known yet does."""
    if llm_of(step, context) is None:
        return False
    if step.kind == "describe" and context.run_state(step.spec.run_id) == "absent":
        return True  # known without WordNet
    missing = unanswered(step, context)
    return missing is None or any(missing)


def unanswered(step: Step, context: Context) -> Iterator[list[ReasoningRequest]] | None:
    """What a step would send first, retries that are due among it, a window at a time; None while its prompts are
    not known.
    """
    llm = llm_of(step, context)
    if llm is None:
        return iter(())
    if any(context.run_state(run_id) != "done" for run_id in step.spec.inputs):
        return None
    if step.kind == "judge" and not questions_are_known(step, context):
        return None
    return _unanswered(step, context, llm)


def _unanswered(step: Step, context: Context, llm: Llm) -> Iterator[list[ReasoningRequest]]:
    defects = _defects(step, context)
    if step.kind == "describe":
        yield to_send(context, llm, description_requests_of(context), defects=defects)
        return
    if step.kind == "judge":
        for questions in question_windows(step, context):
            yield to_send(context, llm, questions.requests, defects=defects)
        return
    seen: set[int] = set()  # hashes: a sentence that comes again in another window is asked about once
    for window in request_windows(step, context):
        missing = [
            request
            for request in to_send(context, llm, window.requests, defects=defects)
            if hash(request) not in seen
        ]
        seen.update(map(hash, missing))
        yield missing


def n_texts(step: Step, context: Context) -> int | None:
    """Different texts a step asks about: types, sentences, or mentions (None: not counted yet)."""
    if step.kind == "judge":
        is_known = context.run_state(context.input_run(step, "predictions")) == "done"
        return len(asked_mentions(step, context)) if is_known else None
    target = context.experiment.corpora.target
    if step.kind == "describe":
        return len(context.domain(target, "target").types)
    settings = cast(Mapping[str, Any], step.spec.settings)
    return context.n_sentences(target, cast(Split, step.label.rpartition("/")[2]), settings["n"])


def _defects(step: Step, context: Context) -> Defects:
    if step.kind == "describe":
        return description_defects(context.experiment.describe)
    if step.kind == "extract":
        return extraction_defects
    if step.kind == "judge":
        return lambda _completion: 0
    settings = cast(Mapping[str, Any], step.spec.settings)
    return reasoning_defects(settings["setting"], structured=context.experiment.reason.structured)
