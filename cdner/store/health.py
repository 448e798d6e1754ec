"""A look at a store that changes nothing: no migration, no repair, no waiting for whoever holds it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from cdner.store.connection import Store, opened
from cdner.store.migrations import schema_version
from cdner.store.origin import is_alive


@dataclass(frozen=True, slots=True)
class StoreHealth:
    schema_version: int
    n_runs: int
    n_running: int  # runs that a live process is executing
    abandoned: tuple[tuple[str, str], ...]  # (step, run id) of runs whose process is gone
    splits: dict[str, frozenset[str]]  # domain -> splits in the store


def examine(store: Store) -> StoreHealth:
    """StoreLockedError where another process holds it, StoreError for what is no store or cannot be opened."""
    with opened(store, read_only=True) as connection:
        version = schema_version(connection, store.path)
        n_runs = connection.execute("SELECT count(*) FROM run").fetchall()[0][0]
        running = connection.execute(
            """
            SELECT step, run_id, host, pid, process_start FROM run JOIN
              (FROM attempt QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY attempt_n DESC) = 1)
              USING (run_id)
            WHERE status = 'running' ORDER BY started_utc
            """
        ).fetchall()
        corpora = connection.execute("SELECT DISTINCT domain, split FROM corpus ORDER BY ALL").fetchall()
    abandoned = tuple((step, run_id) for step, run_id, *process in running if not is_alive(*process))
    splits: dict[str, set[str]] = defaultdict(set)
    for domain, split in corpora:
        splits[domain].add(split)
    by_domain = {domain: frozenset(found) for domain, found in splits.items()}
    return StoreHealth(version, n_runs, len(running) - len(abandoned), abandoned, by_domain)
