"""JSON Lines: one object a sentence, with tokens, text, and both kinds of entities with all offsets."""

from __future__ import annotations

from pathlib import Path

from cdner.files import Json, canonical_json
from cdner.formats.exported import ExportedCorpus, records


def write_json_lines(exported: ExportedCorpus, path: Path) -> None:
    """Keys: domain, split, run_id, position, text, tokens, gold, predicted.

    A predicted entity has a score and a runner_up where the model says how sure it is.
    """
    head = {"domain": exported.domain, "split": exported.split, "run_id": exported.run_id}
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for (position, sentence, predicted), sure in zip(exported.rows(), exported.sureness(), strict=True):
            row: dict[str, Json] = {
                **head,
                "position": position,
                "text": sentence.text,
                "tokens": list(sentence.tokens),
                "gold": records(sentence, sentence.entities),
                "predicted": records(sentence, predicted, sure),
            }
            file.write(f"{canonical_json(row)}\n")
