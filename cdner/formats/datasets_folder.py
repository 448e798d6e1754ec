"""A folder for Hugging Face ``datasets``: ``load_dataset(FOLDER)``, or ``load_dataset("json", data_dir=FOLDER)``.

The card (README.md) says which file is which split, and declares the tags as class labels in a fixed order.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

from cdner.errors import InputError
from cdner.files import Json, canonical_json
from cdner.formats.exported import ExportedCorpus, Sureness
from cdner.spans import entities_to_bio
from cdner.text import visible
from cdner.types import Entity

CARD = "README.md"
_TAGS = ("ner_tags", "predicted_ner_tags")
_MADE_BY = re.compile(r"\(run [0-9a-f]{6,64} of cdner\), \d+ sentences\.")
_SPLITS = {"train": "train", "dev": "validation", "test": "test"}  # what datasets calls it


def write_datasets_folder(exported: ExportedCorpus, path: Path) -> None:
    """``<split>.jsonl`` with id, tokens, ner_tags (gold) and predicted_ner_tags, and the card.

    Where the model says how sure it is, also predicted_scores and predicted_runners_up, beside predicted_ner_tags: of
    each token those of its entity, null outside of entities.
    InputError for a split that is none: it becomes a file's name, and a store may be anyone's.
    """
    split = _SPLITS.get(exported.split)
    if split is None:
        raise InputError(
            f"Run {exported.run_id}: {exported.split[:40]!r} is no split. Known: {', '.join(_SPLITS)}."
        )
    path.mkdir()
    has_scores = exported.has_scores
    with (path / f"{split}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for (position, sentence, predicted), sure in zip(exported.rows(), exported.sureness(), strict=True):
            n_tokens = len(sentence.tokens)
            row: dict[str, Json] = {
                "id": str(position),
                "tokens": list(sentence.tokens),
                "ner_tags": list(entities_to_bio(n_tokens, sentence.entities)),
                "predicted_ner_tags": list(entities_to_bio(n_tokens, predicted)),
            }
            if has_scores:
                row |= _scores(n_tokens, predicted, sure)
            file.write(f"{canonical_json(row)}\n")
    (path / CARD).write_text(_card(exported, split), encoding="utf-8", newline="\n")


def foreign_in_folder(path: Path) -> str:
    """The first file in a folder that ``write_datasets_folder`` did not write, by its content; empty without one."""
    own = {CARD, *(f"{split}.jsonl" for split in _SPLITS.values())}
    for file in sorted(path.iterdir()):
        if file.name not in own or file.is_symlink() or not file.is_file():
            return file.name
        if not (_is_card if file.name == CARD else _is_rows)(file):
            return file.name
    return ""


def _is_card(file: Path) -> bool:
    return bool(_MADE_BY.search(file.read_text(encoding="utf-8", errors="replace")))


def _is_rows(file: Path) -> bool:
    with file.open(encoding="utf-8", errors="replace") as lines:
        first = lines.readline()
    try:
        row = json.loads(first) if first else {}
    except ValueError:
        return False
    return not first or (isinstance(row, dict) and {"id", "tokens", *_TAGS} <= row.keys())


def _scores(n_tokens: int, predicted: Sequence[Entity], sure: Sequence[Sureness | None]) -> dict[str, Json]:
    scores: list[Json] = [None] * n_tokens
    runners_up: list[Json] = [None] * n_tokens
    for entity, said in zip(predicted, sure, strict=True):
        for token in range(entity.start, entity.end):
            scores[token] = None if said is None else said.score
            runners_up[token] = None if said is None else said.runner_up
    return {"predicted_scores": scores, "predicted_runners_up": runners_up}


def _card(exported: ExportedCorpus, split: str) -> str:
    tags = ["O", *(f"{prefix}-{name}" for name in exported.types for prefix in "BI")]
    labels = [
        f"          '{number}': {json.dumps(tag, ensure_ascii=False)}" for number, tag in enumerate(tags)
    ]
    tagged = ["    sequence:", "      class_label:", "        names:", *labels]
    front = [
        *("configs:", "- config_name: default", "  data_files:"),
        *(f"  - split: {split}", f"    path: {split}.jsonl"),
        *("dataset_info:", "  features:", "  - name: id", "    dtype: string"),
        *("  - name: tokens", "    sequence: string"),
        *("  - name: ner_tags", *tagged),
        *("  - name: predicted_ner_tags", *tagged),
    ]
    if exported.has_scores:
        front += ["  - name: predicted_scores", "    sequence: float64"]
        front += ["  - name: predicted_runners_up", "    sequence: string"]
    model = html.escape(visible(" ".join(exported.model.split())))
    text = (
        f"# {exported.domain}/{exported.split}\n\nGold tags and those predicted by {model} "
        f"(run {exported.run_id} of cdner), {len(exported.gold)} sentences.\n"
    )
    return "\n".join(["---", *front, "---", "", text])
