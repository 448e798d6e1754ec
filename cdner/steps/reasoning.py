"""The steps that ask an LLM: describe and reason. What they ask, and what they make of the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from cdner import prompts
from cdner.config import Describing, Setting
from cdner.confusion.descriptions import Gloss, description_text, gloss, read_descriptions
from cdner.errors import PartialError
from cdner.reasoning import (
    description_requests,
    entities_text,
    parse_description,
    parse_reasoning,
    reasoning_requests,
)
from cdner.steps.asking import CUT_OFF, Defects, complete, reasons_in_words
from cdner.steps.context import Context
from cdner.steps.reasoning_from_file import import_reasoning
from cdner.steps.step import DESCRIBE_TEMPLATE, EXTRACT_TEMPLATE, FROM_FILE, Step
from cdner.steps.windows import ASKED, windows
from cdner.store import confusion as stored_confusion
from cdner.store import confusion as stored_descriptions
from cdner.store import llm_log as stored
from cdner.store.confusion import TypeDescription, load_hierarchy
from cdner.store.corpora import load_sentences
from cdner.types import Completion, Gap, ReasoningChain, ReasoningRequest, Sentence

# Lacking a part is worse than ending in the middle of a sentence, whatever else is wrong can be used.
MISSING_PART, ENDS_EARLY = 2, 1
_MISSING = ("missing_initial", "missing_bidirectional")
NO_LLM = "none"  # describe.backend = "none": C_e is the gloss itself


@dataclass(frozen=True, slots=True)
class RequestWindow:
    """Sentences that are asked about together."""

    positions: Sequence[int]
    sentences: Sequence[Sentence]
    requests: Sequence[ReasoningRequest]
    which: str  # which of all they are, in words; "" for all


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
    requests = description_requests_of(context)
    answers = complete(step, context, settings, requests, defects=description_defects(settings))
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


def description_defects(settings: Describing) -> Defects:
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
    template = prompts.load_template(context.experiment.reason.template)
    stored.save_template(context.store, template.name, template.text)
    n_sentences, gaps = len(_recorded_positions(step, context)), []
    for window in request_windows(step, context):
        rows = _reasoned(step, context, window)
        stored.save_reasoning(context.store, step.spec.run_id, rows)
        n_sentences += len(rows)
        gaps += [outcome for _, _, outcome in rows if isinstance(outcome, Gap)]
    n_allowed = context.experiment.execution.max_gaps
    if len(gaps) > n_allowed:
        raise partial_error(
            step,
            gaps,
            f"{n_sentences} sentences have no reasoning text",
            way_out=f" To go on without them: --set execution.max_gaps={len(gaps)}.",
        )
    if gaps:
        context.progress.start(
            f"Warning: {step.label}: {len(gaps)} of {n_sentences} sentences go without reasoning text "
            f"(execution.max_gaps = {n_allowed}): {reasons_in_words(gaps)}."
        )


def _reasoned(
    step: Step, context: Context, window: RequestWindow
) -> list[tuple[int, str, ReasoningChain | Gap]]:
    """Ask for the texts of a window and parse them: rows of ``save_reasoning``."""
    setting = cast(Mapping[str, Any], step.spec.settings)["setting"]
    llm = context.experiment.reason
    defects = reasoning_defects(setting, structured=llm.structured)
    answers = complete(step, context, llm, window.requests, defects=defects, which=window.which)
    rows: list[tuple[int, str, ReasoningChain | Gap]] = []
    for position, answer in zip(window.positions, answers, strict=True):
        outcome: ReasoningChain | Gap
        if isinstance(answer.outcome, Gap):
            outcome = answer.outcome
        else:
            outcome = parse_reasoning(answer.outcome.text, setting, structured=llm.structured)
        rows.append((position, answer.request_id, outcome))
    return rows


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


def requests_of(step: Step, context: Context) -> tuple[list[int], list[ReasoningRequest]]:
    """Positions and requests of a step that asks an LLM (``cdner prompts render`` shows them)."""
    if step.kind == "describe":
        requests = description_requests_of(context)
        return list(range(len(requests))), list(requests)
    found = list(request_windows(step, context))
    return [p for window in found for p in window.positions], [r for window in found for r in window.requests]


def description_requests_of(context: Context) -> tuple[ReasoningRequest, ...]:
    target = context.domain(context.experiment.corpora.target, "target")
    glosses = {entry.name: gloss(entry).text for entry in target.entries}
    template = prompts.load_template(DESCRIBE_TEMPLATE)
    return description_requests(target, glosses, template=template, settings=context.experiment.describe)


def request_windows(step: Step, context: Context) -> Iterator[RequestWindow]:
    """The requests of a reason or extract step in its sentences' order. A batch is one window: it takes a day.

    A replay keeps the texts that the run has already, from a bundle: a model trained on another processor may confuse
    other types, and would have asked in other words.
    """
    settings = cast(Mapping[str, Any], step.spec.settings)
    corpus_run = context.input_run(step, "corpus")
    positions = context.positions(corpus_run, settings["n"])
    if recorded := _recorded_positions(step, context):
        positions = [position for position in positions if position not in recorded]
    ask_about = request_maker(
        context,
        setting=settings["setting"],
        quantify_run=context.input_run(step, "confusion"),
        template=template_name(step, context),
    )
    size = max(1, len(positions)) if context.experiment.execution.batch else ASKED
    n_before = 0
    for window in windows(positions, size):
        sentences = load_sentences(context.store, corpus_run, window)
        which = f", {n_before + 1} to {n_before + len(window)} of {len(positions)}"
        n_before += len(window)
        requests = ask_about([sentence.text for sentence in sentences])
        yield RequestWindow(window, sentences, requests, which if len(window) < len(positions) else "")


def _recorded_positions(step: Step, context: Context) -> set[int]:
    """The sentences that are not asked about because a replay has their text."""
    if step.kind != "reason" or not context.experiment.execution.replay:
        return set()
    return stored.reasoned_positions(context.store, step.spec.run_id)


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
        settings=context.experiment.extracting if template == EXTRACT_TEMPLATE else context.experiment.reason,
    )
