"""What a fuse run needs to judge and fuse the mentions of sentences that are in no corpus; read from the store once.

A worker of ``cdner annotate`` takes it to another process and opens no store. ``cdner explain`` uses the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cdner import prompts
from cdner.config import BackboneChoice, Judging, Llm
from cdner.errors import InputError, UsageError
from cdner.files import Json, content_hash
from cdner.models.weights import checked, weights_identity
from cdner.steps.fusing import both_opinions, distributions, opinions_of, retyped
from cdner.steps.judging import encoder_choice, share_threshold
from cdner.steps.nearest import Embedded, Labelled, embedded, labelled_mentions, nearest_labelled
from cdner.steps.step import entries_identity
from cdner.store import Store, runs
from cdner.store import confusion as stored_confusion
from cdner.store import models as stored_models
from cdner.store import verdicts as stored_verdicts
from cdner.store.corpora import load_corpus
from cdner.store.find import has_input, input_of, settings_of
from cdner.store.llm_log import request_id
from cdner.store.runs import RunSpec
from cdner.store.verdicts import MentionKey, Shown, Verdict
from cdner.types import Domain, Encoder, Prediction, ReasoningRequest, Sentence
from cdner.verdicts import Fusion, Question, candidates_by_prediction, decide, question_maker

_FOLDER_MARK = (
    "@"  # weights of a folder are named "name@hash" in identities; where the folder is is not recorded
)


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    """What finds the nearest labelled mentions."""

    choice: BackboneChoice
    checkpoint: Path | None  # None: the base model
    identity: str


@dataclass(frozen=True, slots=True, eq=False)
class JudgeMethod:
    """Everything but the sentences; can be pickled. Holds no key."""

    fuse_run: str
    settings: Judging
    llm: Llm
    weights: str  # the LLM's, as in the identity of a request
    types: tuple[str, ...]
    make: Callable[[Question], ReasoningRequest]
    candidates: Mapping[str, tuple[str, ...]]  # by predicted type
    threshold: (
        float | None
    )  # asked about are mentions whose most probable type is at most so probable; None: all
    encoder: EncoderWeights | None  # None: questions show no labelled mentions
    known: Labelled
    fusion: Fusion

    def identity(self) -> Json:
        """What decides the types, and nothing that only decides where and how fast they are decided."""
        sentence = Sentence(("a", "b"))
        request = self.make(Question(sentence, 0, 1, (), self.types))
        fusion = [self.fusion.backbone, self.fusion.llm, *map(float, self.fusion.biases)]
        return {
            "run_id": self.fuse_run,
            "llm": self.llm.identity(),
            "weights": self.weights,
            "prompt": request_id(self.llm.backend, self.weights, request),
            "judge": self.settings.identity(),
            "candidates": content_hash([[name, *found] for name, found in self.candidates.items()]),
            "threshold": self.threshold,
            "encoder": self.encoder.identity if self.encoder else None,
            "train": content_hash(
                [
                    [*key, entity.type, self.known.sentences[key.position].text]
                    for key, entity in self.known.entities.items()
                ]
            ),
            "fusion": content_hash(fusion),
        }


@dataclass(frozen=True, slots=True)
class Asked:
    """One mention to judge. ``mention.position``: the sentence's index among those predicted together."""

    mention: MentionKey
    candidates: tuple[str, ...]
    shown: tuple[Shown, ...]  # the nearest last
    request: ReasoningRequest


