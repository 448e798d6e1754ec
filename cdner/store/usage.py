"""What runs have asked of LLMs and what it took: the view ``llm_usage`` as values.

The view joins every request with its answers, which takes half a gigabyte at a million: runs of that size end with
an account that needs no join.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cdner.store.connection import Store
from cdner.store.rows import passing_by

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

JOINED = 20_000  # texts or calls of a run, up to which its account joins them with their requests
_SIZE = """
    SELECT greatest((SELECT count(*) FROM completion WHERE asked_by = $run),
                    (SELECT count(*) FROM reasoning WHERE run_id = $run))
"""
_MANY_COLUMNS = 32_000  # for ``passing_by``, 16 MB more: sums read up to seven columns at once
# One after another, and none with a join: a run's size is no matter then.
_SUMS = (
    """
    SELECT count(*) AS n_calls, coalesce(sum(n_input_tokens), 0)::BIGINT AS n_input_tokens,
           coalesce(sum(n_cached_tokens), 0)::BIGINT AS n_cached_tokens,
           sum(n_cached_tokens) / nullif(sum(n_input_tokens), 0) AS cached_share,
           coalesce(sum(n_output_tokens), 0)::BIGINT AS n_output_tokens,
           sum(cost_usd) AS cost_usd, sum(seconds) AS call_seconds,
           max(epoch(created_utc)) - min(epoch(created_utc) - coalesce(seconds, 0)) AS wall_seconds
    FROM completion WHERE asked_by = $run
    """,
    "SELECT histogram(finish_reason) AS finish_reasons FROM completion WHERE asked_by = $run",
    """
    SELECT count(*) FILTER (gap_reason IS NOT NULL) AS n_gaps,
           count(*) FILTER (malformed::VARCHAR <> '{}') AS n_malformed,
           count(*) FILTER (json_exists(malformed, '$.missing_initial')
                            OR json_exists(malformed, '$.missing_bidirectional')) AS n_parse_failures
    FROM reasoning WHERE run_id = $run
    """,
    """
    SELECT $run AS run_id, backend_family, model FROM request
    WHERE backend_family <> 'file'
      AND request_id = coalesce((SELECT min(request_id) FROM completion WHERE asked_by = $run),
                                (SELECT min(request_id) FROM reasoning WHERE run_id = $run))
    """,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What one run's calls of one model took and what its texts lack; columns of the view ``llm_usage``."""

    run_id: str
    backend_family: str
    model: str
    n_calls: int
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmUsage:
    """A whole row of the view: the account, and what is known only with the requests."""

    account: Account
    split: str | None
    n_requests: int
    n_answered: int
    n_reused: int
    n_retries: int


def load_usage(store: Store, run_ids: Collection[str]) -> dict[str, list[LlmUsage]]:
    """Run id -> its usage, one entry a model; runs that asked nothing are left out. Empty without a store."""
    if not (run_ids and store.path.exists()):
        return {}
    joined = [name for name in LlmUsage.__dataclass_fields__ if name != "account"]
    columns = (*Account.__dataclass_fields__, *joined)
    statement = f"""
        SELECT {", ".join(columns)} FROM llm_usage WHERE run_id IN (SELECT unnest(?))
        ORDER BY run_id, backend_family, model
    """  # noqa: S608  our own names
    with store.reading() as connection:
        rows = connection.execute(statement, [list(run_ids)]).fetchall()
    found: dict[str, list[LlmUsage]] = {}
    for row in rows:
        account = _account(dict(zip(Account.__dataclass_fields__, row, strict=False)))
        usage = LlmUsage(account=account, **dict(zip(joined, row[-len(joined) :], strict=True)))
        found.setdefault(account.run_id, []).append(usage)
    return found


def load_accounts(store: Store, run_ids: Collection[str]) -> dict[str, list[LlmUsage] | list[Account]]:
    """``load_usage``, without what only the requests tell where one of the runs has more than ``JOINED``."""
    if not (run_ids and store.path.exists()):
        return {}
    with store.reading() as connection:
        with passing_by(connection, _MANY_COLUMNS):
            is_large = max(_n_joined(connection, run_id) for run_id in run_ids) > JOINED
        if not is_large:
            return {**load_usage(store, run_ids)}
        with passing_by(connection, _MANY_COLUMNS):
            sums = [_summed(connection, run_id) for run_id in run_ids]
    return {found["run_id"]: [_account(found)] for found in sums if "run_id" in found}


def _summed(connection: DuckDBPyConnection, run_id: str) -> dict[str, Any]:
    """The columns of an account; no ``run_id`` among them where the run has asked nothing."""
    found: dict[str, Any] = {}
    for statement in _SUMS:
        rows = connection.execute(statement, {"run": run_id})
        names = [column[0] for column in rows.description or ()]
        found |= dict(zip(names, rows.fetchone() or (), strict=False))
    return found


def _n_joined(connection: DuckDBPyConnection, run_id: str) -> int:
    ((n_joined,),) = connection.execute(_SIZE, {"run": run_id}).fetchall()
    return int(n_joined)


def _account(values: Mapping[str, Any]) -> Account:
    return Account(**{**values, "finish_reasons": dict(values["finish_reasons"] or {})})
