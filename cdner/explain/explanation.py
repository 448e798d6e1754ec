"""One sentence through the whole method: coarse types, prefixes and rivals, prompt, reasoning, both predictions.

Everything is taken from the runs that a prediction was made with, so a new sentence is treated like those of the
corpus. An LLM's answer is stored like any completion, under a run of the step "explain": it changes no experiment's
account and is requested once. Predictions are not stored. The two predictions are compared span by span.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from cdner.config import BackboneChoice, Corpora, Execution, Experiment, Prediction, Reasoning, Setting
from cdner.errors import BackendError, InputError, UsageError
from cdner.experiment.execute import recorded
from cdner.models.weights import checked
from cdner.reasoning import parse_reasoning
from cdner.steps.asking import complete, to_send
from cdner.steps.context import Context
from cdner.steps.predicting import predict_all
from cdner.steps.reasoning import reasoning_defects, requests_about
from cdner.steps.step import FROM_FILE, Step, prompt_changes
from cdner.store import Store, runs
from cdner.store import confusion as stored_confusion
from cdner.store import models as stored_models
from cdner.store.confusion import load_hierarchy
from cdner.store.find import input_of, settings_of
from cdner.store.llm_log import request_id
from cdner.store.runs import RunSpec, run_spec
from cdner.types import Completion, Entity, Gap, Generation, ReasoningChain, ReasoningRequest, Sentence
from cdner.types import Prediction as Predicted

Kind = Literal["same", "type changed", "found", "lost"]


@dataclass(frozen=True, slots=True)
class Change:
    """A span that either model finds, and the type each gives it (None: it does not find it)."""

    start: int
    end: int
    mention: str
    before: str | None
    after: str | None
    kind: Kind


def changes(sentence: Sentence, before: Sequence[Entity], after: Sequence[Entity]) -> list[Change]:
    """Every span that either model finds, in text order."""
    types = [{(entity.start, entity.end): entity.type for entity in found} for found in (before, after)]
    rows = []
    for start, end in sorted(types[0].keys() | types[1].keys()):
        one, other = (found.get((start, end)) for found in types)
        kind: Kind = "found" if one is None else "lost" if other is None else "type changed"
        rows.append(
            Change(
                *(start, end, " ".join(sentence.tokens[start:end])),
                *(one, other, "same" if one == other else kind),
            )
        )
    return rows


EXPLAIN_VERSION = 1
_OPEN_WEIGHTS_MARK = "@"  # folders are named "name@hash" in identities; where they lie is not recorded


@dataclass(frozen=True, slots=True)
class Method:
    """The runs that one prediction was made with."""

    prediction: RunSpec
    source_model: RunSpec  # M_src
    target_model: RunSpec  # M_tgt, whose confusion was measured
    augmented_model: RunSpec  # M_aug
    confusion: RunSpec
    coarse_prediction: RunSpec  # by M_src on the target's train split
    reasoning: RunSpec
    setting: Setting
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class ChosenType:
    """What the prompt says of a target type."""

    name: str
    prefix: str  # short name of a source type
    is_default: bool  # of a type whose gold entities M_src has not recognised
    rivals: tuple[tuple[str, float], ...]  # (type, v_conf), strongest first


@dataclass(frozen=True, slots=True)
class Reasoned:
    request_id: str  # whose completion is used: the request asked, or a retry of it
    completion: Completion
    chain: ReasoningChain
    was_stored: bool  # nobody was asked
    seconds: float


@dataclass(frozen=True, slots=True)
class Found:
    """What one model finds in the sentence."""

    prediction: Predicted
    generation: Generation
    seconds_loading: float
    seconds_predicting: float


def load_method(store: Store, prediction_run: str) -> Method:
    """Follow a predict run's inputs. UsageError for reasoning that nobody was asked for here."""
    prediction = runs.load_run(store, prediction_run)
    reasoning = input_of(store, prediction, "reasoning")
    if settings_of(reasoning)["llm"]["backend"] == FROM_FILE:
        raise UsageError(
            f"The reasoning texts of run {prediction_run} come from a file: "
            "there is no LLM to ask about a new sentence."
        )
    confusion = input_of(store, reasoning, "confusion")
    coarse = input_of(store, confusion, "train_predictions")
    source_model = input_of(store, coarse, "model")
    return Method(
        prediction=prediction,
        source_model=source_model,
        target_model=input_of(store, input_of(store, confusion, "dev_predictions"), "model"),
        augmented_model=input_of(store, prediction, "model"),
        confusion=confusion,
        coarse_prediction=coarse,
        reasoning=reasoning,
        setting=settings_of(reasoning)["setting"],
        source=settings_of(input_of(store, source_model, "train"))["domain"],
        target=settings_of(input_of(store, prediction, "corpus"))["domain"],
    )


def method_experiment(method: Method, execution: Execution) -> Experiment:
    """The settings the method's runs were made with; a batch answers within a day, so nobody waits for one here."""
    return Experiment(
        name="explain",
        corpora=Corpora(source=method.source, target=method.target),
        backbone=BackboneChoice.model_validate(settings_of(method.augmented_model)["backbone"]),
        predict=Prediction.of_run(settings_of(method.prediction)["predict"]),
        evidence=Prediction.of_run(settings_of(method.coarse_prediction)["predict"]),
        reason=Reasoning.model_validate(
            {"retries": 0, **settings_of(method.reasoning)["llm"]}
        ),  # 0 is left out
        execution=execution.model_copy(update={"batch": False}),
        settings=(method.setting,),
    )


