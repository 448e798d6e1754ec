"""The step reason: an LLM writes a two-stage reasoning text for every sentence (PBRC, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from cdner import prompts
from cdner.config import Llm, Reasoning, Setting
from cdner.errors import UsageError
from cdner.files import Json
from cdner.reasoning import (
    parse_reasoning,
    reasoning_requests,
)
from cdner.steps.asking import CUT_OFF, check_llm, complete, partial_error, reasons_in_words
from cdner.steps.context import Context
from cdner.steps.describing import ENDS_EARLY, MISSING_PART
from cdner.steps.protocol import Defects, Questions, StepKind
from cdner.steps.reasoning_from_file import check_file, import_reasoning
from cdner.steps.step import FROM_FILE, Identities, Step, entries_identity, with_weights
from cdner.steps.windows import ASKED, windows
from cdner.store import confusion as stored_confusion
from cdner.store import llm_log as stored
from cdner.store.confusion import load_hierarchy
from cdner.store.corpora import load_sentences
from cdner.types import Completion, Domain, Gap, ReasoningChain, ReasoningRequest, Sentence

_MISSING = ("missing_initial", "missing_bidirectional")
PBRC_TEMPLATES = "pbrc."


def settings(
    identities: Identities,
    reason: Reasoning,
    setting: Setting,
    *,
    source: Domain,
    target: Domain,
) -> dict[str, Json]:
    """What identifies the texts of a setting, beside their inputs and the sample."""
    if reason.backend == FROM_FILE:
        texts = identities.model(FROM_FILE, reason.model)
        return {"llm": {"backend": FROM_FILE, "model": texts}, "setting": setting}
    weights = identities.model("llm", reason.model)
    return {
        "llm": with_weights(reason, weights),
        "weights": weights,
        "setting": setting,
        "template": identities.template(reason.template),
        "examples": identities.examples(target.name, reason.n_examples),
        "source_entries": entries_identity(source),
        "entries": entries_identity(target),
    }


@dataclass(frozen=True, slots=True)
class RequestWindow:
    """Sentences that are asked about in one call of the backend."""

    positions: Sequence[int]
    sentences: Sequence[Sentence]
    requests: Sequence[ReasoningRequest]
    which: str  # ", 1 to 8192 of 9000"; "" if they are all


def reason(step: Step, context: Context) -> None:
    """Store a two-stage reasoning text for every sentence. Raises PartialError for more gaps than allowed (code 3).

    All other texts are stored by then. A run with allowed gaps is done: their sentences are used without a reasoning
    text, and ``--force`` requests them again.
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
        context.progress.warn(
            f"{step.label}: {len(gaps)} of {n_sentences} sentences go without reasoning text "
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


def reasoning_defects(setting: Setting, *, structured: bool) -> Defects:
    def defects(completion: Completion) -> int:
        malformed = parse_reasoning(completion.text, setting, structured=structured).malformed
        n_missing = sum(kind in malformed for kind in _MISSING)
        return MISSING_PART * n_missing + ENDS_EARLY * (completion.finish_reason == CUT_OFF)

    return defects


def request_windows(
    step: Step, context: Context, *, template: str | None = None, llm: Reasoning | None = None
) -> Iterator[RequestWindow]:
    """The requests of a reason or extract step in the order of its sentences. A batch is one window: it takes a day.

    ``template``, ``llm``: the default are those of the experiment's section ``reason``.

    A replay keeps the texts that a bundle has brought into the run: a model trained on another processor may confuse
    other types, which would change the prompts.
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
        template=template or context.experiment.reason.template,
        llm=llm,
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
    """The positions that are not asked about, because a replay has their texts."""
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
    context: Context, *, setting: Setting, quantify_run: str, template: str, llm: Reasoning | None = None
) -> Callable[[Sequence[str]], tuple[ReasoningRequest, ...]]:
    """``requests_about`` as a function that needs neither the store nor the prompt files again."""
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
        settings=llm or context.experiment.reason,
    )


def check_reason(step: Step, context: Context) -> None:
    settings = context.experiment.reason
    if settings.backend == FROM_FILE:
        check_file(step, context)
        return
    if not settings.template.startswith(PBRC_TEMPLATES):
        raise UsageError(
            f"reason.template = '{settings.template}' is not a template for reasoning texts: "
            f"their names begin with '{PBRC_TEMPLATES}'."
        )
    check_examples(context)
    check_llm(KIND, step, context)


def check_examples(context: Context) -> None:
    """Raises UsageError if the domain has fewer in-context examples than the prompt is to show."""
    settings, target = context.experiment.reason, context.experiment.corpora.target
    n_present = len(prompts.load_examples(target)) if settings.n_examples else 0
    if settings.n_examples > n_present:
        raise UsageError(
            f"reason.n_examples = {settings.n_examples}, but '{target}' has {n_present} examples."
        )


def n_sentences(step: Step, context: Context) -> int | None:
    """Different sentences that the step asks about."""
    return context.n_imported(f"import:{context.experiment.corpora.target}/{step.split}", step.settings["n"])


def _llm(_step: Step, context: Context) -> Llm | None:
    llm = context.experiment.reason
    return None if llm.backend == FROM_FILE else llm


def _defects(step: Step, context: Context) -> Defects:
    return reasoning_defects(step.settings["setting"], structured=context.experiment.reason.structured)


KIND = StepKind(
    "reason",
    1,
    reason,
    check=check_reason,
    asks=Questions(
        llm=_llm,
        windows=lambda step, context: (window.requests for window in request_windows(step, context)),
        defects=_defects,
        n_texts=n_sentences,
    ),
)
