"""Predictions of a run in another tool's format: collects what is exported, and writes it all or nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

from cdner.errors import InputError, UsageError
from cdner.files import output
from cdner.formats import ExportedCorpus
from cdner.formats.datasets_folder import foreign_in_folder
from cdner.registry import resolve
from cdner.store import Store
from cdner.store import corpora as stored_corpora
from cdner.store import predictions as stored_predictions
from cdner.types import Prediction

Writer = Callable[[ExportedCorpus, Path], None]
# Of the formats that are folders: the name of a file that no export wrote.
_FOREIGN_IN: dict[str, Callable[[Path], str]] = {"datasets": foreign_in_folder}


def load_exported(store: Store, run_id: str, *, model: str = "") -> ExportedCorpus:
    """The sentences a prediction run has predicted, with both kinds of entities. InputError when it has none."""
    corpus_run = stored_predictions.predicted_corpus(store, run_id)
    corpus = stored_corpora.load_corpus(store, corpus_run)
    predictions = _with_probabilities(store, run_id)
    if not predictions:
        raise InputError(f"Run {run_id} holds no prediction: run it again.")
    gold = tuple(corpus.sentences[position] for position in predictions)
    found = tuple(predictions.values())
    declared = stored_corpora.load_domain(store, corpus_run).types
    met = {entity.type for sentence in gold for entity in sentence.entities}
    met |= {entity.type for prediction in found for entity in prediction.entities}
    return ExportedCorpus(
        run_id=run_id,
        model=model or run_id,
        domain=corpus.domain,
        split=corpus.split,
        types=(*declared, *sorted(met - set(declared))),
        positions=tuple(predictions),
        gold=gold,
        predictions=found,
    )


def _with_probabilities(store: Store, run_id: str) -> dict[int, Prediction]:
    """Predictions by position, each entity with its distribution over types where the model says."""
    predictions = stored_predictions.load_predictions(store, run_id)
    for position, by_span in stored_predictions.load_type_probabilities(store, run_id).items():
        found = predictions[position]
        said = tuple(by_span.get((entity.start, entity.end), {}) for entity in found.entities)
        predictions[position] = replace(found, type_probabilities=said)
    return predictions


def export(exported: ExportedCorpus, target: Path, *, to: str, force: bool = False) -> None:
    """Write a file or folder; it appears when it is whole.

    UsageError for an unknown format and as ``cdner.files.output``: with ``force`` a file is replaced by a file, and an
    earlier export's folder by a folder.
    """
    write = cast(Writer, resolve("export", to))
    with output(target, force=force, foreign_in=_FOREIGN_IN.get(to)) as made:
        try:
            write(exported, made)
        except ModuleNotFoundError as error:
            raise UsageError(
                f"The format '{to}' needs a package that is not installed: {error}. pip install 'cdner[export]'."
            ) from error
