"""A whole experiment on another machine without its LLM: fresh folder, corpora, a bundle, and the same tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipeline_experiments import (
    CALLS,
    GAPS,
    calls,
    cdner,
    copy_of,
    dump,
    finished_store,
    sql,
    write_experiment,
)

from cdner.store import Store

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


def test_a_replay_goes_without_what_the_run_went_without(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a bundle, which brings gaps but no attempts: the run is to be made, and nobody can be asked."""
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    store = copy_of(finished_store("seq2seq"), tmp_path / "copy")
    command = ("reason", "-e", experiment, "--split", "test", "--set", "reason.seed=7", "--json")
    allowed = (*command, "--set", "execution.max_gaps=1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(GAPS, _first_test_sentence(store))
        asked = cdner(store, *allowed)
    assert (asked.code, len(calls())) == (0, 4), asked.err
    (run,) = asked.rows
    before = dump(store, tables=("reasoning",))
    _forget_attempts(store, run["run_id"])
    refused = cdner(store, *command, "--backend", "replay")
    assert refused.code == 3
    assert "the server was busy (1)" in refused.err
    assert "--set execution.max_gaps=1" in refused.err
    replayed = cdner(store, *allowed, "--backend", "replay")
    assert replayed.code == 0, replayed.err
    assert replayed.rows[0]["state"] == "done"
    assert len(calls()) == 4
    assert dump(store, tables=("reasoning",)) == before


def test_what_no_run_recorded_as_a_gap_is_still_missing(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    store = copy_of(finished_store("seq2seq"), tmp_path / "copy")
    command = ("reason", "-e", experiment, "--split", "test", "--set", "reason.seed=7", "--json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(GAPS, _first_test_sentence(store))
        (run,) = cdner(store, *command, "--set", "execution.max_gaps=1").rows
    _forget_attempts(store, run["run_id"])
    with Store(store).transaction() as connection:
        connection.execute("DELETE FROM reasoning WHERE gap_reason IS NOT NULL")
    replayed = cdner(store, *command, "--set", "execution.max_gaps=1", "--backend", "replay")
    assert replayed.code == 1
    assert "1 of 1 completions are not in the store" in replayed.err


def _first_test_sentence(store: Path) -> str:
    ((text,),) = sql(
        store,
        "SELECT text FROM reasoning JOIN experiment_run USING (run_id) JOIN run_input USING (run_id)"
        " JOIN corpus_sentence ON corpus_sentence.run_id = input_run_id"
        " AND corpus_sentence.position = reasoning.position JOIN sentence USING (sentence_id)"
        " WHERE label = 'reason:full/test' AND experiment = 'tiny' ORDER BY reasoning.position LIMIT 1",
    )
    return str(text)


def _forget_attempts(store: Path, run_id: str) -> None:
    with Store(store).transaction() as connection:
        connection.execute("DELETE FROM attempt WHERE run_id = ?", [run_id])


def _hashes(store: Path, experiment: Path) -> tuple[str, str]:
    tables = cdner(store, "store", "hash", "-e", experiment, "--tables", "--csv")
    whole = cdner(store, "store", "hash", "-e", experiment)
    assert (tables.code, whole.code) == (0, 0)
    return tables.out, whole.out


def test_a_replay_keeps_the_texts_that_a_bundle_brought_whatever_would_be_asked_now(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model trained on another processor may confuse other types: another prompt, which nobody has answered."""
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    store = copy_of(finished_store("seq2seq"), tmp_path / "copy")
    command = ("reason", "-e", experiment, "--split", "test", "--backend", "replay", "--json")
    (run,) = cdner(store, *command).rows
    _forget_attempts(store, run["run_id"])
    with Store(store).transaction() as connection:
        connection.execute("DELETE FROM completion")
    before = dump(store, tables=("reasoning",))
    replayed = cdner(store, *command)
    assert (replayed.code, calls()) == (0, []), replayed.err
    assert [row["state"] for row in replayed.rows] == ["done"]
    assert dump(store, tables=("reasoning",)) == before
    planned = cdner(store, "run", experiment, "--backend", "replay", "--dry-run", "--json").rows
    assert {row["llm_calls"] for row in planned if row["step"].startswith("reason:")} == {0}
