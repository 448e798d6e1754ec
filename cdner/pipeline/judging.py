"""The step judge: an LLM's probabilities over the types of every mention that a setting predicts.

One request a mention; its answer is an ordinary completion (``cdner.choices``), so it is stored as it arrives, asked
once, and replayed offline. What is shown with each question is stored before the first is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from cdner import prompts
from cdner.choices import ChoiceScores, normalised, read_scores
from cdner.config import BackboneChoice
from cdner.corpora.sampling import chosen_positions
from cdner.errors import BackendError
from cdner.pipeline.asking import complete, reasons_in_words
from cdner.pipeline.context import Context
from cdner.pipeline.plan import BACKBONE_ENCODER, Step
from cdner.pipeline.windows import ASKED
from cdner.store import confusion as stored_confusion
from cdner.store import models as stored_models
from cdner.store import predictions as stored_predictions
from cdner.store import reasoning as stored
from cdner.store import verdicts as stored_verdicts
from cdner.store.sentences import load_sentences
from cdner.store.verdicts import MentionKey, Shown, Verdict
from cdner.types import Completion, Gap, ReasoningRequest, Sentence
from cdner.verdicts import LabelledMention, Mentions, Question, fixed_part, nearest, question_request
from cdner.verdicts.neighbours import likeness, unit_rows

LIKENESS_AT_ONCE = 512  # mentions compared with all of train at once


@dataclass(frozen=True, slots=True)
class QuestionWindow:
    """Mentions that are asked about together."""

    mentions: Sequence[MentionKey]
    candidates: Sequence[tuple[str, ...]]  # of each mention, in the domain's order
    requests: Sequence[ReasoningRequest]
    which: str  # which of all they are, in words; "" for all


def judge(step: Step, context: Context) -> None:
    """Ask about every mention that has no verdict yet; one without an answer keeps the backbone's type.

    Verdicts that came in a bundle are there already. What has no answer is counted, told, and asked again when the
    step is carried out again (``--force``). A replay whose bundle lacks some mentions, because a model trained on this
    machine finds others, goes on without these.
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
            defects=lambda _completion: 0,
            which=window.which,
        )
        verdicts = {
            mention: _verdict(answer.request_id, answer.outcome, candidates)
            for mention, candidates, answer in zip(window.mentions, window.candidates, answers, strict=True)
        }
        stored_verdicts.save_verdicts(context.store, step.spec.run_id, verdicts)
    _warn(step, context, list(stored_verdicts.load_verdicts(context.store, step.spec.run_id).values()))