class Questioner:
    """Makes the questions about predicted mentions. Labelled mentions are embedded once, when they are first needed."""

    def __init__(self, method: JudgeMethod, open_encoder: Callable[[EncoderWeights], Encoder]) -> None:
        self._method = method
        self._open_encoder = open_encoder
        self._known: Embedded | None = None

    def questions(self, sentences: Sequence[Sentence], predictions: Sequence[Prediction]) -> list[Asked]:
        """One for each mention to ask about, in text order."""
        method = self._method
        asked, all_predicted = (
            {
                MentionKey(position, entity.start, entity.end): method.candidates[entity.type]
                for position, prediction in enumerate(predictions)
                for entity in _unsure(prediction, threshold)
            }
            for threshold in (method.threshold, None)
        )
        positions = {mention.position for mention in asked}
        around = {key: names for key, names in all_predicted.items() if key.position in positions}
        shown = self._shown(around, dict(enumerate(sentences)))
        return [
            Asked(
                mention,
                names,
                tuple(items),
                self._request(sentences[mention.position], mention, names, items),
            )
            for mention, names in asked.items()
            for items in [shown.get(mention, [])]
        ]

    def _request(
        self, sentence: Sentence, mention: MentionKey, names: tuple[str, ...], items: Sequence[Shown]
    ) -> ReasoningRequest:
        shown = self._method.known.shown(items)
        return self._method.make(Question(sentence, mention.start, mention.end, shown, names))

    def _shown(
        self, candidates: Mapping[MentionKey, tuple[str, ...]], sentences: Mapping[int, Sentence]
    ) -> Mapping[MentionKey, list[Shown]]:
        method = self._method
        if method.encoder is None or not candidates:
            return {}
        encoder = self._open_encoder(method.encoder)
        if self._known is None:
            self._known = embedded(method.known, encoder)
        return nearest_labelled(candidates, sentences, encoder, known=self._known, settings=method.settings)


def _unsure(prediction: Prediction, threshold: float | None) -> list[Any]:
    if threshold is None:
        return list(prediction.entities)
    sure = [max(found.values(), default=0.0) for found in prediction.type_probabilities]
    sure += [0.0] * (len(prediction.entities) - len(sure))
    return [entity for entity, p in zip(prediction.entities, sure, strict=True) if p <= threshold]


def fused(
    method: JudgeMethod,
    sentences: Sequence[Sentence],
    predictions: Sequence[Prediction],
    verdicts: Mapping[MentionKey, Verdict],
) -> list[Prediction]:
    """The predictions with fused types and probabilities; a mention without a verdict stays as it is."""
    backbone = {
        position: {
            (entity.start, entity.end): found
            for entity, found in zip(prediction.entities, prediction.type_probabilities, strict=False)
        }
        for position, prediction in enumerate(predictions)
    }
    judged = both_opinions(backbone, verdicts, method.types)
    decided = decide(method.fusion, judged.p_backbone, judged.p_llm)
    opinions = opinions_of(distributions(judged, decided, method.types), backbone)
    return [
        retyped(prediction, sentence, opinions.get(position, {}), method.types)
        for position, (sentence, prediction) in enumerate(zip(sentences, predictions, strict=True))
    ]


# --- from the store --------------------------------------------------------------------------------------


def load_judge(
    store: Store,
    fuse: RunSpec,
    domain: Domain,
    *,
    llm: Mapping[str, str],
    encoder: str | None,
) -> tuple[JudgeMethod, list[str]]:
    """The judge of a finished fuse run, and a line for each thing that has changed since its weights were fitted.

    ``domain``: the target's label set. ``llm``: another "backend" or "model" for the verdicts; ``encoder``: the folder
    of an encoder that the run knows by its checksum alone.

    InputError for a run that is not finished or whose encoder is not there, UsageError for weights that are not found.
    """
    judge, types = input_of(store, fuse, "verdicts"), tuple(settings_of(fuse)["types"])
    asked = settings_of(judge)
    settings = Judging.model_validate(asked["judge"])
    asking = judge_llm(judge, llm)
    weights = weights_identity(asking.model)
    template = prompts.load_template(settings.template)
    changed = {
        "the prompt's template has changed": template.hash != asked["template"],
        "the prompt's entries have changed": entries_identity(domain) != asked["entries"],
        f"its verdicts are of {asked['llm']['backend']} {asked['weights']}": (asking.backend, weights)
        != (asked["llm"]["backend"], asked["weights"]),
    }
    method = JudgeMethod(
        fuse_run=fuse.run_id,
        settings=settings,
        llm=asking,
        weights=weights,
        types=types,
        make=question_maker(template, domain, settings, asking),
        candidates=_candidates(store, judge, types, settings),
        threshold=_threshold(store, judge, settings),
        encoder=_encoder(store, judge, encoder) if settings.neighbours else None,
        known=_labelled(store, judge) if settings.neighbours else Labelled({}, {}),
        fusion=_fusion(store, fuse, types),
    )
    return method, [said for said, is_so in changed.items() if is_so]


