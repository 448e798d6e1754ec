"""An experiment that varies something, as the list of its cells: plain experiments with a name each.

Knows nothing of plans or runs. That cells share the stages that are equal follows from run identities alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

from cdner.config import Axis, Experiment, merged, parse_experiment
from cdner.errors import UsageError
from cdner.foreign_settings import mark_base_urls, refuse_programs


def cells(experiment: Experiment) -> tuple[Experiment, ...]:
    """Every combination of the axes' values, the last axis fastest; the experiment itself if it varies nothing.

    A cell is called ``name[axis=value,...]`` and varies nothing. UsageError for a key that is no setting, a value
    that its key cannot take, or two axes with one name or key.
    """
    _refuse_overlap(experiment)
    return tuple(
        _cell(experiment, combination)
        for combination in product(
            *(tuple((axis, value) for value in axis.values) for axis in experiment.vary)
        )
    )


def with_profile(experiment: Experiment, profile: Mapping[str, object], *, name: str) -> Experiment:
    """The experiment on other means: a profile changes settings, and the values of axes the experiment has.

    ``profile`` is a table like an experiment's, with ``axes = {axis name: values}`` besides; axes the experiment does
    not have are left out, for one profile serves many. It is called ``experiment@name``. UsageError as for a file.
    """
    changes = dict(profile)
    values = changes.pop("axes", {})
    where = f"profile {name}"
    if not isinstance(values, Mapping):
        raise UsageError(f"{where}: 'axes' must be a table of axis name = values.")
    refuse_programs(changes, where=where)
    mark_base_urls(changes)
    table = merged(experiment.model_dump(mode="python"), changes)
    table["name"] = f"{experiment.name}@{name}"
    table["vary"] = tuple(
        {**axis.model_dump(mode="python"), "values": values.get(axis.name, axis.values)}
        for axis in experiment.vary
    )
    return parse_experiment(table, where=where)


def axes_of(name: str) -> tuple[str, dict[str, str]]:
    """``figure4@cpu[n_train=20,seed=0]`` -> ``figure4@cpu`` and what its axes are; a name without cells has none."""
    study, _, rest = name.partition("[")
    pairs = [part.partition("=") for part in rest.removesuffix("]").split(",") if "=" in part]
    return study, {axis: value for axis, _, value in pairs}


def _cell(experiment: Experiment, combination: tuple[tuple[Axis, object], ...]) -> Experiment:
    if not combination:
        return experiment
    table: dict[str, Any] = experiment.model_dump(mode="python", exclude={"vary"})
    for axis, value in combination:
        for key in axis.keys:
            _assign(table, key, value, where=f"{experiment.name}: vary '{axis.name}'")
    named = ",".join(f"{axis.name}={_shown(value)}" for axis, value in combination)
    table["name"] = f"{experiment.name}[{named}]"
    return parse_experiment(table, where=str(table["name"]))


def _assign(table: dict[str, Any], key: str, value: object, *, where: str) -> None:
    *path, last = key.split(".")
    for part in path:
        inner = table.get(part)
        if not isinstance(inner, Mapping):
            raise UsageError(f"{where}: '{key}' is no setting ('{part}' is no section).")
        table = inner  # type: ignore[assignment]  # model_dump gives dicts
    if last not in table:
        raise UsageError(f"{where}: '{key}' is no setting. Known here: {', '.join(sorted(table))}.")
    table[last] = value


def _shown(value: object) -> str:
    return "+".join(value) if isinstance(value, tuple) else str(value)


def _refuse_overlap(experiment: Experiment) -> None:
    names = [axis.name for axis in experiment.vary]
    keys = [key for axis in experiment.vary for key in axis.keys]
    for kind, given in (("name", names), ("key", keys)):
        twice = [value for value in given if given.count(value) > 1]
        if twice:
            raise UsageError(f"{experiment.name}: vary has the {kind} '{twice[0]}' twice.")
