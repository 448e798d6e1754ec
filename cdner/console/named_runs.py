"""Options that name a run or an experiment, as stored ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdner.errors import UsageError

if TYPE_CHECKING:
    from cdner.store import Store


def chosen_run(store: Store, run_id: str | None, experiment: str | None, *, step: str, label: str) -> str:
    """The run named by its id (or a unique beginning), or by its part in an experiment; never by both."""
    from cdner.store.find import find_labelled_run, find_run

    if (run_id is None) == (experiment is None):
        raise UsageError(f"Name one {step} run: RUN_ID (see 'cdner runs --step {step}') or --experiment.")
    if run_id is not None:
        return find_run(store, run_id, step=step)
    return find_labelled_run(store, experiment_name(experiment or ""), label)


def experiment_name(experiment: str) -> str:
    """The name in an experiment file; anything else is the name already."""
    if not experiment.endswith(".toml"):
        return experiment
    from cdner.console.experiment_options import find_experiment

    return find_experiment(experiment).name
