"""The steps that ask an LLM: describe and reason. What they ask, and what they make of the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from cdner import prompts
from cdner.config import Describing, Llm, Setting
from cdner.confusion.descriptions import Gloss, description_text, gloss, read_descriptions
from cdner.corpora.sampling import chosen_positions
from cdner.errors import PartialError
from cdner.pipeline.asking import CUT_OFF, Defects, complete, reasons_in_words, to_send
from cdner.pipeline.context import Context
from cdner.pipeline.imported_reasoning import import_reasoning
from cdner.pipeline.plan import DESCRIBE_TEMPLATE, EXTRACT_TEMPLATE, FROM_FILE, Step
from cdner.reasoning import (
    description_requests,
    entities_text,
    parse_description,
    parse_reasoning,
    reasoning_requests,
)
from cdner.store import confusion as stored_confusion
from cdner.store import descriptions as stored_descriptions
from cdner.store import reasoning as stored
from cdner.store.descriptions import TypeDescription
from cdner.store.ratios import load_hierarchy
from cdner.types import Completion, Gap, ReasoningChain, ReasoningRequest, Split

# Lacking a part is worse than ending in the middle of a sentence, whatever else is wrong can be used.
MISSING_PART, ENDS_EARLY = 2, 1
_MISSING = ("missing_initial", "missing_bidirectional")
NO_LLM = "none"  # describe.backend = "none": C_e is the gloss itself


def describe(step: Step, context: Context) -> None:
    """C_s from WordNet, C_e from the LLM (eq. 5), from a file, or C_s again."""
    context.progress.start(step.label)
    settings = context.experiment.describe
    target = context.domain(context.experiment.corpora.target, "target")
    glosses = {entry.name: gloss(entry) for entry in target.entries}
    if settings.backend == NO_LLM:
        rows = [TypeDescription(n, c.text, c.origin, c.text, None, "gloss") for n, c in glosses.items()]
    elif settings.backend == FROM_FILE:
        texts = read_descriptions(Path(settings.model), target).texts
        rows = [TypeDescription(n, c.text, c.origin, texts[n], None, "imported") for n, c in glosses.items()]
    else:
        rows = _described(step, context, glosses)
    stored_descriptions.save_descriptions(context.store, step.spec.run_id, target.name, rows)


def _described(step: Step, context: Context, glosses: Mapping[str, Gloss]) -> list[TypeDescription]:
    settings = context.experiment.describe
    requests = _description_requests(context)
    answers = complete(step, context, settings, requests, defects=_description_defects(settings))
    rows: list[TypeDescription] = []
    gaps = []
    for (name, found), answer in zip(glosses.items(), answers, strict=True):
        if isinstance(answer.outcome, Gap):
            gaps.append(answer.outcome)
            continue
        described = description_text(_description_of(answer.outcome, settings), found)
        origin = "gloss" if described.malformed else "llm"
        rows.append(
            TypeDescription(name, found.text, found.origin, described.text, answer.request_id, origin)
        )
    if gaps:
        raise partial_error(step, gaps, f"{len(answers)} types have no description")
    return rows


def _description_of(completion: Completion, settings: Describing) -> str:
    return parse_description(completion.text) if settings.structured else completion.text


def _description_defects(settings: Describing) -> Defects:
    nothing = Gloss("", "hand")

    def defects(completion: Completion) -> int:
        is_empty = bool(description_text(_description_of(completion, settings), nothing).malformed)
        return MISSING_PART * is_empty + ENDS_EARLY * (completion.finish_reason == CUT_OFF)

    return defects


def reason(step: Step, context: Context) -> None:
    """Two-stage reasoning for every sentence; more gaps than allowed end in PartialError (exit code 3).

    All else is stored by then. A run with allowed gaps is done: its gaps stay counted as gaps, their sentences are
    used without reasoning text, and ``--force`` asks for them again.
    """
    if context.experiment.reason.backend == FROM_FILE:
        import_reasoning(step, context)
        return
    settings = cast(Mapping[str, Any], step.spec.settings)
    positions, requests = _reasoning_requests(step, context)
    template = prompts.load_template(context.experiment.reason.template)
    stored.save_template(context.store, template.name, template.text)
    llm = context.experiment.reason
    defects = reasoning_defects(settings["setting"], structured=llm.structured)
    answers = complete(step, context, llm, requests, defects=defects)
    rows: list[tuple[int, str, ReasoningChain | Gap]] = []
    for position, answer in zip(positions, answers, strict=True):
        outcome: ReasoningChain | Gap
        if isinstance(answer.outcome, Gap):
            outcome = answer.outcome
        else:
            outcome = parse_reasoning(answer.outcome.text, settings["setting"], structured=llm.structured)
        rows.append((position, answer.request_id, outcome))
    stored.save_reasoning(context.store, step.spec.run_id, rows)
    gaps = [outcome for _, _, outcome in rows if isinstance(outcome, Gap)]
    n_allowed = context.experiment.execution.max_gaps
    if len(gaps) > n_allowed:
        raise partial_error(
            step,
            gaps,
            f"{len(rows)} sentences have no reasoning text",
            way_out=f" To go on without them: --set execution.max_gaps={len(gaps)}.",
        )
    if gaps:
        context.progress.start(
            f"Warning: {step.label}: {len(gaps)} of {len(rows)} sentences go without reasoning text "
            f"(execution.max_gaps = {n_allowed}): {reasons_in_words(gaps)}."
        )


def template_name(step: Step, context: Context) -> str:
    """The template of a reason or extract step."""
    return EXTRACT_TEMPLATE if step.kind == "extract" else context.experiment.reason.template


def extraction_defects(completion: Completion) -> int:
    """An LLM's own entities: none at all is worse than an answer that was cut off."""
    is_missing = "{" not in entities_text(completion.text)
    return MISSING_PART * is_missing + ENDS_EARLY * (completion.finish_reason == CUT_OFF)


