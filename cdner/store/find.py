"""Finds the run that a user means: by its id or a beginning of it, by its part in an experiment, or the latest.

Also finds the run whose model or predictions are meant, and reads a stored run as the step that it was: its settings,
and its inputs by role. Opens no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from cdner.config import PREDICTION_STEPS, Label, parts_of
from cdner.errors import InputError, UsageError, unknown_name
from cdner.store import runs
from cdner.store.connection import Store
from cdner.store.runs import RunSpec


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
        kind = Label.of(label).kind
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


def find_model_run(store: Store, name: str) -> str:
    """The train, predict or fuse run meant by ``EXPERIMENT:SETTING[/SPLIT]`` or a beginning of its id.

    An evaluate run stands for the predictions it scored. A fused setting has no model of its own: without a split it is
    the fuse run on test, or else on dev; both have the same weights. UsageError for what names none.
    """
    experiment, colon, label = name.rpartition(":")
    if colon:
        if parts_of(label).fused:
            return _find_fuse_run(store, experiment, label)
        if "/" not in label:
            return find_labelled_run(store, experiment, f"train:{label}")
        return find_prediction_run(store, name)
    with store.reading() as connection:
        steps = {
            step
            for (step,) in connection.execute(
                "SELECT DISTINCT step FROM run WHERE starts_with(run_id, ?)", [name]
            ).fetchall()
        }
    if "train" in steps and steps & {"predict", "fuse", "evaluate"}:
        raise UsageError(f"A train run and another begin with '{name}'. Give more of the id.")
    return find_run(store, name, step="train") if "train" in steps else find_prediction_run(store, name)


def _find_fuse_run(store: Store, experiment: str, setting: str) -> str:
    try:
        return find_labelled_run(store, experiment, f"fuse:{setting}/test")
    except UsageError as missing:
        try:
            return find_labelled_run(store, experiment, f"fuse:{setting}/dev")
        except UsageError:
            raise missing from None


def settings_of(run: RunSpec) -> Mapping[str, Any]:
    """As ``cdner.experiment.plan`` made them, with "roles"."""
    return cast(Mapping[str, Any], run.settings)


def has_input(run: RunSpec, role: str) -> bool:
    return role in settings_of(run)["roles"]


def input_of(store: Store, run: RunSpec, role: str) -> RunSpec:
    """ValueError where it has no input of this role."""
    return runs.load_run(store, run.inputs[settings_of(run)["roles"].index(role)])


_STEPS = (*PREDICTION_STEPS, "evaluate")


def find_prediction_run(store: Store, name: str) -> str:
    """The predict, extract or fuse run meant by ``EXPERIMENT:SETTING/SPLIT``, or by the unique beginning of a run id.

    An evaluate run stands for the predictions it scored. UsageError for what names none.
    """
    experiment, colon, label = name.rpartition(":")
    if colon:
        step = parts_of(label.partition("/")[0]).prediction_step
        return find_labelled_run(store, experiment, f"{step}:{label}")
    with store.reading() as connection:
        steps = {
            step
            for (step,) in connection.execute(
                "SELECT DISTINCT step FROM run WHERE starts_with(run_id, ?)", [name]
            ).fetchall()
        }
    meant = [step for step in _STEPS if step in steps]
    if len(meant) > 1:
        raise UsageError(f"A {meant[0]} and an {meant[-1]} run begin with '{name}'. Give more of the id.")
    run_id = find_run(store, name, step=meant[0] if meant else "predict")
    return _scored_predictions(store, run_id) if meant == ["evaluate"] else run_id


def _scored_predictions(store: Store, run_id: str) -> str:
    with store.reading() as connection:
        row = connection.execute(
            "SELECT input_run_id FROM run_input JOIN run ON run.run_id = input_run_id"
            " WHERE run_input.run_id = ? AND run.step IN (SELECT unnest(?)) ORDER BY run_input.position LIMIT 1",
            [run_id, list(PREDICTION_STEPS)],
        ).fetchone()
    if row is None:
        raise UsageError(f"Evaluate run {run_id} has no predictions in {store.path}. Name a predict run.")
    return str(row[0])
