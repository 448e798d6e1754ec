"""Checks the corpora of a bundle against the files they claim to be, and finds those that nobody can vouch for here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from cdner.bundle.rows import JsonRow, Rows
from cdner.errors import InputError
from cdner.steps.known_corpora import difference, known_checksum, own_reading
from cdner.types import Corpus, Entity, Sentence


def vouched_corpora(rows: Rows, *, where: Path) -> tuple[list[str], list[str]]:
    """(runs of corpora to take as imported, names of those that are to be read from their files first).

    InputError for a corpus that is not what its name and checksum say. A corpus whose name cdner knows is taken as
    imported only where the file is here; under any other name a corpus is what the bundle says.
    """
    settings = {row["run_id"]: (row["step"], row["settings"]) for row in rows["run"]}
    vouched, unread = [], []
    for index, row in enumerate(rows["corpus"]):
        domain, split, run_id = row["domain"], row["split"], row["run_id"]
        step, asked = settings[run_id]
        named = f"{where}: corpus.jsonl, row {index + 1}: {domain[:60]}/{split[:60]}"
        if step == "import" and (not isinstance(asked, dict) or _name(asked) != (domain, split)):
            raise InputError(f"{named} is stored for the import of another corpus.")
        expected = known_checksum(domain, split)
        if expected is None:
            vouched.append(run_id)
            continue
        if step == "import" and asked.get("sha256") != expected:
            raise InputError(
                f"{named} is not the one that cdner knows by checksum (SHA-256 {expected[:12]}...)."
            )
        own = own_reading(domain, split)
        if own is None:
            unread.append(f"{domain}/{split}")
            continue
        if differs := difference(_corpus(row, rows), own):
            raise InputError(f"{named} is not the file of that name: {differs}.")
        vouched.append(run_id)
    return vouched, unread


def _name(settings: Mapping[str, object]) -> tuple[object, object]:
    return settings.get("domain"), settings.get("split")


def _corpus(head: JsonRow, rows: Rows) -> Corpus:
    """The corpus that the rows make; a gap between its positions leaves it shorter than it should be."""
    run_id = head["run_id"]
    tokens = {row["sentence_id"]: tuple(row["tokens"]) for row in rows["sentence"]}
    entities: dict[int, list[Entity]] = defaultdict(list)
    for row in rows["gold_entity"]:
        if row["run_id"] == run_id:
            entities[row["position"]].append(Entity(row["start_token"], row["end_token"], row["entity_type"]))
    placed = {
        row["position"]: row["sentence_id"] for row in rows["corpus_sentence"] if row["run_id"] == run_id
    }
    sentences = tuple(
        Sentence(tokens[placed[position]], tuple(entities[position]))
        for position in range(len(placed))
        if position in placed
    )
    if beyond := entities.keys() - placed.keys():
        raise InputError(
            f"The corpus {run_id} has entities at position {min(beyond)}, where it has no sentence."
        )
    return Corpus(head["domain"], head["split"], sentences, head["n_repaired_tags"], tuple(head["types"]))
