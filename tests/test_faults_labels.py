"""Label sets at their limits through whole experiments: one type, two hundred, some that train or dev never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase

import pytest
from pipeline_experiments import CALLS, cdner, sql, write_experiment
from test_pipeline_corpora import WHOLE, write_splits

SETTINGS = ("without_all", "full")


@pytest.fixture(autouse=True)
def _log_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))


def sentences(types: Sequence[str]) -> str:
    """One sentence a type, each with an entity of two tokens."""
    return "".join(f"Adler\tB-{name}\nRohde\tI-{name}\nleft\tO\n\n" for name in types)


def finished(folder: Path, types: Mapping[str, Sequence[str]], *, labels: Sequence[str] = ()) -> Path:
    """The store of a whole experiment with these types in each split; ``labels``: the label set, if it has more."""
    store = folder / "s.duckdb"
    for file in write_splits(folder / "in", {split: sentences(found) for split, found in types.items()}):
        named = ("--types", ",".join(labels)) if labels else ()
        assert cdner(store, "import", "conll", file, "--domain", "ships", *named).code == 0
    experiment = write_experiment(folder, settings=SETTINGS)
    ran = cdner(store, "run", experiment, "--target", "ships", *WHOLE, "--n-examples", 0)
    assert ran.code == 0, ran.err
    return store


def shown(store: Path) -> None:
    """Its report and its map can be written, and it is sound."""
    files = ("--html", store.with_name("r.html"), "--latex", store.with_name("r.tex"))
    reported = cdner(store, "report", *files, "--resamples", 100)
    assert reported.code == 0, reported.err
    assert cdner(store, "confusion", "show", "--experiment", "tiny").code == 0
    assert cdner(store, "store", "verify").code == 0


def scored(store: Path, split: str) -> dict[str, int]:
    """Type -> gold entities, as the strict scores of ``full`` have it."""
    rows = sql(
        store,
        "SELECT entity_type, n_gold FROM score JOIN experiment_run USING (run_id)"
        f" WHERE metric_family = 'strict' AND label = 'evaluate:full/{split}'",
    )
    return dict(rows)


@pytest.mark.slow
def test_one_type_alone_has_no_rival_and_everything_else(tmp_path: Path) -> None:
    store = finished(tmp_path, dict.fromkeys(("train", "dev", "test"), ("ship", "ship")))
    shown(store)
    assert scored(store, "test") == {"*": 2, "macro": 2, "ship": 2}
    assert sql(store, "SELECT rank, rival FROM rival") == [(0, None)]
    assert sql(store, "SELECT DISTINCT score FROM confusion WHERE gold_type <> confused_type") == []


@pytest.mark.slow
def test_types_that_train_or_dev_never_saw_are_measured_as_far_as_it_goes(tmp_path: Path) -> None:
    types = {"train": ("ship", "harbour"), "dev": ("ship", "captain"), "test": ("harbour", "captain", "ship")}
    store = finished(tmp_path, types)
    shown(store)
    assert scored(store, "dev") == {"*": 2, "macro": 2, "ship": 1, "harbour": 0, "captain": 1}
    assert scored(store, "test") == {"*": 3, "macro": 3, "ship": 1, "harbour": 1, "captain": 1}
    prefixes = dict(sql(store, "SELECT DISTINCT gold_type, is_flagged FROM hierarchy_ratio"))
    assert set(prefixes) == {"ship", "harbour", "captain"} and prefixes["captain"]
    v_conf = sql(store, "SELECT count(*), round(sum(score), 6) FROM confusion WHERE dimension = 'v_conf'")
    assert v_conf == [(9, 6.0)]  # each of three rows sums to 2, whatever was never seen


@pytest.mark.slow
def test_two_hundred_types_go_all_the_way(tmp_path: Path) -> None:
    labels = [f"ship {first}{second}" for first in ascii_lowercase[:20] for second in ascii_lowercase[:10]]
    seen = dict.fromkeys(("train", "dev", "test"), labels[:2] + labels[-2:])
    store = finished(tmp_path, seen, labels=labels)
    shown(store)
    with_gold = {name: n for name, n in scored(store, "test").items() if n}
    assert with_gold == {"*": 4, "macro": 4, **dict.fromkeys(seen["test"], 1)}
    v_conf = "FROM confusion WHERE dimension = 'v_conf'"
    assert sql(store, f"SELECT count(*), count(DISTINCT gold_type) {v_conf}") == [(200 * 200, 200)]
    assert sql(store, "SELECT count(DISTINCT gold_type) FROM rival") == [(200,)]


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("*", "no type can be called '*', which names an average of scores"),
        ("macro", "no type can be called 'macro'"),
        ("\x1b[31mred", "the label '\\x1b[31mred' has characters that cannot be seen"),
        ("\u202eevil", "the label '\\u202eevil' has characters that cannot be seen"),
        ("\u200b", "the label '\\u200b' has characters that cannot be seen"),
    ],
)
def test_a_label_that_no_table_could_show_is_refused_before_anything_is_trained(
    label: str, told: str, tmp_path: Path
) -> None:
    files = write_splits(tmp_path / "in", {"train": sentences(("ship", label))})
    refused = cdner(tmp_path / "s.duckdb", "import", "conll", *files, "--domain", "ships")
    assert refused.code == 2
    assert f"Error: Domain 'ships': {told}" in refused.err
    assert not (tmp_path / "s.duckdb").exists()
