"""What runs have asked of LLMs and what it took: the view ``llm_usage`` as values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cdner.store.connection import Store


@dataclass(frozen=True, slots=True)
class LlmUsage:
    """One run with one model; every column means what the view ``llm_usage`` says."""

    run_id: str
    backend_family: str
    model: str
    split: str | None
    n_requests: int
    n_answered: int
    n_reused: int
    n_calls: int
    n_retries: int
    n_input_tokens: int
    n_cached_tokens: int
    cached_share: float | None
    n_output_tokens: int
    cost_usd: float | None
    call_seconds: float | None
    wall_seconds: float | None
    n_gaps: int
    n_malformed: int
    n_parse_failures: int
    finish_reasons: Mapping[str, int]


def load_usage(store: Store, run_ids: Collection[str]) -> dict[str, list[LlmUsage]]:
    """Run id -> its usage, one entry a model; runs that asked nothing are left out. Empty without a store."""
    if not store.path.exists():
        return {}
    columns = tuple(LlmUsage.__dataclass_fields__)
    statement = f"""
        SELECT {", ".join(columns)} FROM llm_usage WHERE run_id IN (SELECT unnest(?))
        ORDER BY run_id, backend_family, model
    """  # noqa: S608  our own names
    with store.reading() as connection:
        rows = connection.execute(statement, [list(run_ids)]).fetchall()
    found: dict[str, list[LlmUsage]] = {}
    for row in rows:
        values = dict(zip(columns, row, strict=True))
        values["finish_reasons"] = dict(values["finish_reasons"] or {})
        found.setdefault(values["run_id"], []).append(LlmUsage(**values))
    return found
