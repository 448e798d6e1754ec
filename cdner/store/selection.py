"""Which runs and requests belong to an experiment: what a bundle packs and what a store's hash covers.

Knows no file format and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdner.errors import unknown_name

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@dataclass(frozen=True, slots=True)
class Selection:
    experiments: tuple[str, ...]  # empty: the whole store, but for sentences that were only explained
    run_ids: list[str]  # labelled runs and all that these were made from
    request_ids: list[str]  # all they asked, and retries: the same with another seed


# What 'cdner explain' asked, retries too, is no part of any experiment, unless a run has used it since.
_ALL_BUT_EXPLAINED = """
    WITH used AS (
        SELECT request_id FROM reasoning
        UNION
        SELECT request_id FROM type_description WHERE request_id IS NOT NULL
        UNION
        SELECT request_id FROM judged_mention WHERE request_id IS NOT NULL
        UNION
        SELECT request_id FROM completion JOIN run ON run.run_id = asked_by WHERE step <> 'explain'
    ),
    explained AS (
        SELECT settings ->> 'request_id' AS request_id FROM run WHERE step = 'explain'
        UNION
        SELECT unnest(from_json(settings -> 'request_ids', '["VARCHAR"]')) FROM run WHERE step = 'explain'
    )
    SELECT request_id FROM request
    WHERE request_id IN (SELECT request_id FROM used)
       OR prompt_hash NOT IN (SELECT prompt_hash FROM request JOIN explained USING (request_id))
    ORDER BY request_id
"""


def select(connection: DuckDBPyConnection, experiments: Sequence[str] = ()) -> Selection:
    """Sorted and without repetition. UsageError for an experiment that labels no run of the store."""
    if not experiments:
        runs = connection.execute("SELECT run_id FROM run WHERE step <> 'explain' ORDER BY run_id").fetchall()
        requests = connection.execute(_ALL_BUT_EXPLAINED).fetchall()
        return Selection((), [name for (name,) in runs], [name for (name,) in requests])
    rows = connection.execute("SELECT DISTINCT experiment FROM experiment_run").fetchall()
    known = [name for (name,) in rows]
    for experiment in experiments:
        if experiment not in known:
            raise unknown_name("experiment in the store", experiment, known)
    labelled = connection.execute(
        "SELECT DISTINCT run_id FROM experiment_run WHERE experiment IN (SELECT unnest(?))",
        [list(experiments)],
    ).fetchall()
    run_ids = with_ancestors(connection, [name for (name,) in labelled])
    return Selection(tuple(sorted(set(experiments))), run_ids, _requests_of(connection, run_ids))


def with_ancestors(connection: DuckDBPyConnection, run_ids: Sequence[str]) -> list[str]:
    """These runs and all they were made from, as far as the store has them (a label may name a planned run)."""
    rows = connection.execute(
        """
        WITH RECURSIVE wanted(run_id) AS (
            SELECT unnest(?)
            UNION
            SELECT input_run_id FROM run_input JOIN wanted USING (run_id)
        )
        SELECT run_id FROM wanted JOIN run USING (run_id) ORDER BY run_id
        """,
        [list(run_ids)],
    ).fetchall()
    return [name for (name,) in rows]


def _requests_of(connection: DuckDBPyConnection, run_ids: list[str]) -> list[str]:
    """A retry asks the same with another seed and temperature; a replay walks the same way, so it needs them all."""
    rows = connection.execute(
        """
        WITH asked AS (
            SELECT request_id FROM reasoning WHERE run_id IN (SELECT unnest($runs))
            UNION
            SELECT request_id FROM type_description WHERE run_id IN (SELECT unnest($runs))
            UNION
            SELECT request_id FROM judged_mention WHERE run_id IN (SELECT unnest($runs))
            UNION
            SELECT request_id FROM completion WHERE asked_by IN (SELECT unnest($runs))
        ),
        question AS (
            SELECT request_id, backend_family, model, prompt_hash, coalesce(response_schema, '') AS wanted_form,
                   json_merge_patch(sampling, '{"seed": null, "temperature": null}')::VARCHAR AS other_sampling
            FROM request
        )
        SELECT DISTINCT other.request_id
        FROM asked
        JOIN question USING (request_id)
        JOIN question AS other
          USING (backend_family, model, prompt_hash, wanted_form, other_sampling)
        ORDER BY other.request_id
        """,
        {"runs": run_ids},
    ).fetchall()
    return [name for (name,) in rows]