def judge_llm(judge: RunSpec, given: Mapping[str, str]) -> Llm:
    """Who gave the verdicts that the weights were fitted with, or who is to judge instead."""
    settings = settings_of(judge)
    known = Llm.model_validate({"retries": 0, **settings["llm"]})  # 0 is left out of identities
    if "model" not in given and known.model == settings["weights"] and _FOLDER_MARK in known.model:
        raise UsageError(f"Where is the folder of {known.model}, which gave the verdicts? --model FOLDER.")
    return known.model_copy(update=dict(given))


def _fusion(store: Store, fuse: RunSpec, types: tuple[str, ...]) -> Fusion:
    weights = stored_verdicts.load_fusion_weights(store, fuse.run_id)
    if runs.run_state(store, fuse.run_id) != "done" or not weights:
        raise InputError(f"Run {fuse.run_id} is not finished. Run the command that made it again.")
    biases = np.array([weights[f"bias:{name}"] for name in types])
    return Fusion(weights["backbone"], weights["llm"], biases)


def _candidates(
    store: Store, judge: RunSpec, types: tuple[str, ...], settings: Judging
) -> Mapping[str, tuple[str, ...]]:
    v_conf = None
    if settings.candidates == "rivals":
        v_conf = stored_confusion.load_confusion(store, input_of(store, judge, "confusion").run_id)["v_conf"]
    return candidates_by_prediction(types, settings, v_conf)


def _threshold(store: Store, judge: RunSpec, settings: Judging) -> float | None:
    if settings.share == 1:
        return None
    role = "dev_predictions" if has_input(judge, "dev_predictions") else "predictions"
    return share_threshold(store, input_of(store, judge, role).run_id, settings.share)


def _labelled(store: Store, judge: RunSpec) -> Labelled:
    train = load_corpus(store, input_of(store, judge, "train").run_id)
    return labelled_mentions(train, settings_of(judge)["n_train"])


def _encoder(store: Store, judge: RunSpec, given: str | None) -> EncoderWeights:
    settings = settings_of(judge)
    if has_input(judge, "encoder"):
        if given is not None:
            raise UsageError("--encoder: the run's own model finds the nearest mentions; leave it off.")
        trained = input_of(store, judge, "encoder")
        checkpoint = stored_models.load_checkpoint(store, trained.run_id)
        folder = stored_models.checkpoint_directory(store, checkpoint)
        if not folder.is_dir():
            raise InputError(
                f"The encoder of run {trained.run_id} is not there: its folder is gone. "
                "Make it with: cdner train --force, and the options or -e EXPERIMENT of that run."
            )
        choice = BackboneChoice.model_validate(settings_of(trained)["backbone"])
        checked(folder, checkpoint.weights_sha256)
        return EncoderWeights(choice, folder, f"{trained.run_id} {checkpoint.weights_sha256}")
    identity = str(settings["encoder"])
    model = given or identity.partition(_FOLDER_MARK)[0]
    if weights_identity(model) != identity:
        if given is None:
            raise UsageError(f"Where is the folder of the encoder {identity}? --encoder FOLDER.")
        raise UsageError(f"--encoder {given}: the run's encoder is {identity}, these are other weights.")
    return EncoderWeights(encoder_choice(model), None, identity)