def check_models(method: Method, store: Store) -> None:
    """InputError for weights that are not there any more, before anything is loaded or asked."""
    models = (
        ("M_src", method.source_model, "without_all"),
        ("M_tgt", method.target_model, "without_all"),
        ("M_aug", method.augmented_model, method.setting),
    )
    for name, run, setting in models:
        check_model(name, run, store, setting=setting)


def check_model(name: str, run: RunSpec, store: Store, *, setting: str) -> None:
    """InputError for the weights of a train run that are not there."""
    if runs.run_state(store, run.run_id) == "done":
        checkpoint = stored_models.load_checkpoint(store, run.run_id)
        if stored_models.checkpoint_directory(store, checkpoint).is_dir():
            return
    raise InputError(
        f"The model {name} (run {run.run_id}) is not there: not trained, or its folder is gone. "
        f"Make it with: cdner train --force --setting {setting}, and the options or -e EXPERIMENT of that run."
    )


def changed_prompt(method: Method, context: Context) -> list[str]:
    """What the prompt is made of that is no longer as it was when the models were trained: names of settings."""
    return prompt_changes(settings_of(method.reasoning), context.experiment, context)


def chosen_types(method: Method, context: Context) -> tuple[ChosenType, ...]:
    """Prefixes and rivals as the quantify run found them, in type order."""
    hierarchy = load_hierarchy(context.store, method.confusion.run_id)
    rivals = stored_confusion.load_rivals(context.store, method.confusion.run_id)
    short = {entry.name: entry.short for entry in context.domain(method.source, "source").entries}
    rows = zip(hierarchy.ratios.gold_types, hierarchy.prefixes, hierarchy.flagged, strict=True)
    return tuple(ChosenType(name, short[prefix], flag, rivals.get(name, ())) for name, prefix, flag in rows)


def prompt_about(sentence: Sentence, method: Method, context: Context) -> ReasoningRequest:
    """What the LLM is asked."""
    return requests_about(
        [sentence.text],
        context,
        setting=method.setting,
        quantify_run=method.confusion.run_id,
        template=context.experiment.reason.template,
    )[0]


def reason_about(
    sentence: Sentence,
    method: Method,
    context: Context,
    *,
    weights: str | None = None,
    on_text: Callable[[str], None] | None = None,
) -> Reasoned:
    """The reasoning on a sentence: from the store where it has the answer, else asked for and stored.

    ``weights``: the folder of an LLM whose runs know it by its checksum alone; ``on_text`` hears the answer as it is
    written. BackendError where no answer comes, UsageError for a folder with other weights.
    """
    llm = _llm(method, context, weights)
    request = replace(prompt_about(sentence, method, context), on_text=on_text)
    defects = reasoning_defects(method.setting, structured=llm.structured)
    is_stored = not to_send(context, llm, [request], defects=defects)
    step = explain_step(request_id(llm.backend, context.model("llm", llm.model), request), method)
    started = time.monotonic()
    if is_stored or context.experiment.execution.replay:  # which refuses by itself: no run to record
        (answer,) = complete(step, context, llm, [request], defects=defects)
    else:
        if llm.model == settings_of(method.reasoning)["weights"] and _OPEN_WEIGHTS_MARK in llm.model:
            raise UsageError(
                f"Where do the weights {llm.model} lie, which wrote the reasoning? --model FOLDER."
            )
        execution = context.experiment.execution.identity()
        with recorded(
            context.store, runs.begin_attempt(context.store, step.spec, execution), context.progress
        ):
            (answer,) = complete(step, context, llm, [request], defects=defects)
            if isinstance(answer.outcome, Gap):
                raise BackendError(f"The LLM gave no answer: {answer.outcome.reason}.")
    completion = cast(Completion, answer.outcome)
    chain = parse_reasoning(completion.text, method.setting, structured=llm.structured)
    return Reasoned(answer.request_id, completion, chain, is_stored, time.monotonic() - started)


def explain_step(asked: str, method: Method) -> Step:
    """The run that asks about a sentence: as the reasoning run, but for what it reads.

    It names the request (``asked``), not the sentence: bundles are made of runs and hold no text of a corpus.
    """
    settings = {
        name: value for name, value in settings_of(method.reasoning).items() if name not in ("n", "roles")
    }
    settings |= {"request_id": asked, "roles": ["confusion"]}
    spec = run_spec("explain", EXPLAIN_VERSION, settings, (method.confusion.run_id,))
    return Step("explain", "explain", spec, {"confusion": "quantify:target"}, method.setting)


def find_entities(
    sentence: Sentence,
    model: RunSpec,
    context: Context,
    *,
    chain: ReasoningChain | None,
    settings: Prediction,
) -> Found:
    """Predict as the experiment did, with the model of a train run."""
    started = time.monotonic()
    checkpoint = stored_models.load_checkpoint(context.store, model.run_id)
    folder = stored_models.checkpoint_directory(context.store, checkpoint)
    backbone = context.models.predictor(settings, checked(folder, checkpoint.weights_sha256))
    loaded = time.monotonic()
    generations: list[Generation] = []
    predicted = predict_all(
        backbone,
        [sentence],
        [chain],
        types=tuple(settings_of(model)["types"]),
        context=context,
        settings=settings,
        keep=lambda _, __, generation: generations.append(generation),
    )
    return Found(predicted[0], generations[0], loaded - started, time.monotonic() - loaded)


def _llm(method: Method, context: Context, weights: str | None) -> Reasoning:
    llm, known = context.experiment.reason, settings_of(method.reasoning)["weights"]
    if weights is None:
        return llm
    if context.model("llm", weights) != known:
        raise UsageError(f"--model {weights}: the reasoning was written by {known}, these are other weights.")
    return llm.model_copy(update={"model": weights})
