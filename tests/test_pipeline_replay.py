"""A whole experiment on another machine without its LLM: fresh folder, corpora, a bundle, and the same tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipeline_experiments import CALLS, calls, cdner, copy_of, finished_store, sql, write_experiment

SETTINGS = ("without_all", "full")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("experiment"), name="shorter", settings=SETTINGS)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory, experiment: Path) -> Path:
    """A store whose experiment is done, beside other runs; its bundle and its table lie beside it."""
    folder = tmp_path_factory.mktemp("origin")
    store = copy_of(finished_store("seq2seq"), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CALLS, str(folder / "no-calls"))
        ran = cdner(store, "run", experiment, "--json")
        assert (ran.code, calls()) == (0, [])
    (folder / "table.json").write_text(ran.out)
    packed = cdner(store, "bundle", "pack", folder / "b.zip", "-e", experiment)
    assert packed.code == 0, packed.err
    return store


@pytest.mark.slow
@pytest.mark.parametrize("how", [("--backend", "replay"), ()], ids=["replay", "plain"])
def test_another_machine_repeats_every_stage_to_identical_tables(
    how: tuple[str, ...],
    origin: Path,
    experiment: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    store, bundle = tmp_path / "elsewhere" / "s.duckdb", origin.parent / "b.zip"
    store.parent.mkdir()
    assert cdner(store, "import", "demo").code == 0
    loaded = cdner(store, "bundle", "load", bundle)
    assert loaded.code == 0, loaded.err
    assert sql(store, "SELECT count(*) FROM prediction") == [(0,)]  # nothing but what the LLM wrote
    ran = cdner(store, "run", experiment, *how, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out) == json.loads((origin.parent / "table.json").read_text())
    assert calls() == []
    tables, hashes = zip(*(_hashes(path, experiment) for path in (origin, store)), strict=True)
    assert tables[0] == tables[1]
    assert hashes[0] == hashes[1]
    assert cdner(store, "store", "verify").code == 0
    again = cdner(store, "bundle", "pack", tmp_path / "again.zip", "-e", experiment)
    assert again.code == 0, again.err
    assert (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()


def _hashes(store: Path, experiment: Path) -> tuple[str, str]:
    tables = cdner(store, "store", "hash", "-e", experiment, "--tables", "--csv")
    whole = cdner(store, "store", "hash", "-e", experiment)
    assert (tables.code, whole.code) == (0, 0)
    return tables.out, whole.out
