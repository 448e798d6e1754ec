"""Reasoning texts that came from a file: requests of family "file", whose model ends in the file's checksum.

Nobody here knows the prompt such a text answered, so its request is the sentence alone. With the completions it is
all that is needed to read the texts again where the file is gone.
"""

from __future__ import annotations

from cdner.store.connection import Store

FAMILY = "file"
CHECKSUM_DIGITS = 12  # of the file's SHA-256, as in the name of any other weights


def model_in_store(model: str, sha256: str) -> str:
    """``gpt-4o-mini@0123456789ab``: who wrote the texts, and the file they came in."""
    return f"{model}@{sha256[:CHECKSUM_DIGITS]}"


def models_of_file(store: Store, sha256: str) -> list[str]:
    """Every model (as stored) with texts from the file; empty without a store."""
    if not store.path.exists():
        return []
    with store.reading() as connection:
        rows = connection.execute(
            "SELECT DISTINCT model FROM request WHERE backend_family = ? AND ends_with(model, ?) ORDER BY model",
            [FAMILY, f"@{sha256[:CHECKSUM_DIGITS]}"],
        ).fetchall()
    return [name for (name,) in rows]
