"""The LLM alone (table 7): its own entities, decoded and stored as predictions like a backbone's.

What it reasoned before it named them is stored beside, as of any reasoning run.
"""

from __future__ import annotations

from cdner import prompts
from cdner.codec import PLAIN_WIRE, decode
from cdner.pipeline.asking import CUT_OFF, Answer, complete
from cdner.pipeline.context import Context
from cdner.pipeline.plan import Step
from cdner.pipeline.reasoning import extraction_defects, partial_error, requests_of, template_name
from cdner.reasoning import entities_text, parse_reasoning, without_entities
from cdner.store import predictions as stored_predictions
from cdner.store import reasoning as stored
from cdner.types import Completion, Gap, Generation, Prediction, ReasoningChain, Sentence

_NOTHING = Completion("", "gap", 0, 0, 0)


def extract(step: Step, context: Context) -> None:
    """Ask for every sentence's entities; more gaps than allowed end in PartialError, all else is stored by then.

    A sentence with an allowed gap counts as one in which the LLM found nothing, and its output as malformed.
    """
    corpus_run = context.input_run(step, "corpus")
    corpus, types = (
        context.corpus_of(corpus_run),
        context.domain(context.experiment.corpora.target, "target").types,
    )
    positions, requests = requests_of(step, context)
    template = prompts.load_template(template_name(step, context))
    stored.save_template(context.store, template.name, template.text)
    answers = complete(step, context, context.experiment.reason, requests, defects=extraction_defects)
    chains = [(p, a.request_id, _reasoning_of(a, context)) for p, a in zip(positions, answers, strict=True)]
    stored.save_reasoning(context.store, step.spec.run_id, chains)
    gaps = [answer.outcome for answer in answers if isinstance(answer.outcome, Gap)]
    if len(gaps) > context.experiment.execution.max_gaps:
        way_out = f" To count them as empty: --set execution.max_gaps={len(gaps)}."
        raise partial_error(step, gaps, f"{len(answers)} sentences have no answer", way_out=way_out)
    rows = [
        (position, *_predicted(answer, corpus.sentences[position], types))
        for position, answer in zip(positions, answers, strict=True)
    ]
    stored_predictions.save_predictions(context.store, step.spec.run_id, rows, corpus_run_id=corpus_run)


def _reasoning_of(answer: Answer, context: Context) -> ReasoningChain | Gap:
    if isinstance(answer.outcome, Gap):
        return answer.outcome
    structured, text = context.experiment.reason.structured, answer.outcome.text
    return parse_reasoning(text if structured else without_entities(text), "full", structured=structured)


def _predicted(answer: Answer, sentence: Sentence, types: tuple[str, ...]) -> tuple[Prediction, Generation]:
    completion = _NOTHING if isinstance(answer.outcome, Gap) else answer.outcome
    found = decode(entities_text(completion.text), sentence=sentence, types=types, wire=PLAIN_WIRE)
    generation = Generation(
        text=found.generated,
        n_input_tokens=completion.input_tokens,
        n_truncated_tokens=0,
        n_output_tokens=completion.output_tokens,
        finish_reason="length" if completion.finish_reason == CUT_OFF else "stop",
    )
    return found, generation
