"""A trained model as a folder of its own: weights, tokenizer, types, settings, and a card for people.

The folder is a transformers checkpoint with ``recognizer.json`` and ``README.md`` beside the weights. It needs no
store. Only models that work without an LLM are written: the prompts of the others are made from a store.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cdner.annotate.method import Method
from cdner.config import BackboneChoice, Execution, Experiment, Prediction
from cdner.errors import InputError, ModelError, UsageError
from cdner.files import output
from cdner.models.weights import weights_sha256
from cdner.store import Store
from cdner.text import visible
from cdner.version import __version__

SETTINGS = "recognizer.json"
CARD = "README.md"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Card:
    """What the card says of a model, read from the store."""

    corpora: Sequence[tuple[str, str, int, str]]  # domain, split, sentences, checksum of what was imported
    scores: Sequence[
        tuple[str, str, float, float, float]
    ]  # domain, split, precision, recall, F1: exact spans and types
    confused: Sequence[tuple[str, str, int, int]]  # gold type, predicted type, how often, of how many


def write_model_folder(method: Method, card: Card, folder: Path) -> None:
    """Write the folder all at once. Raises UsageError if it exists, or for a model that needs an LLM."""
    if method.asking is not None or method.judge is not None:
        raise UsageError(
            "This setting asks an LLM with prompts that are made from the store: it cannot be saved as a folder. "
            "Save the setting without_all, or keep the store."
        )
    if folder.exists():
        raise UsageError(f"{folder} exists. Name another folder.")
    with output(folder, force=False, foreign_in=lambda _: "files") as made:
        shutil.copytree(method.checkpoint, made)
        settings = {
            "format": FORMAT,
            "cdner": __version__,
            "run_id": method.model_run,
            "weights_sha256": method.weights_sha256,
            "types": list(method.types),
            "backbone": method.experiment.backbone.model_dump(mode="json"),
            "predict": method.experiment.predict.model_dump(mode="json"),
        }
        (made / SETTINGS).write_text(
            json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        (made / CARD).write_text(_card(method, card), encoding="utf-8")


def read_model_folder(folder: Path, execution: Execution) -> Method:
    """The method of a saved model. Raises InputError for another folder, ModelError for changed weights."""
    try:
        settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        if settings["format"] != FORMAT:
            raise InputError(
                f"{folder} was written by cdner {settings['cdner']} in a form that this one does not read."
            )
        experiment = Experiment(
            name="saved",
            backbone=BackboneChoice.model_validate(settings["backbone"]),
            predict=Prediction.model_validate(settings["predict"]),
            execution=execution,
        )
        types, run_id, sha256 = (
            tuple(map(str, settings["types"])),
            str(settings["run_id"]),
            settings["weights_sha256"],
        )
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise InputError(f"{folder} is not a saved recognizer: {type(error).__name__}: {error}.") from error
    if weights_sha256(folder) != sha256:
        raise ModelError(
            f"The weights in {folder} are not those that were saved (SHA-256 {str(sha256)[:12]}...)."
        )
    return Method(run_id, folder, str(sha256), types, experiment, None)


def read_card(store: Store, model_run: str) -> Card:
    """Corpora, scores and confused types of the model of a train run."""
    with store.reading() as connection:
        corpora = connection.execute(
            "SELECT domain, split, (SELECT count(*) FROM training_sentence WHERE training_sentence.run_id = $run"
            " AND corpus_run_id = corpus.run_id), corpus.run_id FROM corpus WHERE run_id IN"
            " (SELECT input_run_id FROM run_input WHERE run_id = $run) ORDER BY 1, 2",
            {"run": model_run},
        ).fetchall()
        scores = connection.execute(
            "SELECT DISTINCT domain, split, precision, recall, f1 FROM score"
            " WHERE metric_family = 'strict' AND entity_type = '*' AND run_id IN ("
            "  SELECT of_scores.run_id FROM run_input AS of_scores JOIN run_input AS of_predictions"
            "  ON of_predictions.run_id = of_scores.input_run_id WHERE of_predictions.input_run_id = $run)"
            " ORDER BY 1, 2, 3",
            {"run": model_run},
        ).fetchall()
        confused = connection.execute(
            "SELECT gold_type, predicted_type, n_confused, n_gold FROM most_confused WHERE run_id IN"
            " (SELECT run_id FROM run_input WHERE input_run_id = $run) AND split = 'dev' AND rank <= 10 ORDER BY rank",
            {"run": model_run},
        ).fetchall()
    return Card(corpora, scores, confused)


def _card(method: Method, card: Card) -> str:
    backbone = method.experiment.backbone
    parts = [
        "# A named entity recognizer",
        f"Made with cdner {__version__}: `{backbone.family}` on `{visible(backbone.model)}`, run `{method.model_run}`.",
        '```python\nfrom cdner import Recognizer\n\nRecognizer.load_folder("THIS FOLDER").predict("A sentence.")\n```',
        f"Types: {', '.join(f'`{visible(name)}`' for name in method.types)}.",
        _table("Corpora", ("domain", "split", "trained on", "import run"), card.corpora),
        _table(
            "Scores, exact spans and types, percent",
            ("domain", "split", "precision", "recall", "F1"),
            [
                (domain, split, *(f"{100 * figure:.2f}" for figure in figures))
                for domain, split, *figures in card.scores
            ],
        ),
        _table("Most confused types on dev", ("gold", "predicted", "times", "of"), card.confused),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return ""
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += [
        "| " + " | ".join(visible(str(cell)).replace("|", "\\|") for cell in row) + " |" for row in rows
    ]
    return f"## {title}\n\n" + "\n".join(lines)
