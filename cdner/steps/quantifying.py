"""The step quantify: confusion between target types (MCQM, equations 2 to 14), from predictions and embeddings."""

from __future__ import annotations

from dataclasses import replace

from cdner.config import Experiment
from cdner.confusion.mcqm import Quantification, transfer_evidence
from cdner.confusion.mcqm import quantify as measure_confusion
from cdner.errors import InputError
from cdner.files import Json
from cdner.steps.context import Context
from cdner.steps.protocol import StepKind
from cdner.steps.step import Step
from cdner.store import confusion as stored_confusion
from cdner.store import confusion as stored_descriptions
from cdner.store import predictions as stored_predictions
from cdner.store.confusion import Hierarchy, Ratios, save_hierarchy, save_misclassification
from cdner.types import Corpus, Domain, Prediction


def settings(experiment: Experiment, source: Domain, target: Domain) -> dict[str, Json]:
    """What identifies the measurement, beside its inputs."""
    return {
        "confusion": experiment.confusion.identity(),
        "source_types": list(source.types),
        "target_types": list(target.types),
    }


def quantify(step: Step, context: Context) -> None:
    """Eq. 2-14 from stored predictions and embeddings."""
    corpora = context.experiment.corpora
    source, target = context.domain(corpora.source, "source"), context.domain(corpora.target, "target")
    train, train_predictions = _predicted(step, context, "train", "train_predictions")
    dev, dev_predictions = _predicted(step, context, "dev", "dev_predictions")
    embedded, embeddings = stored_descriptions.load_embeddings(
        context.store, context.input_run(step, "embeddings")
    )
    if embedded != target.types:
        raise InputError(f"{step.label}: its embeddings are not of the types that {target.name} has now.")
    context.progress.start(step.label)
    evidence = transfer_evidence(
        source=source,
        target=target,
        train=train,
        train_predictions=train_predictions,
        dev=dev,
        dev_predictions=dev_predictions,
        description_embeddings=embeddings,
    )
    result = measure_confusion(evidence, context.experiment.confusion)
    _save(step.spec.run_id, result, context)


def _predicted(
    step: Step, context: Context, corpus_role: str, predictions_role: str
) -> tuple[Corpus, tuple[Prediction, ...]]:
    """The predicted part of a corpus with its predictions, in the corpus's order."""
    corpus = context.corpus_of(context.input_run(step, corpus_role))
    by_position = stored_predictions.load_predictions(
        context.store, context.input_run(step, predictions_role)
    )
    if not by_position:
        raise nothing_predicted(step)
    positions = sorted(by_position)
    kept = replace(corpus, sentences=tuple(corpus.sentences[position] for position in positions))
    return kept, tuple(by_position[position] for position in positions)


def nothing_predicted(step: Step) -> InputError:
    return InputError(f"{step.label}: its prediction run holds no prediction; run it again with --force.")


def _save(run_id: str, result: Quantification, context: Context) -> None:
    store, hierarchy, observed = context.store, result.hierarchy, result.misclassification
    ratios = Ratios(
        gold_types=hierarchy.target_types,
        predicted_types=hierarchy.source_types,
        ratios=hierarchy.ratio,
        n_gold=hierarchy.n_gold,
        n_predicted_as=hierarchy.counts,
        unrecognised=hierarchy.unrecognised,
    )
    names = tuple(prefix.name for prefix in result.prefixes)
    flagged = tuple(prefix.unrecognised for prefix in result.prefixes)
    save_hierarchy(store, run_id, Hierarchy(ratios, names, flagged))
    confused = Ratios(
        gold_types=observed.types,
        predicted_types=observed.types,
        ratios=observed.ratio,
        n_gold=observed.n_gold,
        n_predicted_as=observed.counts,
        unrecognised=observed.unrecognised,
    )
    save_misclassification(store, run_id, confused)
    stored_confusion.save_confusion(store, run_id, result.scores.matrices())
    rivals = dict(zip(observed.types, result.rivals, strict=True))
    stored_confusion.save_rivals(store, run_id, rivals)


KIND = StepKind("quantify", 1, quantify)
