"""JSON Lines: one object a sentence, with tokens, text, and both kinds of entities with all offsets."""

from __future__ import annotations

from pathlib import Path

from cdner.export.exported import ExportedCorpus, records
from cdner.hashing import Json, canonical_json


def write_json_lines(exported: ExportedCorpus, path: Path) -> None:
    """Keys: domain, split, run_id, position, text, tokens, gold, predicted."""
    head = {"domain": exported.domain, "split": exported.split, "run_id": exported.run_id}
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for position, sentence, predicted in exported.rows():
            row: dict[str, Json] = {
                **head,
                "position": position,
                "text": sentence.text,
                "tokens": list(sentence.tokens),
                "gold": records(sentence, sentence.entities),
                "predicted": records(sentence, predicted),
            }
            file.write(f"{canonical_json(row)}\n")
