"""Finds the run whose model a user means, by the model itself or by predictions made with it. Opens no weights."""

from __future__ import annotations

from cdner.config import FUSED_OF
from cdner.errors import UsageError
from cdner.store.compared_runs import find_prediction_run
from cdner.store.connection import Store
from cdner.store.lookup import find_labelled_run, find_run


def find_model_run(store: Store, name: str) -> str:
    """The train, predict or fuse run meant by ``EXPERIMENT:SETTING[/SPLIT]`` or a beginning of its id.

    An evaluate run stands for the predictions it scored. A fused setting has no model of its own: without a split it is
    the fuse run on test, or else on dev; both have the same weights. UsageError for what names none.
    """
    experiment, colon, label = name.rpartition(":")
    if colon:
        if label in FUSED_OF:
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
