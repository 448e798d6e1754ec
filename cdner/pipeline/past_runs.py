"""A stored run read as the step that it was: its settings, and its inputs by the role each plays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from cdner.store import Store, runs
from cdner.store.runs import RunSpec


def settings_of(run: RunSpec) -> Mapping[str, Any]:
    """As ``cdner.pipeline.plan`` made them, with "roles"."""
    return cast(Mapping[str, Any], run.settings)


def has_input(run: RunSpec, role: str) -> bool:
    return role in settings_of(run)["roles"]


def input_of(store: Store, run: RunSpec, role: str) -> RunSpec:
    """ValueError where it has no input of this role."""
    return runs.load_run(store, run.inputs[settings_of(run)["roles"].index(role)])
