"""The labelled mentions of train that are nearest to mentions, found with an encoder that somebody else has opened.

Knows no store: the mentions may stand in a corpus or in sentences that were never stored.

The step judge: an LLM's probabilities over the types of every mention that a setting predicts.

One request a mention; its answer is an ordinary completion (``cdner.choices``), so it is stored as it arrives, asked
once, and replayed offline. What is shown with each question is stored before the first is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from cdner import prompts
from cdner.choices import ChoiceScores, normalised, read_scores
from cdner.config import BackboneChoice, Judging
from cdner.corpora.sampling import chosen_positions
from cdner.errors import BackendError
from cdner.files import Json
from cdner.models.weights import checked
from cdner.steps.asking import complete, reasons_in_words
from cdner.steps.context import Context
from cdner.steps.step import BACKBONE_ENCODER, Step
from cdner.steps.windows import ASKED
from cdner.store import Store
from cdner.store import confusion as stored_confusion
from cdner.store import llm_log as stored
from cdner.store import models as stored_models
from cdner.store import predictions as stored_predictions
from cdner.store import verdicts as stored_verdicts
from cdner.store.corpora import load_sentences
from cdner.store.verdicts import MentionKey, Shown, Verdict
from cdner.types import Completion, Corpus, Encoder, Entity, Gap, ReasoningRequest, Sentence
from cdner.verdicts import (
    LabelledMention,
    Mentions,
    Question,
    candidates_by_prediction,
    nearest,
    nearest_sentences,
    question_maker,
)
from cdner.verdicts.neighbours import likeness, unit_rows


@dataclass(frozen=True, slots=True)
class Labelled:
    """Gold mentions of train that may be shown, in text order, and the sentences that they stand in, by position."""

    entities: Mapping[MentionKey, Entity]
    sentences: Mapping[int, Sentence]

    def shown(self, items: Sequence[Shown]) -> tuple[tuple[Sentence, Entity], ...]:
        """What a question holds of them, in the same order."""
        return tuple((self.sentences[item.mention.position], self.entities[item.mention]) for item in items)


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """Labelled mentions with their vectors, one row each, in order."""

    mentions: tuple[LabelledMention, ...]
    vectors: Mentions


def labelled_mentions(train: Corpus, sample: Json) -> Labelled:
    """Those of the sentences that models are trained with."""
    sentences = {position: train.sentences[position] for position in chosen_positions(train, sample)}
    entities = {
        MentionKey(position, entity.start, entity.end): entity
        for position, sentence in sentences.items()
        for entity in sentence.entities
    }
    return Labelled(entities, sentences)


def embedded(known: Labelled, encoder: Encoder) -> Embedded:
    """Takes a forward pass over all of train."""
    mentions = tuple(
        LabelledMention(key.position, known.sentences[key.position].text, entity)
        for key, entity in known.entities.items()
    )
    return Embedded(mentions, mention_vectors(list(known.entities), known.sentences, encoder))


def mention_vectors(
    mentions: Sequence[MentionKey], sentences: Mapping[int, Sentence], encoder: Encoder
) -> Mentions:
    """Unit vectors of mentions and of their sentences; a row for each mention."""
    rows_of: dict[int, list[int]] = {}
    for row, mention in enumerate(mentions):
        rows_of.setdefault(mention.position, []).append(row)
    spans = [[(mentions[row].start, mentions[row].end) for row in rows] for rows in rows_of.values()]
    of_span, of_sentence = encoder.embed_spans([sentences[position] for position in rows_of], spans)
    order = [row for rows in rows_of.values() for row in rows]
    whose = [number for number, rows in enumerate(rows_of.values()) for _ in rows]
    of_mention, of_its_sentence = np.empty_like(of_span), np.empty_like(of_span)
    of_mention[order], of_its_sentence[order] = of_span, of_sentence[whose]
    return Mentions(unit_rows(of_mention), unit_rows(of_its_sentence))


def nearest_labelled(
    candidates: Mapping[MentionKey, tuple[str, ...]],
    sentences: Mapping[int, Sentence],
    encoder: Encoder,
    *,
    known: Embedded,
    settings: Judging,
) -> dict[MentionKey, list[Shown]]:
    """Mention -> what is shown with its question, in the prompt's order.

    ``candidates`` has the mentions, each with the types it is asked about. A matrix of all of them by all labelled
    mentions is held in memory.
    """
    mentions = list(candidates)
    vectors = mention_vectors(mentions, sentences, encoder)
    scores = likeness(vectors, known.vectors, sentence_weight=settings.sentence_weight)
    of_sentence = settings.neighbours_of == "sentence"
    rows_of: dict[int, list[int]] = {}  # the mentions that are shown the same
    for row, mention in enumerate(mentions):
        rows_of.setdefault(mention.position if of_sentence else row, []).append(row)
    found: dict[MentionKey, list[Shown]] = {}
    for rows in rows_of.values():
        required = [name for row in rows for name in candidates[mentions[row]]]
        choose = nearest_sentences if of_sentence else nearest
        chosen = choose(
            scores[rows] if of_sentence else scores[rows[0]],
            known.mentions,
            sentence_text=sentences[mentions[rows[0]].position].text,
            k=settings.neighbours,
            required_types=required if settings.candidates == "rivals" else (),
        )
        for row in rows:
            found[mentions[row]] = [
                Shown(_key(known.mentions[index]), round(float(scores[row, index]), 4)) for index in chosen
            ]
    return found


def _key(mention: LabelledMention) -> MentionKey:
    return MentionKey(mention.position, mention.entity.start, mention.entity.end)


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
            mention: read_verdict(answer.request_id, answer.outcome, candidates)
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


def read_verdict(request_id: str, outcome: Completion | Gap, candidates: tuple[str, ...]) -> Verdict:
    """What an answer says; a text that does not hold the figures is a gap."""
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
    """What is asked about each mention predicted in one sentence, judged or not. Stores nothing."""
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
    mentions = _predicted_mentions(step, context)
    share = context.experiment.judge.share
    if share == 1:
        return mentions
    dev_run = context.input_run(step, "dev_predictions") if "dev_predictions" in step.inputs else run_id
    threshold = share_threshold(context.store, dev_run, share)
    how_sure = _how_sure(context.store, run_id)
    return {key: name for key, name in mentions.items() if how_sure.get(key, 0.0) <= threshold}


def _predicted_mentions(step: Step, context: Context) -> dict[MentionKey, str]:
    """All of them, asked about or not, each with its predicted type."""
    run_id = context.input_run(step, "predictions")
    return {
        MentionKey(position, entity.start, entity.end): entity.type
        for position, prediction in stored_predictions.load_predictions(context.store, run_id).items()
        for entity in prediction.entities
    }


def share_threshold(store: Store, dev_run: str, share: float) -> float:
    """A mention is asked about when the probability of its most probable type is at most this."""
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
    """What may be shown; None where nothing is."""
    if not context.experiment.judge.neighbours:
        return None
    sample = cast(Mapping[str, Any], step.spec.settings)["n_train"]
    return labelled_mentions(context.corpus_of(context.input_run(step, "train")), sample)


def _shown(
    step: Step, context: Context, candidates: Mapping[MentionKey, tuple[str, ...]], known: Labelled
) -> dict[MentionKey, list[Shown]]:
    """What is shown with each question: as stored, else the nearest labelled mentions, which are stored first."""
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
    """All mentions predicted in these mentions' sentences, each with its predicted type.

    What is shown with a sentence depends on all of them, so that it is the same whichever of them are asked about.
    """
    positions = {mention.position for mention in mentions}
    return {mention: name for mention, name in predicted.items() if mention.position in positions}


def _of_whole_sentences(mentions: Sequence[MentionKey], size: int) -> Iterator[list[MentionKey]]:
    """Parts of ``size`` mentions, or more where a sentence would be cut. ``mentions``: in the corpus's order."""
    part: list[MentionKey] = []
    for mention in mentions:
        if len(part) >= size and mention.position != part[-1].position:
            yield part
            part = []
        part.append(mention)
    if part:
        yield part


def _encoder(step: Step, context: Context) -> Encoder:
    """What finds the nearest mentions."""
    settings = context.experiment.judge
    if settings.encoder == BACKBONE_ENCODER:
        checkpoint = stored_models.load_checkpoint(context.store, context.input_run(step, "encoder"))
        folder = stored_models.checkpoint_directory(context.store, checkpoint)
        return context.backbone(context.experiment.backbone, checked(folder, checkpoint.weights_sha256))
    return context.backbone(encoder_choice(settings.encoder), None)


def encoder_choice(model: str) -> BackboneChoice:
    """A base model as an encoder: it is opened without a head."""
    return BackboneChoice(family="tagger", model=model, dtype="float32")
