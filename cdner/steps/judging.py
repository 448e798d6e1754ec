"""The step judge: an LLM's probabilities over the types of every mention that a setting predicts.

There is one request for each mention. Its answer is an ordinary completion (``cdner.choices``): it is stored as it
arrives, requested once, and replayed offline. The examples shown with each question are stored before the first
request is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from cdner import prompts
from cdner.choices import ChoiceScores, normalised, read_scores
from cdner.config import BackboneChoice, Experiment, Llm
from cdner.errors import BackendError, UsageError
from cdner.files import Json
from cdner.models.weights import checked
from cdner.steps.asking import check_llm, complete, reasons_in_words
from cdner.steps.context import Context
from cdner.steps.nearest import Labelled, embedded, labelled_mentions, nearest_labelled
from cdner.steps.protocol import Questions, StepKind
from cdner.steps.step import BACKBONE_ENCODER, FROM_FILE, Identities, Step, entries_identity, with_weights
from cdner.steps.windows import ASKED
from cdner.store import Store
from cdner.store import confusion as stored_confusion
from cdner.store import llm_log as stored
from cdner.store import models as stored_models
from cdner.store import predictions as stored_predictions
from cdner.store import verdicts as stored_verdicts
from cdner.store.corpora import load_sentences
from cdner.store.verdicts import MentionKey, Shown, Verdict
from cdner.types import Completion, Domain, Encoder, Gap, ReasoningRequest, Sentence
from cdner.verdicts import (
    Question,
    candidates_by_prediction,
    question_maker,
)
from cdner.verdicts.questions import answer_names

LIKENESS_AT_ONCE = 512  # mentions compared with all of train at once


@dataclass(frozen=True, slots=True)
class QuestionWindow:
    """Mentions that are asked about in one call of the backend."""

    mentions: Sequence[MentionKey]
    candidates: Sequence[tuple[str, ...]]  # of each mention, in the domain's order
    requests: Sequence[ReasoningRequest]
    which: str  # ", 1 to 8192 of 9000"; "" if they are all


JUDGE_TEMPLATES = "judge."


def settings(experiment: Experiment, identities: Identities, target: Domain) -> dict[str, Json]:
    """What identifies the verdicts, beside their inputs, the samples and an encoder of its own."""
    judging, llm = experiment.judge, experiment.judging
    if llm.backend == FROM_FILE:
        raise UsageError("Verdicts ask an LLM: judge.backend = 'file' has only reasoning texts.")
    weights = identities.model("llm", llm.model)
    found: dict[str, Json] = {
        "llm": with_weights(llm, weights),
        "weights": weights,
        "judge": judging.identity(),
        "template": identities.template(judging.template),
        "entries": entries_identity(target),
    }
    if judging.neighbours and judging.encoder != BACKBONE_ENCODER:
        found["encoder"] = identities.model("encoder", judging.encoder)
    return found


def judge(step: Step, context: Context) -> None:
    """Request a verdict for every mention that has none; a mention without an answer keeps the backbone's type.

    Verdicts loaded from a bundle are kept. Mentions without an answer are counted, reported in a warning, and asked
    about again when the step is forced. In a replay, mentions that the bundle does not cover (a model trained on this
    machine may find others) are stored as gaps.
    """
    template = prompts.load_template(context.experiment.judge.template)
    stored.save_template(context.store, template.name, template.text)
    if context.experiment.execution.replay and not questions_are_known(step, context):
        _go_without(step, context)
        return
    for window in question_windows(step, context):
        answers = complete(
            step,
            context,
            context.experiment.judging,
            window.requests,
            defects=no_defects,
            which=window.which,
        )
        verdicts = {
            mention: read_verdict(answer.request_id, answer.outcome, candidates)
            for mention, candidates, answer in zip(window.mentions, window.candidates, answers, strict=True)
        }
        stored_verdicts.save_verdicts(context.store, step.spec.run_id, verdicts)
    _warn(step, context, list(stored_verdicts.load_verdicts(context.store, step.spec.run_id).values()))


def no_defects(_completion: Completion) -> int:
    """An answer holds the probabilities or is a gap; it is not asked for again."""
    return 0


def _go_without(step: Step, context: Context) -> None:
    """Store the mentions without a recorded verdict as gaps. Raises BackendError if no mention has one."""
    run_id = step.spec.run_id
    judged = stored_verdicts.load_verdicts(context.store, run_id)
    mentions = asked_mentions(step, context)
    if mentions and not judged:
        raise BackendError(
            f"{step.label}: the store has no verdict of this run. Load a bundle that has them, or run without "
            "--backend replay to ask the LLM."
        )
    candidates = _candidates(step, context, mentions)
    gaps = {
        mention: Verdict(None, candidates[mention], (), None, gap_reason="not recorded, and no LLM was asked")
        for mention in mentions
        if mention not in judged
    }
    stored_verdicts.save_verdicts(context.store, run_id, gaps)
    _warn(step, context, list((judged | gaps).values()))


def _warn(step: Step, context: Context, verdicts: Sequence[Verdict]) -> None:
    """Warn once for each kind of defect: missing verdicts, incomplete ones, invalid probabilities."""
    gaps = [Gap(verdict.gap_reason) for verdict in verdicts if verdict.gap_reason is not None]
    n_incomplete = sum(None in verdict.log_probs for verdict in verdicts)
    n_invalid = sum(verdict.n_invalid for verdict in verdicts)
    told = {
        f"{len(gaps)} of {len(verdicts)} mentions have no verdict: {reasons_in_words(gaps)}": gaps,
        f"{n_incomplete} of {len(verdicts)} verdicts lack the probability of some type": n_incomplete,
        f"{n_invalid} values that a server sent are not log-probabilities": n_invalid,
    }
    for what, is_so in told.items():
        if is_so:
            context.progress.warn(f"{step.label}: {what}.")


def read_verdict(request_id: str, outcome: Completion | Gap, candidates: tuple[str, ...]) -> Verdict:
    """Parse an answer. A text without the probabilities is a gap."""
    if isinstance(outcome, Gap):
        return Verdict(request_id, candidates, (), None, gap_reason=outcome.reason)
    try:
        scores = read_scores(outcome.text, n_choices=len(candidates))
    except ValueError as error:
        return Verdict(request_id, candidates, (), None, gap_reason=str(error))
    return Verdict(request_id, candidates, scores.log_probs, scores.origin, scores.n_invalid)


def probabilities_of(verdict: Verdict) -> dict[str, float]:
    """Candidate type -> probability among the candidates; empty for a question without an answer."""
    if verdict.gap_reason is not None:
        return {}
    scores = ChoiceScores(verdict.log_probs, "logits")
    return dict(zip(verdict.candidates, normalised(scores), strict=True))


def question_windows(step: Step, context: Context) -> Iterator[QuestionWindow]:
    """The questions of a judge step in the order of its mentions, without those that have a verdict."""
    judged = stored_verdicts.load_verdicts(context.store, step.spec.run_id)
    mentions = {
        mention: predicted
        for mention, predicted in asked_mentions(step, context).items()
        if mention not in judged or judged[mention].gap_reason is not None
    }
    candidates = _candidates(step, context, mentions)
    known = _labelled(step, context)
    shown = _shown(step, context, candidates, known) if known else {}
    keys = list(mentions)
    for start in range(0, len(keys), ASKED):
        part = {mention: candidates[mention] for mention in keys[start : start + ASKED]}
        requests = _requests(step, context, part, known=known, shown=shown)
        which = f", {start + 1} to {start + len(part)} of {len(keys)}" if len(part) < len(keys) else ""
        yield QuestionWindow(list(part), list(part.values()), requests, which)


def questions_about(step: Step, context: Context, position: int) -> dict[MentionKey, ReasoningRequest]:
    """The request for each mention predicted in one sentence, judged or not. Stores nothing."""
    mentions = {
        mention: predicted
        for mention, predicted in asked_mentions(step, context).items()
        if mention.position == position
    }
    candidates = _candidates(step, context, mentions)
    known = _labelled(step, context)
    shown: dict[MentionKey, list[Shown]] = {}
    if known:
        shown = stored_verdicts.load_shown(context.store, step.spec.run_id)
        unknown = [mention for mention in candidates if mention not in shown]
        if unknown:
            encoder = _encoder(step, context)
            predicted = _predicted_mentions(step, context)
            around = _candidates(step, context, _in_their_sentences(unknown, predicted))
            sentences = _sentences(step, context, unknown)
            settings = context.experiment.judge
            found = nearest_labelled(
                around, sentences, encoder, known=embedded(known, encoder), settings=settings
            )
            shown |= {mention: found[mention] for mention in unknown}
    requests = _requests(step, context, candidates, known=known, shown=shown)
    return dict(zip(candidates, requests, strict=True))


def _requests(
    step: Step,
    context: Context,
    candidates: Mapping[MentionKey, tuple[str, ...]],
    *,
    known: Labelled | None,
    shown: Mapping[MentionKey, Sequence[Shown]],
) -> list[ReasoningRequest]:
    """One for each mention, in order."""
    settings, llm = context.experiment.judge, context.experiment.judging
    domain = context.domain(context.experiment.corpora.target, "target")
    make = question_maker(prompts.load_template(settings.template), domain, settings, llm)
    sentences = _sentences(step, context, candidates)
    return [
        make(
            Question(
                sentences[mention.position],
                mention.start,
                mention.end,
                known.shown(shown.get(mention, ())) if known else (),
                names,
            )
        )
        for mention, names in candidates.items()
    ]


def _sentences(step: Step, context: Context, mentions: Iterable[MentionKey]) -> dict[int, Sentence]:
    positions = sorted({mention.position for mention in mentions})
    found = load_sentences(context.store, context.input_run(step, "corpus"), positions)
    return dict(zip(positions, found, strict=True))


def questions_are_known(step: Step, context: Context) -> bool:
    """Whether the examples of every question are stored; if not, the encoder has to find them first."""
    if not context.experiment.judge.neighbours:
        return True
    run_id = step.spec.run_id
    known = {
        *stored_verdicts.load_verdicts(context.store, run_id),
        *stored_verdicts.load_shown(context.store, run_id),
    }
    return asked_mentions(step, context).keys() <= known


def asked_mentions(step: Step, context: Context) -> dict[MentionKey, str]:
    """The mentions to ask about, in the order of the corpus, each with its predicted type.

    With ``judge.share`` below 1, only mentions whose probability is at most the share's quantile on dev.
    """
    run_id = context.input_run(step, "predictions")
    mentions = _predicted_mentions(step, context)
    share = context.experiment.judge.share
    if share == 1:
        return mentions
    dev_run = context.input_run(step, "dev_predictions") if "dev_predictions" in step.inputs else run_id
    threshold = share_threshold(context.store, dev_run, share)
    how_sure = _how_sure(context.store, run_id)
    return {key: name for key, name in mentions.items() if how_sure.get(key, 0.0) <= threshold}


def _predicted_mentions(step: Step, context: Context) -> dict[MentionKey, str]:
    """All predicted mentions, each with its predicted type."""
    run_id = context.input_run(step, "predictions")
    return {
        MentionKey(position, entity.start, entity.end): entity.type
        for position, prediction in stored_predictions.load_predictions(context.store, run_id).items()
        for entity in prediction.entities
    }


def share_threshold(store: Store, dev_run: str, share: float) -> float:
    """The largest probability of its most probable type at which a mention is asked about."""
    return float(np.quantile(list(_how_sure(store, dev_run).values()), share))


def _how_sure(store: Store, run_id: str) -> dict[MentionKey, float]:
    """Mention -> probability of its most probable type."""
    found = stored_predictions.load_type_probabilities(store, run_id)
    return {
        MentionKey(position, *span): max(probabilities.values())
        for position, spans in found.items()
        for span, probabilities in spans.items()
    }


def _candidates(
    step: Step, context: Context, mentions: Mapping[MentionKey, str]
) -> dict[MentionKey, tuple[str, ...]]:
    """The types each mention is asked about, in the domain's order."""
    types = context.domain(context.experiment.corpora.target, "target").types
    settings = context.experiment.judge
    v_conf = None
    if settings.candidates == "rivals":
        run_id = context.input_run(step, "confusion")
        v_conf = stored_confusion.load_confusion(context.store, run_id)["v_conf"]
    of_predicted = candidates_by_prediction(types, settings, v_conf)
    return {mention: of_predicted[predicted] for mention, predicted in mentions.items()}