def reasoning_defects(setting: Setting, *, structured: bool) -> Defects:
    def defects(completion: Completion) -> int:
        malformed = parse_reasoning(completion.text, setting, structured=structured).malformed
        n_missing = sum(kind in malformed for kind in _MISSING)
        return MISSING_PART * n_missing + ENDS_EARLY * (completion.finish_reason == CUT_OFF)

    return defects


def partial_error(step: Step, gaps: Sequence[Gap], what: str, *, way_out: str = "") -> PartialError:
    """How many, why, and how to go on."""
    return PartialError(
        f"{step.label}: {len(gaps)} of {what} yet: {reasons_in_words(gaps)}. "
        f"What arrived is stored; run the same command again to ask for the rest.{way_out}"
    )


def requests_of(step: Step, context: Context) -> tuple[list[int], tuple[ReasoningRequest, ...]]:
    """Positions and requests of a step that asks an LLM (``cdner prompts render`` shows them)."""
    if step.kind == "describe":
        requests = _description_requests(context)
        return list(range(len(requests))), requests
    return _reasoning_requests(step, context)


def llm_of(step: Step, context: Context) -> Llm | None:
    """Who a describe or reason step asks; None where its texts come from a file or are the glosses."""
    llm = context.experiment.describe if step.kind == "describe" else context.experiment.reason
    asks_nobody = llm.backend == FROM_FILE or (step.kind == "describe" and llm.backend == NO_LLM)
    return None if asks_nobody else llm


def n_calls_to_make(step: Step, context: Context) -> int | None:
    """LLM calls a step still needs; where its prompts are not known yet, one per sentence (None: not counted yet)."""
    if llm_of(step, context) is None:
        return 0
    if step.kind == "describe" and context.run_state(step.spec.run_id) == "absent":
        return n_texts(step, context)  # needs no WordNet
    missing = unanswered(step, context)
    return n_texts(step, context) if missing is None else len(missing)


def unanswered(step: Step, context: Context) -> list[ReasoningRequest] | None:
    """What a step would send first, retries that are due among it; None while its prompts are not known."""
    llm = llm_of(step, context)
    if llm is None:
        return []
    if any(context.run_state(run_id) != "done" for run_id in step.spec.inputs):
        return None
    _, requests = requests_of(step, context)
    return to_send(context, llm, requests, defects=_defects(step, context))


def n_texts(step: Step, context: Context) -> int | None:
    """Different texts a step asks about: types, or sentences (None: not counted yet)."""
    target = context.experiment.corpora.target
    if step.kind == "describe":
        return len(context.domain(target, "target").types)
    settings = cast(Mapping[str, Any], step.spec.settings)
    return context.n_sentences(target, cast(Split, step.label.rpartition("/")[2]), settings["n"])


def _defects(step: Step, context: Context) -> Defects:
    if step.kind == "describe":
        return _description_defects(context.experiment.describe)
    if step.kind == "extract":
        return extraction_defects
    settings = cast(Mapping[str, Any], step.spec.settings)
    return reasoning_defects(settings["setting"], structured=context.experiment.reason.structured)


def _description_requests(context: Context) -> tuple[ReasoningRequest, ...]:
    target = context.domain(context.experiment.corpora.target, "target")
    glosses = {entry.name: gloss(entry).text for entry in target.entries}
    template = prompts.load_template(DESCRIBE_TEMPLATE)
    return description_requests(target, glosses, template=template, settings=context.experiment.describe)


def _reasoning_requests(step: Step, context: Context) -> tuple[list[int], tuple[ReasoningRequest, ...]]:
    settings = cast(Mapping[str, Any], step.spec.settings)
    corpus = context.corpus_of(context.input_run(step, "corpus"))
    positions = chosen_positions(corpus, settings["n"])
    requests = requests_about(
        [corpus.sentences[position].text for position in positions],
        context,
        setting=settings["setting"],
        quantify_run=context.input_run(step, "confusion"),
        template=template_name(step, context),
    )
    return positions, requests


def requests_about(
    texts: Sequence[str], context: Context, *, setting: Setting, quantify_run: str, template: str
) -> tuple[ReasoningRequest, ...]:
    """The reasoning request of each text, in order, with the prefixes and rivals of a quantify run."""
    ask_about = request_maker(context, setting=setting, quantify_run=quantify_run, template=template)
    return ask_about(texts)


def request_maker(
    context: Context, *, setting: Setting, quantify_run: str, template: str
) -> Callable[[Sequence[str]], tuple[ReasoningRequest, ...]]:
    """``requests_about`` with everything read that the store and the prompt files have to say: needs neither again."""
    corpora = context.experiment.corpora
    source, target = context.domain(corpora.source, "source"), context.domain(corpora.target, "target")
    hierarchy = load_hierarchy(context.store, quantify_run)
    short = {entry.name: entry.short for entry in source.entries}
    rivals = stored_confusion.load_rivals(context.store, quantify_run)
    return partial(
        reasoning_requests,
        template=prompts.load_template(template),
        setting=setting,
        source=source,
        target=target,
        prefixes={
            name: short[prefix]
            for name, prefix in zip(hierarchy.ratios.gold_types, hierarchy.prefixes, strict=True)
        },
        rivals={name: tuple(rival for rival, _ in ranked) for name, ranked in rivals.items()},
        examples=prompts.load_examples(target.name) if context.experiment.reason.n_examples else (),
        settings=context.experiment.reason,
    )
