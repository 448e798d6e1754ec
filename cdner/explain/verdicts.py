"""One sentence through a fused setting: entities, nearest labelled mentions, the LLM's verdicts, the fused types.

Each question is stored as any completion, under a run of step "explain" of its own. Predictions are not stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cdner.config import BackboneChoice, Corpora, Execution, Experiment, Prediction, Setting
from cdner.experiment.execute import recorded
from cdner.experiment.judge_method import Asked, JudgeMethod, Questioner, fused, load_judge
from cdner.explain import explanation
from cdner.files import Json
from cdner.steps.asking import complete, to_send
from cdner.steps.context import Context
from cdner.steps.judging import read_verdict
from cdner.steps.step import Step
from cdner.store import Store, runs
from cdner.store.find import has_input, input_of, settings_of
from cdner.store.llm_log import request_id
from cdner.store.runs import RunSpec, run_spec
from cdner.store.verdicts import Verdict
from cdner.types import Completion, Entity, Sentence
from cdner.types import Prediction as Predicted


@dataclass(frozen=True, slots=True)
class FusedMethod:
    """The runs that one fused prediction was made with."""

    fuse: RunSpec
    judge: RunSpec
    prediction: RunSpec
    model: RunSpec  # whose entities are judged
    setting: Setting
    target: str
    reasoned: explanation.Method | None  # where the judged model reads reasoning texts


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer about one mention."""

    asked: Asked
    verdict: Verdict
    was_stored: bool  # the LLM was not asked


@dataclass(frozen=True, slots=True)
class Decision:
    """One mention with everything that is known about its type."""

    backbone: Entity
    p_backbone: Mapping[str, float]
    judged: Judged | None  # None: the model is sure enough (judge.share)
    fused: Entity
    p_fused: Mapping[str, float]


def load_fused_method(store: Store, fuse_run: str, *, setting: Setting) -> FusedMethod:
    """Follow a fuse run's inputs. UsageError for reasoning texts that no LLM can be asked for."""
    fuse = runs.load_run(store, fuse_run)
    prediction = input_of(store, fuse, "predictions")
    reads_texts = has_input(prediction, "reasoning")
    return FusedMethod(
        fuse=fuse,
        judge=input_of(store, fuse, "verdicts"),
        prediction=prediction,
        model=input_of(store, prediction, "model"),
        setting=setting,
        target=settings_of(input_of(store, fuse, "corpus"))["domain"],
        reasoned=explanation.load_method(store, prediction.run_id) if reads_texts else None,
    )


def fused_experiment(method: FusedMethod, execution: Execution) -> Experiment:
    """The settings the method's runs were made with."""
    if method.reasoned is not None:
        return explanation.method_experiment(method.reasoned, execution)
    return Experiment(
        name="explain",
        corpora=Corpora(target=method.target),
        backbone=BackboneChoice.model_validate(settings_of(method.model)["backbone"]),
        predict=Prediction.of_run(settings_of(method.prediction)["predict"]),
        execution=execution.model_copy(update={"batch": False}),
    )


def load_explained_judge(
    method: FusedMethod, context: Context, *, model: str | None, encoder: str | None
) -> tuple[JudgeMethod, list[str]]:
    """As ``load_judge``; ``model``: the folder of an LLM that the run knows by its checksum alone."""
    domain = context.domain(method.target, "target")
    llm = {} if model is None else {"model": model}
    return load_judge(context.store, method.fuse, domain, llm=llm, encoder=encoder)


def questions_about(
    sentence: Sentence, predicted: Predicted, judge: JudgeMethod, context: Context
) -> list[Asked]:
    """One for each mention to ask about; finds the nearest labelled mentions."""
    questioner = Questioner(
        judge, lambda weights: context.models.backbone(weights.choice, weights.checkpoint)
    )
    return questioner.questions([sentence], [predicted])


def judge_mentions(
    asked: Sequence[Asked], judge: JudgeMethod, method: FusedMethod, context: Context
) -> list[Judged]:
    """The verdict on each mention: from the store where it has the answer; all others are asked for together."""

    def no_defects(_: Completion) -> int:
        return 0

    if not asked:
        return []
    requests = [one.request for one in asked]
    ids = [request_id(judge.llm.backend, judge.weights, request) for request in requests]
    missing = to_send(context, judge.llm, requests, defects=no_defects)
    pending = [key for key, request in zip(ids, requests, strict=True) if request in missing]
    step = explain_step(pending or ids, method)
    if not pending or context.experiment.execution.replay:  # which refuses by itself: no run to record
        answers = complete(step, context, judge.llm, requests, defects=no_defects)
    else:
        execution = context.experiment.execution.identity()
        with recorded(
            context.store, runs.begin_attempt(context.store, step.spec, execution), context.progress
        ):
            answers = complete(step, context, judge.llm, requests, defects=no_defects)
    return [
        Judged(one, read_verdict(answer.request_id, answer.outcome, one.candidates), key not in pending)
        for one, key, answer in zip(asked, ids, answers, strict=True)
    ]


def explain_step(asked: Sequence[str], method: FusedMethod) -> Step:
    """The run that asks about mentions together. It names the requests (``asked``), not the sentence."""
    settings = {
        name: value
        for name, value in settings_of(method.judge).items()
        if name not in ("n", "n_train", "roles")
    }
    named: dict[str, Json] = {"request_id": asked[0]} if len(asked) == 1 else {"request_ids": list(asked)}
    settings |= {**named, "roles": ["model"]}
    spec = run_spec("explain", explanation.EXPLAIN_VERSION, settings, (method.model.run_id,))
    return Step("explain", "explain", spec, {"model": "train"}, method.setting)


def decisions(
    sentence: Sentence, predicted: Predicted, answers: Sequence[Judged], judge: JudgeMethod
) -> list[Decision]:
    """One for each predicted entity, in order."""
    by_mention = {one.asked.mention: one for one in answers}
    verdicts = {mention: one.verdict for mention, one in by_mention.items()}
    (decided,) = fused(judge, [sentence], [predicted], verdicts)
    by_span = {(mention.start, mention.end): one for mention, one in by_mention.items()}
    return [
        Decision(entity, p_backbone, by_span.get((entity.start, entity.end)), after, p_fused)
        for entity, p_backbone, after, p_fused in zip(
            predicted.entities,
            predicted.type_probabilities,
            decided.entities,
            decided.type_probabilities,
            strict=True,
        )
    ]
