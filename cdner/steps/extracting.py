"""The LLM alone (table 7): its own entities, decoded and stored as predictions like a backbone's.

What it reasoned before it named them is stored beside, as of any reasoning run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cdner import prompts
from cdner.codec import PLAIN_WIRE, decode
from cdner.config import Experiment, Llm
from cdner.errors import UsageError
from cdner.files import Json
from cdner.reasoning import entities_text, parse_reasoning, without_entities
from cdner.steps import reasoning
from cdner.steps.asking import CUT_OFF, Answer, check_llm, complete, partial_error
from cdner.steps.context import Context
from cdner.steps.describing import ENDS_EARLY, MISSING_PART
from cdner.steps.protocol import Questions, StepKind
from cdner.steps.step import FROM_FILE, Identities, Step
from cdner.store import llm_log as stored
from cdner.store import predictions as stored_predictions
from cdner.store.corpora import load_sentences
from cdner.types import Completion, Domain, Gap, Generation, Prediction, ReasoningChain, Sentence

_NOTHING = Completion("", "gap", 0, 0, 0)


EXTRACT_TEMPLATE = "ner.v1"


def settings(
    experiment: Experiment, identities: Identities, *, source: Domain, target: Domain
) -> dict[str, Json]:
    """What identifies the LLM's entities, beside their inputs and the sample."""
    if experiment.reason.backend == FROM_FILE:
        raise UsageError(
            "The setting 'llm_only' asks an LLM: reason.backend = 'file' has only reasoning texts."
        )
    asked = reasoning.settings(identities, experiment.extracting, "full", source=source, target=target)
    return {**asked, "template": identities.template(EXTRACT_TEMPLATE)}


def extract(step: Step, context: Context) -> None:
    """Request the entities of every sentence. Raises PartialError for more gaps than allowed, with the rest stored.

    A sentence with an allowed gap counts as a sentence without entities, and its output as malformed.
    """
    types = context.domain(context.experiment.corpora.target, "target").types
    template = prompts.load_template(EXTRACT_TEMPLATE)
    stored.save_template(context.store, template.name, template.text)
    n_sentences, gaps = 0, []
    for window in windows_of(step, context):
        llm = context.experiment.extracting
        answers = complete(
            step, context, llm, window.requests, defects=extraction_defects, which=window.which
        )
        asked = list(zip(window.positions, window.sentences, answers, strict=True))
        chains = [
            (position, answer.request_id, _reasoning_of(answer, context)) for position, _, answer in asked
        ]
        stored.save_reasoning(context.store, step.spec.run_id, chains)
        _save(
            step,
            context,
            [(p, s, a.outcome) for p, s, a in asked if isinstance(a.outcome, Completion)],
            types,
        )
        n_sentences += len(asked)
        gaps += [answer.outcome for answer in answers if isinstance(answer.outcome, Gap)]
    if len(gaps) > context.experiment.execution.max_gaps:
        way_out = f" To count them as empty: --set execution.max_gaps={len(gaps)}."
        raise partial_error(step, gaps, f"{n_sentences} sentences have no answer", way_out=way_out)
    absent = list(stored.load_gaps(context.store, step.spec.run_id))
    sentences = load_sentences(context.store, context.input_run(step, "corpus"), absent)
    _save(step, context, [(p, s, _NOTHING) for p, s in zip(absent, sentences, strict=True)], types)


def windows_of(step: Step, context: Context) -> Iterator[reasoning.RequestWindow]:
    """The requests in the order of the sentences."""
    return reasoning.request_windows(
        step, context, template=EXTRACT_TEMPLATE, llm=context.experiment.extracting
    )


def _save(
    step: Step, context: Context, answered: Sequence[tuple[int, Sentence, Completion]], types: tuple[str, ...]
) -> None:
    rows = [
        (position, *_predicted(completion, sentence, types)) for position, sentence, completion in answered
    ]
    stored_predictions.save_predictions(
        context.store,
        step.spec.run_id,
        rows,
        corpus_run_id=context.input_run(step, "corpus"),
        sentences={position: sentence for position, sentence, _ in answered},
    )


def _reasoning_of(answer: Answer, context: Context) -> ReasoningChain | Gap:
    if isinstance(answer.outcome, Gap):
        return answer.outcome
    structured, text = context.experiment.reason.structured, answer.outcome.text
    return parse_reasoning(text if structured else without_entities(text), "full", structured=structured)


def _predicted(
    completion: Completion, sentence: Sentence, types: tuple[str, ...]
) -> tuple[Prediction, Generation]:
    found = decode(entities_text(completion.text), sentence=sentence, types=types, wire=PLAIN_WIRE)
    generation = Generation(
        text=found.generated,
        n_input_tokens=completion.input_tokens,
        n_truncated_tokens=0,
        n_output_tokens=completion.output_tokens,
        finish_reason="length" if completion.finish_reason == CUT_OFF else "stop",
    )
    return found, generation


def extraction_defects(completion: Completion) -> int:
    """An LLM's own entities: none at all is worse than an answer that was cut off."""
    is_missing = "{" not in entities_text(completion.text)
    return MISSING_PART * is_missing + ENDS_EARLY * (completion.finish_reason == CUT_OFF)


def check_extract(step: Step, context: Context) -> None:
    reasoning.check_examples(context)
    check_llm(KIND, step, context)


def _llm(_step: Step, context: Context) -> Llm | None:
    return context.experiment.reason


KIND = StepKind(
    "extract",
    1,
    extract,
    check=check_extract,
    asks=Questions(
        llm=_llm,
        windows=lambda step, context: (window.requests for window in windows_of(step, context)),
        defects=lambda _step, _context: extraction_defects,
        n_texts=reasoning.n_sentences,
    ),
)
