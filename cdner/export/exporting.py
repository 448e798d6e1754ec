"""Predictions of a run in another tool's format: collects what is exported, and writes it all or nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

from cdner.errors import InputError, UsageError
from cdner.files import replacing
from cdner.formats import ExportedCorpus
from cdner.registry import resolve
from cdner.store import Store
from cdner.store import corpora as stored_corpora
from cdner.store import predictions as stored_predictions
from cdner.types import Prediction

Writer = Callable[[ExportedCorpus, Path], None]


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

    UsageError for an unknown format, a missing folder, and a target that exists, unless forced. A folder is replaced
    only by a folder, a file only by a file.
    """
    write = cast(Writer, resolve("export", to))
    if target.exists() and not force:
        raise UsageError(f"{target} exists. Name another, or use --force to replace it.")
    parent = target.absolute().parent
    if not parent.is_dir():
        raise UsageError(f"{target}: there is no such folder.")
    with replacing(target) as made:
        try:
            write(exported, made)
        except ModuleNotFoundError as error:
            raise UsageError(
                f"The format '{to}' needs a package that is not installed: {error}. pip install 'cdner[export]'."
            ) from error
        if target.exists():
            _demand_own(target, made)


def _demand_own(target: Path, made: Path) -> None:
    """UsageError unless the target is what an export may have written before."""
    kinds = {True: "folder", False: "file"}
    if made.is_dir() != target.is_dir():
        raise UsageError(
            f"{target} is a {kinds[target.is_dir()]}, not a {kinds[made.is_dir()]}: it is not replaced."
        )
    own = (".md", ".jsonl")
    if target.is_dir() and (
        foreign := sorted(path.name for path in target.iterdir() if path.suffix not in own)
    ):
        raise UsageError(f"{target} holds {foreign[0]}, which no export wrote: it is not replaced.")