def _labelled(step: Step, context: Context) -> Labelled | None:
    """The labelled mentions that may be shown; None if the prompt shows none."""
    if not context.experiment.judge.neighbours:
        return None
    sample = cast(Mapping[str, Any], step.spec.settings)["n_train"]
    return labelled_mentions(context.corpus_of(context.input_run(step, "train")), sample)


def _shown(
    step: Step, context: Context, candidates: Mapping[MentionKey, tuple[str, ...]], known: Labelled
) -> dict[MentionKey, list[Shown]]:
    """The examples of each question: the stored ones, or else the nearest labelled mentions, which are stored."""
    stored_before = stored_verdicts.load_shown(context.store, step.spec.run_id)
    mentions = [mention for mention in candidates if mention not in stored_before]
    if not mentions:
        return stored_before
    context.progress.start(f"{step.label}: nearest labelled mentions", len(mentions))
    encoder = _encoder(step, context)
    train = embedded(known, encoder)
    predicted = _predicted_mentions(step, context)
    found: dict[MentionKey, list[Shown]] = {}
    for part in _of_whole_sentences(mentions, LIKENESS_AT_ONCE):
        around = _candidates(step, context, _in_their_sentences(part, predicted))
        settings = context.experiment.judge
        sentences = _sentences(step, context, part)
        shown = nearest_labelled(around, sentences, encoder, known=train, settings=settings)
        found |= {mention: shown[mention] for mention in part}
        context.progress.advance(len(part))
    stored_verdicts.save_shown(context.store, step.spec.run_id, found)
    return stored_before | found


