"""Finds the run a user means: by its id or a unique beginning of it, by its part in an experiment, or the latest.

Also the names types go by around a run. What a run is and how it ended is the matter of ``cdner.store.runs``.
"""

from __future__ import annotations

from cdner.errors import InputError, UsageError, unknown_name
from cdner.store.connection import Store


def find_run(store: Store, beginning: str, *, step: str) -> str:
    """The one run of this step whose id begins so. UsageError for none, for several, and for another step's."""
    with store.reading() as connection:
        rows = connection.execute(
            "SELECT run_id, step FROM run WHERE starts_with(run_id, ?) ORDER BY run_id", [beginning]
        ).fetchall()
    found = [run_id for run_id, run_step in rows if run_step == step]
    if len(found) == 1:
        return str(found[0])
    if found:
        raise UsageError(
            f"{len(found)} {step} runs begin with '{beginning}': {', '.join(found[:5])}. Give more of the id."
        )
    if len(rows) == 1:
        raise UsageError(f"Run {rows[0][0]} is of step {rows[0][1]}; this needs a {step} run.")
    raise UsageError(f"No {step} run begins with '{beginning}'. 'cdner runs --step {step}' lists them.")


def find_labelled_run(store: Store, experiment: str, label: str) -> str:
    """The run that plays this part in an experiment; the latest labelled, where settings have changed since.

    UsageError for an unknown experiment or label.
    """
    with store.reading() as connection:
        labels = dict(
            connection.execute(
                "SELECT label, run_id FROM experiment_run WHERE experiment = ? ORDER BY labelled_utc, run_id",
                [experiment],
            ).fetchall()
        )
        known = connection.execute("SELECT DISTINCT experiment FROM experiment_run").fetchall()
    if not labels:
        raise unknown_name("experiment in the store", experiment, [name for (name,) in known])
    if label not in labels:
        kind = label.partition(":")[0]
        raise unknown_name(
            f"step of experiment '{experiment}'",
            label,
            [name for name in labels if name.startswith(kind)] or labels,
        )
    return str(labels[label])


def latest_run(store: Store, step: str, *, domain: str | None = None) -> str:
    """The run of this step that was finished last, optionally of those that read a corpus of ``domain``.

    InputError when there is none, UsageError for a domain without a corpus in the store.
    """
    with store.reading() as connection:
        rows = connection.execute(
            """
            SELECT run_id FROM latest_attempt
            WHERE step = $step AND status = 'done' AND ($domain IS NULL OR run_id IN
                  (SELECT run_input.run_id FROM run_input JOIN corpus ON corpus.run_id = input_run_id
                   WHERE corpus.domain = $domain))
            ORDER BY finished_utc DESC, run_id LIMIT 1
            """,
            {"step": step, "domain": domain},
        ).fetchall()
        domains = [name for (name,) in connection.execute("SELECT DISTINCT domain FROM corpus").fetchall()]
    if rows:
        return str(rows[0][0])
    if domain is not None and domain not in domains:
        raise unknown_name("domain in the store", domain, domains)
    of_domain = f" for '{domain}'" if domain else ""
    raise InputError(f"The store has no finished {step} run{of_domain}. Make one with 'cdner {step}'.")


def short_names(store: Store, run_id: str, types: tuple[str, ...]) -> dict[str, str]:
    """Type -> short name (``person`` -> ``PER``) in the corpus with exactly these types that the run descends
    from; the type's own name where there is no such corpus or it has none.
    """
    with store.reading() as connection:
        rows = connection.execute(
            """
            SELECT entity_type, short FROM lineage JOIN domain_type ON domain_type.run_id = ancestor_run_id
            WHERE lineage.run_id = $run_id AND ancestor_run_id IN
                  (SELECT run_id FROM domain_type GROUP BY run_id
                   HAVING list_sort(list(entity_type)) = list_sort($types::VARCHAR[]))
            ORDER BY ancestor_run_id, domain_type.position
            """,
            {"run_id": run_id, "types": list(types)},
        ).fetchall()
    named = {entity_type: short for entity_type, short in rows if short}
    return {name: named.get(name, name) for name in types}


def predictable_types(store: Store, run_id: str) -> tuple[str, ...]:
    """The label set of the corpus a prediction run read, in its order."""
    with store.reading() as connection:
        rows = connection.execute(
            "SELECT entity_type FROM domain_type JOIN prediction_corpus"
            " ON prediction_corpus.corpus_run_id = domain_type.run_id"
            " WHERE prediction_corpus.run_id = ? ORDER BY domain_type.position",
            [run_id],
        ).fetchall()
    return tuple(name for (name,) in rows)