def _go_without(step: Step, context: Context) -> None:
    """Store the mentions that have no recorded verdict as gaps. BackendError where none has one."""
    run_id = step.spec.run_id
    judged = stored_verdicts.load_verdicts(context.store, run_id)
    mentions = asked_mentions(step, context)
    if mentions and not judged:
        raise BackendError(
            f"{step.label}: the store holds no verdict of this run. Load a bundle that has them, or run without "
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
    """One line for each kind of thing that verdicts lack."""
    gaps = [Gap(verdict.gap_reason) for verdict in verdicts if verdict.gap_reason is not None]
    n_incomplete = sum(None in verdict.log_probs for verdict in verdicts)
    n_invalid = sum(verdict.n_invalid for verdict in verdicts)
    told = {
        f"{len(gaps)} of {len(verdicts)} mentions have no verdict: {reasons_in_words(gaps)}": gaps,
        f"{n_incomplete} of {len(verdicts)} verdicts lack the figure of some type": n_incomplete,
        f"{n_invalid} figures that a server sent are no log-probabilities": n_invalid,
    }
    for what, is_so in told.items():
        if is_so:
            context.progress.start(f"Warning: {step.label}: {what}.")


def _verdict(request_id: str, outcome: Completion | Gap, candidates: tuple[str, ...]) -> Verdict:
    if isinstance(outcome, Gap):
        return Verdict(request_id, candidates, (), None, gap_reason=outcome.reason)
    try:
        scores = read_scores(outcome.text, n_choices=len(candidates))
    except ValueError as error:
        return Verdict(request_id, candidates, (), None, gap_reason=str(error))
    return Verdict(request_id, candidates, scores.log_probs, scores.origin, scores.n_invalid)


def probabilities_of(verdict: Verdict) -> dict[str, float]:
    """Candidate type -> probability among the candidates; empty where the question has no answer."""
    if verdict.gap_reason is not None:
        return {}
    scores = ChoiceScores(verdict.log_probs, "logits")
    return dict(zip(verdict.candidates, normalised(scores), strict=True))


def question_windows(step: Step, context: Context) -> Iterator[QuestionWindow]:
    """The questions of a judge step in the order of its mentions; none about those that have a verdict."""
    settings, llm = context.experiment.judge, context.experiment.judging
    domain = context.domain(context.experiment.corpora.target, "target")
    template = prompts.load_template(settings.template)
    fixed = fixed_part(template, domain, settings)
    judged = stored_verdicts.load_verdicts(context.store, step.spec.run_id)
    mentions = {
        mention: predicted
        for mention, predicted in asked_mentions(step, context).items()
        if mention not in judged or judged[mention].gap_reason is not None
    }
    candidates = _candidates(step, context, mentions)
    shown = _shown(step, context, list(mentions), candidates) if settings.neighbours else {}
    train = context.corpus_of(context.input_run(step, "train")).sentences if shown else ()
    labels = _labels(train)
    corpus_run, keys = context.input_run(step, "corpus"), list(mentions)
    for start in range(0, len(keys), ASKED):
        part = keys[start : start + ASKED]
        positions = sorted({mention.position for mention in part})
        sentences = dict(zip(positions, load_sentences(context.store, corpus_run, positions), strict=True))
        requests = [
            question_request(
                template,
                fixed,
                Question(
                    sentences[mention.position],
                    mention.start,
                    mention.end,
                    tuple(
                        (train[item.mention.position], labels[item.mention])
                        for item in shown.get(mention, ())
                    ),
                    candidates[mention],
                ),
                domain=domain,
                settings=settings,
                llm=llm,
            )
            for mention in part
        ]
        which = f", {start + 1} to {start + len(part)} of {len(keys)}" if len(part) < len(keys) else ""
        yield QuestionWindow(part, [candidates[mention] for mention in part], requests, which)


def questions_are_known(step: Step, context: Context) -> bool:
    """Whether it is stored already what is shown with each question: else the encoder has to find it first."""
    if not context.experiment.judge.neighbours:
        return True
    run_id = step.spec.run_id
    known = {
        *stored_verdicts.load_verdicts(context.store, run_id),
        *stored_verdicts.load_shown(context.store, run_id),
    }
    return asked_mentions(step, context).keys() <= known


def asked_mentions(step: Step, context: Context) -> dict[MentionKey, str]:
    """The mentions to ask about, in the corpus's order, each with its predicted type.

    With ``judge.share`` below 1: those whose probability is at most that share's quantile on dev.
    """
    run_id = context.input_run(step, "predictions")
    mentions = {
        MentionKey(position, entity.start, entity.end): entity.type
        for position, prediction in stored_predictions.load_predictions(context.store, run_id).items()
        for entity in prediction.entities
    }
    share = context.experiment.judge.share
    if share == 1:
        return mentions
    dev_run = context.input_run(step, "dev_predictions") if "dev_predictions" in step.inputs else run_id
    threshold = float(np.quantile(list(_how_sure(context, dev_run).values()), share))
    how_sure = _how_sure(context, run_id)
    return {key: name for key, name in mentions.items() if how_sure.get(key, 0.0) <= threshold}


def _how_sure(context: Context, run_id: str) -> dict[MentionKey, float]:
    """Mention -> probability of its most probable type."""
    found = stored_predictions.load_type_probabilities(context.store, run_id)
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
    if settings.candidates == "all":
        return dict.fromkeys(mentions, types)
    v_conf = stored_confusion.load_confusion(context.store, context.input_run(step, "confusion"))["v_conf"]
    of_predicted: dict[str, tuple[str, ...]] = {}
    for column, predicted in enumerate(v_conf.types):
        # Row: gold type. The gold types that are most often taken for the predicted one.
        others = [row for row in np.argsort(-v_conf.scores[:, column], kind="stable") if row != column]
        kept = {predicted, *(v_conf.types[row] for row in others[: settings.n_rivals])}
        of_predicted[predicted] = tuple(name for name in types if name in kept)
    return {mention: of_predicted[predicted] for mention, predicted in mentions.items()}


def _labels(train: Sequence[Sentence]) -> dict[MentionKey, Any]:
    return {
        MentionKey(position, entity.start, entity.end): entity
        for position, sentence in enumerate(train)
        for entity in sentence.entities
    }


def _shown(
    step: Step,
    context: Context,
    mentions: Sequence[MentionKey],
    candidates: Mapping[MentionKey, tuple[str, ...]],
) -> dict[MentionKey, list[Shown]]:
    """What is shown with each question: as stored, else the nearest labelled mentions, which are stored first."""
    stored_before = stored_verdicts.load_shown(context.store, step.spec.run_id)
    mentions = [mention for mention in mentions if mention not in stored_before]
    if not mentions:
        return stored_before
    settings = context.experiment.judge
    train_run = context.input_run(step, "train")
    sample = cast(Mapping[str, Any], step.spec.settings)["n_train"]
    train = context.corpus_of(train_run)
    known = [
        LabelledMention(position, train.sentences[position].text, entity)
        for position in chosen_positions(train, sample)
        for entity in train.sentences[position].entities
    ]
    positions = sorted({mention.position for mention in mentions})
    corpus_run = context.input_run(step, "corpus")
    texts = dict(zip(positions, load_sentences(context.store, corpus_run, positions), strict=True))
    context.progress.start(f"{step.label}: nearest labelled mentions", len(mentions))
    vectors_known = _vectors(
        step,
        context,
        [MentionKey(item.position, item.entity.start, item.entity.end) for item in known],
        train.sentences,
    )
    required = settings.candidates == "rivals"
    found: dict[MentionKey, list[Shown]] = {}
    for start in range(0, len(mentions), LIKENESS_AT_ONCE):
        part = mentions[start : start + LIKENESS_AT_ONCE]
        vectors = _vectors(step, context, part, texts)
        scores = likeness(vectors, vectors_known, sentence_weight=settings.sentence_weight)
        for row, mention in enumerate(part):
            chosen = nearest(
                scores[row],
                known,
                sentence_text=texts[mention.position].text,
                k=settings.neighbours,
                required_types=candidates[mention] if required else (),
            )
            found[mention] = [
                Shown(
                    MentionKey(known[i].position, known[i].entity.start, known[i].entity.end),
                    round(float(scores[row, i]), 4),
                )
                for i in chosen
            ]
        context.progress.advance(len(part))
    stored_verdicts.save_shown(context.store, step.spec.run_id, found)
    return stored_before | found


def _vectors(
    step: Step,
    context: Context,
    mentions: Sequence[MentionKey],
    sentences: Mapping[int, Sentence] | Sequence[Sentence],
) -> Mentions:
    """Unit vectors of mentions and of their sentences, by the encoder of the settings; a row for each mention."""
    settings = context.experiment.judge
    if settings.encoder == BACKBONE_ENCODER:
        choice = context.experiment.backbone
        checkpoint = stored_models.load_checkpoint(context.store, context.input_run(step, "encoder"))
        model = context.backbone(choice, stored_models.checkpoint_directory(context.store, checkpoint))
    else:
        model = context.backbone(
            BackboneChoice(family="tagger", model=settings.encoder, dtype="float32"), None
        )
    rows_of: dict[int, list[int]] = {}
    for row, mention in enumerate(mentions):
        rows_of.setdefault(mention.position, []).append(row)
    spans = [[(mentions[row].start, mentions[row].end) for row in rows] for rows in rows_of.values()]
    of_span, of_sentence = model.embed_spans([sentences[position] for position in rows_of], spans)
    order = [row for rows in rows_of.values() for row in rows]
    whose = [number for number, rows in enumerate(rows_of.values()) for _ in rows]
    of_mention, of_its_sentence = np.empty_like(of_span), np.empty_like(of_span)
    of_mention[order], of_its_sentence[order] = of_span, of_sentence[whose]
    return Mentions(unit_rows(of_mention), unit_rows(of_its_sentence))