def _in_their_sentences(
    mentions: Sequence[MentionKey], predicted: Mapping[MentionKey, str]
) -> dict[MentionKey, str]:
    """All mentions predicted in the sentences of these mentions, each with its predicted type.

    The examples shown for a sentence depend on all of them, so they do not depend on which ones are asked about.
    """
    positions = {mention.position for mention in mentions}
    return {mention: name for mention, name in predicted.items() if mention.position in positions}


def _of_whole_sentences(mentions: Sequence[MentionKey], size: int) -> Iterator[list[MentionKey]]:
    """Parts of at least ``size`` mentions that end with a sentence. ``mentions``: in the order of the corpus."""
    part: list[MentionKey] = []
    for mention in mentions:
        if len(part) >= size and mention.position != part[-1].position:
            yield part
            part = []
        part.append(mention)
    if part:
        yield part


def _encoder(step: Step, context: Context) -> Encoder:
    """The encoder that finds the nearest mentions."""
    settings = context.experiment.judge
    if settings.encoder == BACKBONE_ENCODER:
        checkpoint = stored_models.load_checkpoint(context.store, context.input_run(step, "encoder"))
        folder = stored_models.checkpoint_directory(context.store, checkpoint)
        return context.models.backbone(
            context.experiment.backbone, checked(folder, checkpoint.weights_sha256)
        )
    return context.models.backbone(encoder_choice(settings.encoder), None)


def encoder_choice(model: str) -> BackboneChoice:
    """A base model as an encoder, opened without a head."""
    return BackboneChoice(family="tagger", model=model, dtype="float32")


def check_judge(step: Step, context: Context) -> None:
    domain = context.domain(context.experiment.corpora.target, "target")
    settings = context.experiment.judge
    if not settings.template.startswith(JUDGE_TEMPLATES):
        raise UsageError(
            f"judge.template = '{settings.template}' is not a template for verdicts: "
            f"their names begin with '{JUDGE_TEMPLATES}'."
        )
    answer_names(domain, settings)
    check_llm(KIND, step, context)


def _llm(_step: Step, context: Context) -> Llm | None:
    return context.experiment.judging


def _n_mentions(step: Step, context: Context) -> int | None:
    is_known = context.run_state(context.input_run(step, "predictions")) == "done"
    return len(asked_mentions(step, context)) if is_known else None


KIND = StepKind(
    "judge",
    1,
    judge,
    check=check_judge,
    asks=Questions(
        llm=_llm,
        windows=lambda step, context: (window.requests for window in question_windows(step, context)),
        defects=lambda _step, _context: no_defects,
        n_texts=_n_mentions,
        are_known=questions_are_known,
    ),
)
