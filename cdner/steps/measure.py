"""The steps that count: quantify (MCQM) and evaluate. No model is loaded, so both take seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cdner.confusion.mcqm import Quantification, transfer_evidence
from cdner.confusion.mcqm import quantify as measure_confusion
from cdner.errors import InputError
from cdner.evaluate import ErrorRow, evaluate_parts
from cdner.steps.context import Context
from cdner.steps.step import Step
from cdner.steps.windows import EVALUATED, windows
from cdner.store import confusion as stored_confusion
from cdner.store import confusion as stored_descriptions
from cdner.store import predictions as stored_predictions
from cdner.store import scores as stored_scores
from cdner.store.confusion import Hierarchy, Ratios, save_hierarchy, save_misclassification
from cdner.store.corpora import CorpusHead, load_head, load_sentences
from cdner.types import Corpus, Prediction, Sentence


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
        raise InputError(f"{step.label}: its embeddings are of other types than {target.name} has now.")
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


def evaluate(step: Step, context: Context) -> None:
    """Scores and error counts of one setting's predictions on one split."""
    corpus = load_head(context.store, context.input_run(step, "corpus"))
    types = context.domain(context.experiment.corpora.target, "target").types
    unknown = sorted(set(corpus.types) - set(types))
    if unknown:
        raise InputError(
            f"{step.label}: {corpus.domain}/{corpus.split} has labels that train and dev do not have: "
            f"{', '.join(unknown)}. Import train again with all labels named: --types A,B,..."
        )
    context.progress.start(step.label)
    found = evaluate_parts(_parts(step, context), types)
    stored_scores.save_scores(
        context.store,
        step.spec.run_id,
        [
            stored_scores.ScoreRow(
                domain=corpus.domain,
                split=corpus.split,
                metric_family=row.metric,
                entity_type=row.entity_type,
                n_gold=row.n_gold,
                n_predicted=row.n_predicted,
                n_correct=row.n_correct,
                precision=row.precision,
                recall=row.recall,
                f1=row.f1,
            )
            for row in found.scores
        ],
        errors=[_error_row(row, corpus) for row in found.errors],
    )


def _parts(step: Step, context: Context) -> Iterator[tuple[list[Sentence], list[Prediction]]]:
    """The predicted part of a corpus with its predictions, in the corpus's order, a window at a time."""
    corpus_run, run_id = context.input_run(step, "corpus"), context.input_run(step, "predictions")
    n_sentences, n_predicted = load_head(context.store, corpus_run).n_sentences, 0
    for window in windows(range(n_sentences), EVALUATED):
        predictions = stored_predictions.load_predictions(context.store, run_id, window)
        n_predicted += len(predictions)
        yield load_sentences(context.store, corpus_run, list(predictions)), list(predictions.values())
    if not n_predicted:
        raise _nothing_predicted(step)


def _nothing_predicted(step: Step) -> InputError:
    return InputError(f"{step.label}: its prediction run holds no prediction; run it again with --force.")


def _error_row(row: ErrorRow, corpus: CorpusHead) -> stored_scores.ErrorRow:
    return stored_scores.ErrorRow(
        domain=corpus.domain,
        split=corpus.split,
        entity_type=row.entity_type,
        n_gold=row.n_gold,
        n_missed=row.n_missed,
        n_boundary=row.n_boundary,
        n_misclassified=row.n_misclassified,
        n_spurious=row.n_spurious,
    )


def _predicted(
    step: Step, context: Context, corpus_role: str, predictions_role: str
) -> tuple[Corpus, tuple[Prediction, ...]]:
    """The predicted part of a corpus with its predictions, in the corpus's order."""
    corpus = context.corpus_of(context.input_run(step, corpus_role))
    by_position = stored_predictions.load_predictions(
        context.store, context.input_run(step, predictions_role)
    )
    if not by_position:
        raise _nothing_predicted(step)
    positions = sorted(by_position)
    kept = replace(corpus, sentences=tuple(corpus.sentences[position] for position in positions))
    return kept, tuple(by_position[position] for position in positions)
