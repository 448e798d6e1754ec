"""``--engine``: torch keeps every run id, each other engine is a run of its own, found and not made again."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline_experiments import CALLS, cdner, write_experiment

from cdner.config import Prediction, parse_experiment
from cdner.doctor import models
from cdner.errors import UsageError


def test_only_an_engine_that_is_not_torch_is_in_the_identity() -> None:
    before = {"decoding": "free", "max_new_tokens": 256}
    assert Prediction().identity_of("causal") == before
    stored = {**before, "engine": "ct2-int8"}  # as runs have called it since there is a choice
    assert Prediction(engine="int8").identity_of("causal") == stored
    assert Prediction.of_run(stored).engine == "int8"
    assert Prediction.of_run(before).engine == "torch"
    read = parse_experiment({"name": "x", "predict": {"engine": "int8"}}, where="here")
    assert (read.predict.engine, read.evidence.engine) == ("int8", "torch")


def test_an_engine_that_is_gone_says_what_to_use() -> None:
    for name, instead in (("ct2", "Leave it out, or say 'int8'"), ("ct2-int8", "is called 'int8' now")):
        with pytest.raises(UsageError, match=instead):
            parse_experiment({"name": "x", "predict": {"engine": name}}, where="here")
    with pytest.raises(UsageError, match="Make them again with --engine torch"):
        Prediction.of_run({"engine": "ct2"})


def test_predictions_of_each_engine_are_runs_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    experiment, store = (
        write_experiment(tmp_path, "causal", settings=["without_source"]),
        tmp_path / "s.duckdb",
    )
    verb = ("predict", "-e", experiment, "--setting", "without_source", "--split", "test", "--json")
    free = (*verb, "--decoding", "free")
    by_engine = {engine: cdner(store, *free, "--engine", engine) for engine in ("torch", "int8")}
    assert {ran.code for ran in by_engine.values()} == {0}, [ran.err for ran in by_engine.values()]
    run_ids = {engine: ran.rows[0]["run_id"] for engine, ran in by_engine.items()}
    assert len(set(run_ids.values())) == 2
    again = cdner(store, *free, "--engine", "int8").rows[0]
    assert (again["run_id"], again["state"]) == (run_ids["int8"], "found")
    assert cdner(store, *free).rows[0]["run_id"] == run_ids["torch"]
    texts = {engine: _texts(store, run_id) for engine, run_id in run_ids.items()}
    assert len(texts["int8"]) == len(texts["torch"]) == 4
    (conversion,) = (store.parent / "checkpoints").glob("*.ct2-*")
    assert (conversion / "model.bin").is_file()
    refused = cdner(store, *verb, "--engine", "int8")
    assert refused.code == 2
    assert "--decoding free, or --engine torch" in refused.err


def _texts(store: Path, run_id: str) -> list[tuple[object, ...]]:
    from cdner.store import Store

    with Store(store).reading() as connection:
        query = "SELECT * EXCLUDE (run_id) FROM prediction WHERE run_id = ? ORDER BY ALL"
        return connection.execute(query, [run_id]).fetchall()


def test_the_doctor_says_whether_the_package_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert models.ct2().state == "ok"
    monkeypatch.setattr(models, "ct2_is_installed", lambda: False)
    absent = models.ct2()
    assert (absent.state, absent.fix) == ("warning", "pip install 'cdner[ct2]'")
