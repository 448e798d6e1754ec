"""LLM requests, their completions, the reasoning texts parsed from them, and what they cost.

Completions are data, not a cache: they are stored as they arrive, shared by every run with the same request, never
deleted, and all that an offline replay needs. Message texts are stored once each: a fixed prompt is one row.

A text from a file is a completion of the backend "file", whose model ends in the checksum of the file. Its prompt is
not known, so its request is the sentence alone.

The view ``llm_usage`` adds up what runs have asked. It joins every request with its answers, which takes half a
gigabyte at a million; runs of that size end with an account that needs no join.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

from cdner.errors import StoreError
from cdner.files import Json, canonical_json, content_hash
from cdner.store.connection import Store, rows_of_run
from cdner.store.migrations import utc_now
from cdner.store.rows import Row, insert_rows, passing_by
from cdner.types import Completion, Gap, Message, ReasoningChain, ReasoningRequest, Sampling

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


_COMPLETION_COLUMNS = (
    "request_id attempt_n text finish_reason n_input_tokens n_cached_tokens n_output_tokens created_utc"
    " asked_by seconds cost_usd"
)


def template_id(name: str, text: str) -> str:
    """Identity of a template: the content hash of its name and text."""
    return content_hash({"name": name, "text": text})


def request_id(family: str, model: str, request: ReasoningRequest) -> str:
    """Identity of a request: backend family, model (with revision), messages, sampling and schema."""
    return content_hash(
        {
            "family": family,
            "model": model,
            "messages": _messages(request),
            "sampling": _sampling(request.sampling),
            "schema": request.schema,
        }
    )


def save_template(store: Store, name: str, text: str) -> str:
    """Store a template as it is now and return its id."""
    identity = template_id(name, text)
    with store.transaction() as connection:
        columns = ("template_id", "name", "text")
        insert_rows(connection, "template", columns, [(identity, name, text)], on_conflict="ignore")
    return identity


def save_requests(store: Store, family: str, model: str, requests: Sequence[ReasoningRequest]) -> list[str]:
    """Store requests before they are sent; their ids, in order. Known ones are left as they are."""
    ids = [request_id(family, model, request) for request in requests]
    by_id = dict(zip(ids, requests, strict=True))
    texts = {message.content for request in by_id.values() for message in request.messages}
    text_ids = {text: content_hash(text) for text in texts}
    with store.transaction() as connection:
        columns: tuple[str, ...] = ("text_id", "text")
        rows: list[Row] = [(name, text) for text, name in text_ids.items()]
        insert_rows(connection, "prompt_text", columns, rows, unless_known=("text_id",))
        columns = ("request_id", "backend_family", "model", "sampling", "response_schema", "prompt_hash")
        rows = [(name, family, model, *_request_row(request)) for name, request in by_id.items()]
        insert_rows(connection, "request", columns, rows, unless_known=("request_id",))
        columns = ("request_id", "position", "role", "text_id")
        rows = [
            (name, position, message.role, text_ids[message.content])
            for name, request in by_id.items()
            for position, message in enumerate(request.messages)
        ]
        insert_rows(connection, "request_message", columns, rows, unless_known=("request_id", "position"))
    return ids


def load_request(store: Store, identity: str) -> tuple[str, str, ReasoningRequest]:
    """(backend family, model, request). StoreError when the store has no such request."""
    with store.reading() as connection:
        row = connection.execute(
            "SELECT backend_family, model, sampling, response_schema FROM request WHERE request_id = ?",
            [identity],
        ).fetchone()
        messages = connection.execute(
            "SELECT role, text FROM request_message JOIN prompt_text USING (text_id)"
            " WHERE request_id = ? ORDER BY position",
            [identity],
        ).fetchall()
    if row is None:
        raise StoreError(f"No request {identity} in {store.path}.")
    return row[0], row[1], request_of_rows(messages, row[2], row[3])


def request_of_rows(
    messages: Sequence[tuple[str, str]], sampling: str, schema: str | None
) -> ReasoningRequest:
    """The request of its stored parts: (role, text) in order, sampling as JSON, schema."""
    values = json.loads(sampling)
    values["stop"] = tuple(values["stop"])
    if "choices" in values:
        values["choices"] = tuple(values["choices"])
    return ReasoningRequest(
        tuple(Message(role, text) for role, text in messages),  # type: ignore[arg-type]  # roles came from Message
        Sampling(**values),
        schema,
    )


def save_completions(store: Store, run_id: str, completions: Sequence[tuple[str, Completion]]) -> None:
    """Add (request id, completion) as they arrive; another answer is kept beside the earlier ones.

    ``run_id`` is the run that made the call: others use the answer, it alone pays.
    Lone surrogates, which some servers let through, become U+FFFD: they are no text a database could hold.
    """
    with store.transaction() as connection:
        with passing_by(connection, len(completions)):
            known = connection.execute(
                "SELECT request_id, max(attempt_n) FROM completion"
                " WHERE request_id IN (SELECT unnest(?)) GROUP BY ALL",
                [[name for name, _ in completions]],
            ).fetchall()
        n_attempts = dict(known)
        rows: list[Row] = []
        for name, completion in completions:
            n_attempts[name] = n_attempts.get(name, 0) + 1
            rows.append(
                (
                    *(name, n_attempts[name], _storable(completion.text), completion.finish_reason),
                    *(completion.input_tokens, completion.cached_tokens, completion.output_tokens),
                    *(utc_now(), run_id, completion.seconds, completion.cost_usd),
                )
            )
        insert_rows(connection, "completion", _COMPLETION_COLUMNS.split(), rows)


def load_completions(store: Store, request_ids: Collection[str]) -> dict[str, Completion]:
    """Request id -> its latest completion, for those that have one; empty without a store."""
    if not store.path.exists():
        return {}
    with store.reading() as connection:
        # Found by the id alone, then fetched by row id: else the texts of all completions are read, too.
        with passing_by(connection, len(request_ids)):
            found = connection.execute(
                "SELECT arg_max(rowid, attempt_n) FROM completion WHERE request_id IN (SELECT unnest(?))"
                " GROUP BY request_id",
                [list(request_ids)],
            ).fetchall()
        rows = connection.execute(
            """
            SELECT request_id, text, finish_reason, n_input_tokens, n_cached_tokens, n_output_tokens,
                   coalesce(seconds, 0), cost_usd
            FROM completion WHERE rowid IN (SELECT unnest(?))
            """,
            [[row for (row,) in found]],
        ).fetchall()
    return {row[0]: Completion(*row[1:]) for row in rows}


def save_reasoning(store: Store, run_id: str, items: Sequence[tuple[int, str, ReasoningChain | Gap]]) -> None:
    """Store (position, request id, outcome); a position again replaces what it had."""
    rows: list[Row] = []
    for position, name, outcome in items:
        if isinstance(outcome, Gap):
            rows.append((run_id, position, name, "", "", "{}", _storable(outcome.reason)))
        else:
            texts = (_storable(outcome.initial), _storable(outcome.bidirectional))
            rows.append((run_id, position, name, *texts, canonical_json(outcome.malformed), None))
    with store.transaction() as connection:
        columns = ("run_id", "position", "request_id", "initial", "bidirectional", "malformed", "gap_reason")
        insert_rows(connection, "reasoning", columns, rows, on_conflict="replace")


def load_reasoning(
    store: Store, run_id: str, positions: Sequence[int] | None = None
) -> dict[int, ReasoningChain]:
    """Position (of these, None: all) -> reasoning, ascending; gaps are left out."""
    columns = ("position", "initial", "bidirectional", "malformed", "gap_reason")
    rows = rows_of_run(store, "reasoning", columns, run_id, order="position", positions=positions)
    return {row[0]: ReasoningChain(row[1], row[2], json.loads(row[3])) for row in rows if row[4] is None}


def reasoned_positions(store: Store, run_id: str) -> set[int]:
    """The positions that have a reasoning text."""
    rows = rows_of_run(store, "reasoning", ("position", "gap_reason"), run_id, order="position")
    return {position for position, reason in rows if reason is None}


def load_gaps(store: Store, run_id: str) -> dict[int, str]:
    """Position -> why its reasoning is missing."""
    rows = rows_of_run(store, "reasoning", ("position", "gap_reason"), run_id, order="position")
    return {position: reason for position, reason in rows if reason is not None}


def load_gap_requests(store: Store, run_id: str) -> dict[str, str]:
    """Request id -> why the run went on without its answer."""
    rows = rows_of_run(store, "reasoning", ("request_id", "gap_reason"), run_id, order="position")
    return {name: reason for name, reason in rows if reason is not None}


def _messages(request: ReasoningRequest) -> list[Json]:
    return [{"role": message.role, "content": message.content} for message in request.messages]


def _sampling(sampling: Sampling) -> Json:
    """As it enters the identity: 0 and 0.0 are one temperature."""
    values = asdict(sampling)
    values["temperature"] = float(sampling.temperature)
    values["top_p"] = float(sampling.top_p)
    if not sampling.choices:  # requests made before there were choices keep their identity
        del values["choices"]
    if sampling.n_choosings == 1:  # likewise
        del values["n_choosings"]
    return cast(Json, values)


def _request_row(request: ReasoningRequest) -> Row:
    return (canonical_json(_sampling(request.sampling)), request.schema, content_hash(_messages(request)))


def _storable(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


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
