"""What a trained run needs to annotate a sentence, read from the store once: a worker opens no store.

A run's settings decide everything but who runs the LLM and where: types, decoding, and whether there is a reasoning
text, with the prompt its model was trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdner.config import (
    TEXT_FAMILIES,
    BackboneChoice,
    Corpora,
    Execution,
    Experiment,
    Prediction,
    Reasoning,
    Setting,
)
from cdner.errors import InputError, UsageError
from cdner.experiment.judge_method import JudgeMethod, load_judge
from cdner.files import Json
from cdner.models.engines import check_engine
from cdner.models.weights import checked
from cdner.steps.context import Context, open_context
from cdner.steps.reasoning import request_maker
from cdner.steps.step import FROM_FILE, prompt_changes
from cdner.store import Store, runs
from cdner.store import models as stored_models
from cdner.store.find import has_input, input_of, settings_of
from cdner.store.llm_log import request_id
from cdner.store.runs import RunSpec
from cdner.types import Progress, ReasoningRequest

_OPEN_WEIGHTS_MARK = "@"  # folders are named "name@hash" in identities; where they lie is not recorded


@dataclass(frozen=True, slots=True)
class Asking:
    """How a sentence gets its reasoning text."""

    setting: Setting
    weights: str  # the LLM's, as in the identity of a request
    requests: Callable[[Sequence[str]], tuple[ReasoningRequest, ...]]


@dataclass(frozen=True, slots=True)
class Method:
    """Everything but the sentences; may be handed to another process. Holds no key."""

    model_run: str
    checkpoint: Path
    weights_sha256: str
    types: tuple[str, ...]
    experiment: Experiment  # its backbone, predict, reason and execution count
    asking: Asking | None
    judge: JudgeMethod | None = None  # of a fused setting

    @property
    def says_how_sure(self) -> bool:
        """Whether each entity has a score: a tagger always knows it."""
        return self.experiment.predict.confidence or self.experiment.backbone.family not in TEXT_FAMILIES

    def identity(self) -> Json:
        """What decides the entities, and nothing that only decides where and how fast they are found."""
        made: dict[str, Json] = {
            "model": {"run_id": self.model_run, "weights_sha256": self.weights_sha256},
            "dtype": self.experiment.backbone.dtype,
            "types": list(self.types),
            "predict": self.experiment.predict.identity_of(self.experiment.backbone.family),
            "reasoning": None,
        }
        if self.asking is not None:
            llm, (request,) = self.experiment.reason, self.asking.requests([""])
            prompt = request_id(llm.backend, self.asking.weights, request)
            made["reasoning"] = {"llm": llm.identity(), "weights": self.asking.weights, "prompt": prompt}
        if self.judge is not None:
            made["verdicts"] = self.judge.identity()
        return made


def load_method(
    store: Store,
    run_id: str,
    execution: Execution,
    *,
    llm: Mapping[str, str],
    progress: Progress,
    confidence: bool = False,
    encoder: str | None = None,
) -> Method:
    """Of a train run, of a predict run with its decoding, or of a fuse run with its verdicts.

    ``llm``: another "backend" or "model" for the texts and verdicts; ``encoder``: as for ``load_judge``;
    ``confidence``: say how sure the model is of each type, also where the run does not.

    InputError for a model that is not there, UsageError for reasoning that nobody can be asked for.
    """
    named = runs.load_run(store, run_id)
    fuse = named if named.step == "fuse" else None
    run = input_of(store, named, "predictions") if fuse else named
    trained, reasoning = _model_and_texts(store, run)
    # A train run has decoding settings where its epochs were chosen by predictions, else the defaults hold.
    stored = settings_of(run).get("predict")
    predict = Prediction() if stored is None else Prediction.of_run(stored)
    settings: dict[str, Any] = {
        "name": "annotate",
        "backbone": BackboneChoice.model_validate(settings_of(trained)["backbone"]),
        "predict": predict.model_copy(update={"confidence": predict.confidence or confidence}),
        "execution": execution,
    }
    _refuse_idle_options(store, run_id, fuse, reasoning, llm=llm, encoder=encoder)
    asking = None
    if reasoning is not None:
        settings |= {"corpora": _corpora(store, reasoning), "reason": _llm(reasoning, llm)}
        experiment = Experiment(**settings)
        with open_context(store.path, experiment, progress=progress) as context:
            asking = _asking(reasoning, context)
    predict = settings["predict"]
    check_engine(
        predict.engine,
        family=settings["backbone"].family,
        decoding=predict.decoding,
        confidence=predict.confidence,
    )
    checkpoint = _checkpoint(store, trained)
    folder = stored_models.checkpoint_directory(store, checkpoint)
    return Method(
        model_run=trained.run_id,
        checkpoint=checked(folder, checkpoint.weights_sha256),
        weights_sha256=checkpoint.weights_sha256,
        types=tuple(settings_of(trained)["types"]),
        experiment=Experiment(**settings),
        asking=asking,
        judge=_judge(store, fuse, llm=llm, encoder=encoder, progress=progress) if fuse else None,
    )


def _model_and_texts(store: Store, run: RunSpec) -> tuple[RunSpec, RunSpec | None]:
    """The train run of a train or predict run, and the run whose reasoning texts it reads.

    UsageError for predictions that no trained model makes alone.
    """
    if run.step == "extract":
        raise UsageError(
            f"Run {run.run_id} is an LLM's own entities: there is no trained model to annotate with."
        )
    trained = run if run.step == "train" else input_of(store, run, "model")
    role = "train_reasoning" if run.step == "train" else "reasoning"
    reasoning = input_of(store, run, role) if has_input(run, role) else None
    if reasoning is not None and reasoning.step == "tell":
        raise UsageError(
            f"The model of run {run.run_id} reads an LLM's verdicts on the mentions of another model, which "
            "'cdner annotate' does not ask for. Name a run of another setting."
        )
    return trained, reasoning


def _refuse_idle_options(
    store: Store,
    run_id: str,
    fuse: RunSpec | None,
    reasoning: RunSpec | None,
    *,
    llm: Mapping[str, str],
    encoder: str | None,
) -> None:
    """UsageError for options that this method has no use for."""
    if fuse is not None:
        _refuse_one_llm_for_two(store, fuse, reasoning, llm)
        return
    if llm and reasoning is None:
        raise UsageError(f"Run {run_id} needs no reasoning text, so no LLM: leave --backend and --model off.")
    if encoder is not None:
        raise UsageError(f"Run {run_id} shows no labelled mentions to an LLM: leave --encoder off.")


def _judge(
    store: Store, fuse: RunSpec, *, llm: Mapping[str, str], encoder: str | None, progress: Progress
) -> JudgeMethod:
    """The judge of a fuse run. Warns of everything that has changed since the weights were fitted."""
    target = settings_of(input_of(store, fuse, "corpus"))["domain"]
    with open_context(store.path, Experiment(name="annotate"), progress=progress) as context:
        domain = context.domain(target, "target")
    method, told = load_judge(store, fuse, domain, llm=llm, encoder=encoder)
    if told:
        progress.warn(f"Since the weights were fitted: {', '.join(told)}")
    return method


def _refuse_one_llm_for_two(
    store: Store, fuse: RunSpec, reasoning: RunSpec | None, given: Mapping[str, str]
) -> None:
    """--backend and --model name one LLM."""
    if reasoning is None or not given:
        return
    judge = settings_of(input_of(store, fuse, "verdicts"))
    texts = settings_of(reasoning)
    of_texts = (texts["llm"]["backend"], texts.get("weights"))
    if of_texts != (judge["llm"]["backend"], judge["weights"]):
        raise UsageError(
            f"Run {fuse.run_id} asks two LLMs, {of_texts[1]} for reasoning texts and {judge['weights']} for verdicts: "
            "--backend and --model would replace both. Leave them off."
        )


def _checkpoint(store: Store, trained: RunSpec) -> stored_models.Checkpoint:
    if runs.run_state(store, trained.run_id) == "done":
        checkpoint = stored_models.load_checkpoint(store, trained.run_id)
        if stored_models.checkpoint_directory(store, checkpoint).is_dir():
            return checkpoint
    raise InputError(
        f"The model of run {trained.run_id} is not there: not trained, or its folder is gone. "
        "Make it with: cdner train --force, and the options or -e EXPERIMENT of that run."
    )


def _llm(reasoning: RunSpec, given: Mapping[str, str]) -> Reasoning:
    """Who wrote the texts the model was trained with, or who is to write instead."""
    settings = settings_of(reasoning)
    if settings["llm"]["backend"] == FROM_FILE:
        raise UsageError(
            f"The reasoning texts of run {reasoning.run_id} come from a file: "
            "there is no prompt to ask an LLM about a new sentence."
        )
    known = Reasoning.model_validate({"retries": 0, **settings["llm"]})  # 0 is left out of identities
    if "model" not in given and known.model == settings["weights"] and _OPEN_WEIGHTS_MARK in known.model:
        raise UsageError(
            f"Where do the weights {known.model} lie, which wrote the reasoning? --model FOLDER."
        )
    return known.model_copy(update=dict(given))


def _asking(reasoning: RunSpec, context: Context) -> Asking:
    """Read the prompt's parts; what is no longer as it was when the model was trained is told."""
    settings, llm = settings_of(reasoning), context.experiment.reason
    weights = context.model("llm", llm.model)
    told = [
        f"the prompt's {name} has changed" for name in prompt_changes(settings, context.experiment, context)
    ]
    if (llm.backend, weights) != (settings["llm"]["backend"], settings["weights"]):
        told.append(f"its texts were written by {settings['llm']['backend']} {settings['weights']}")
    if told:
        context.progress.warn(f"Since the model was trained with reasoning: {', '.join(told)}")
    requests = request_maker(
        context,
        setting=settings["setting"],
        quantify_run=reasoning.inputs[settings["roles"].index("confusion")],
        template=llm.template,
    )
    return Asking(settings["setting"], weights, requests)


def _corpora(store: Store, reasoning: RunSpec) -> Corpora:
    """Source and target domain of the prompt."""
    if not has_input(reasoning, "confusion"):
        return Corpora()  # texts from a file: `_llm` refuses them
    coarse = input_of(store, input_of(store, reasoning, "confusion"), "train_predictions")
    source_model = input_of(store, coarse, "model")
    return Corpora(
        source=settings_of(input_of(store, source_model, "train"))["domain"],
        target=settings_of(input_of(store, reasoning, "corpus"))["domain"],
    )
