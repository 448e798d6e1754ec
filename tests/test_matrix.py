"""An experiment that varies is the product of its axes."""

from __future__ import annotations

import pytest

from cdner.config import Experiment, parse_experiment
from cdner.errors import UsageError
from cdner.matrix import cells, with_profile


def _experiment(*axes: dict[str, object]) -> Experiment:
    return parse_experiment({"name": "table", "vary": axes}, where="test")


TARGET = {"name": "target", "keys": ("corpora.target",), "values": ("ai", "music")}
SEED = {"name": "seed", "keys": ("train_target.seed", "train_augmented.seed"), "values": (0, 1, 2)}


def test_every_combination_is_one_cell_and_the_last_axis_is_fastest() -> None:
    found = cells(_experiment(TARGET, SEED))
    assert [cell.name for cell in found][:4] == [
        "table[target=ai,seed=0]",
        "table[target=ai,seed=1]",
        "table[target=ai,seed=2]",
        "table[target=music,seed=0]",
    ]
    assert [(c.corpora.target, c.train_target.seed, c.train_augmented.seed) for c in found] == [
        (target, seed, seed) for target in ("ai", "music") for seed in (0, 1, 2)
    ]
    assert all(cell.vary == () and cell.train_source.seed == 0 for cell in found)


def test_nothing_varied_is_the_experiment_itself() -> None:
    experiment = _experiment()
    assert cells(experiment) == (experiment,)


def test_an_axis_may_vary_a_tuple() -> None:
    (only, both) = cells(
        _experiment({"name": "s", "keys": ("settings",), "values": (("full",), ("full", "without_all"))})
    )
    assert (only.settings, both.settings) == (("full",), ("full", "without_all"))
    assert both.name == "table[s=full+without_all]"


@pytest.mark.parametrize(
    ("axis", "complaint"),
    [
        (
            {"name": "a", "keys": ("corpora.tagret",), "values": ("ai",)},
            "'corpora.tagret' is no setting. Known",
        ),
        ({"name": "a", "keys": ("name.x",), "values": ("ai",)}, "'name' is no section"),
        (
            {"name": "a", "keys": ("train_target.epochs",), "values": ("many",)},
            r"table\[target=ai,a=many\]: 'train_target",
        ),
        ({"name": "target", "keys": ("corpora.source",), "values": ("x",)}, "the name 'target' twice"),
        ({"name": "b", "keys": ("corpora.target",), "values": ("x",)}, "the key 'corpora.target' twice"),
    ],
)
def test_an_axis_that_cannot_be_is_refused_by_name(axis: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        cells(_experiment(TARGET, axis))


def test_a_profile_changes_settings_and_the_axes_there_are() -> None:
    profile = {"axes": {"target": ("ai",), "shots": (5,)}, "train_target": {"epochs": 2}, "splits": ("test",)}
    small = with_profile(_experiment(TARGET, SEED), profile, name="cpu")
    assert [(axis.name, axis.values) for axis in small.vary] == [("target", ("ai",)), ("seed", (0, 1, 2))]
    assert (small.train_target.epochs, small.train_augmented.epochs, small.splits) == (2, 10, ("test",))
    assert cells(small)[0].name == "table@cpu[target=ai,seed=0]"
    with pytest.raises(UsageError, match="profile cpu: unknown key 'train_tagret'"):
        with_profile(_experiment(), {"train_tagret": {}}, name="cpu")
    with pytest.raises(UsageError, match="profile cpu: 'axes' must be a table"):
        with_profile(_experiment(), {"axes": ("ai",)}, name="cpu")
