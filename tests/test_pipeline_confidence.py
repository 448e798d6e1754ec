"""``predict.confidence`` from an experiment to what the store, an annotation and an export say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipeline_experiments import CALLS, cdner, write_experiment

from cdner.config import Prediction
from cdner.store import Store

ON = ("--set", "predict.confidence=true")


def test_only_a_prediction_that_says_how_sure_it_is_has_another_identity() -> None:
    assert Prediction(confidence=False).identity_of("causal") == {"decoding": "free", "max_new_tokens": 256}
    assert Prediction(confidence=True).identity_of("causal") == {
        **Prediction().identity_of("causal"),
        "confidence": True,
    }


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_the_entities_stay_and_each_gets_the_probability_of_every_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    experiment = write_experiment(tmp_path, family, settings=["without_source"])
    store = tmp_path / "s.duckdb"
    verb = ("predict", "-e", experiment, "--setting", "without_source", "--split", "test", "--json")
    without, sure = cdner(store, *verb), cdner(store, *verb, *ON)
    assert (without.code, sure.code) == (0, 0), (without.err, sure.err)
    assert "types scored with their mention" in sure.err
    assert "types scored" not in without.err
    run_ids = [ran.rows[0]["run_id"] for ran in (without, sure)]
    assert len(set(run_ids)) == 2
    entities = (
        "SELECT position, start_token, end_token, entity_type FROM predicted_entity "
        "WHERE run_id = ? ORDER BY ALL"
    )
    with Store(store).reading() as connection:
        spans = [connection.execute(entities, [run_id]).fetchall() for run_id in run_ids]
        rows = connection.execute(
            "SELECT position, start_token, end_token, entity_type, probability FROM type_probability "
            "WHERE run_id = ?",
            [run_ids[1]],
        ).fetchall()
        stored = connection.execute(
            "SELECT position, start_token, end_token, probability, runner_up FROM predicted_entity "
            "WHERE run_id = ? ORDER BY ALL",
            [run_ids[1]],
        ).fetchall()
        (trained,) = connection.execute("SELECT count(*) FROM run WHERE step = 'train'").fetchone() or (0,)
    assert trained == 1
    assert spans[0] == spans[1] != []
    by_span: dict[tuple[int, int, int], dict[str, float]] = {}
    for position, start, end, entity_type, probability in rows:
        by_span.setdefault((position, start, end), {})[entity_type] = probability
    assert set(by_span) == {span[:3] for span in spans[1]}
    assert all(sum(said.values()) == pytest.approx(1) for said in by_span.values())
    assert len({len(said) for said in by_span.values()}) == 1
    for position, start, end, probability, runner_up in stored:
        said = by_span[position, start, end]
        entity_type = next(span[3] for span in spans[1] if span[:3] == (position, start, end))
        assert probability == said[entity_type]
        assert said[runner_up] == max(p for name, p in said.items() if name != entity_type)
    _exported(store, run_ids[1], stored, tmp_path)
    _annotated(store, run_ids[0], stored, tmp_path)


def _exported(store: Path, run_id: str, stored: list[tuple], tmp_path: Path) -> None:
    assert cdner(store, "export", run_id, str(tmp_path / "x.jsonl"), "--to", "jsonl").code == 0
    found = [
        (row["position"], one["start_token"], one["end_token"], one["score"], one["runner_up"])
        for row in map(json.loads, (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines())
        for one in row["predicted"]
    ]
    assert sorted(found) == stored


def _annotated(store: Path, run_id: str, stored: list[tuple], tmp_path: Path) -> None:
    """The same sentences by the run that was made without: asked for, it says the same."""
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"n": line["position"], "tokens": line["tokens"]}) + "\n" for line in lines)
    )
    for flag, folder in ((("--confidence",), tmp_path / "with"), ((), tmp_path / "without")):
        ran = cdner(store, "annotate", str(rows), str(folder), "--run", run_id, *flag)
        assert ran.code == 0, ran.err
        found = [
            (row["n"], one["start_token"], one["end_token"], one.get("score"), one.get("runner_up"))
            for file in sorted(folder.glob("block-*"))
            for row in map(json.loads, file.read_text(encoding="utf-8").splitlines())
            for one in row["predicted"]
        ]
        assert [row[:3] for row in sorted(found)] == [row[:3] for row in stored]
        for row, expected in zip(sorted(found), stored, strict=True):
            if flag:
                assert row[3] == pytest.approx(expected[3], abs=1e-4)
            else:
                assert row[3:] == (None, None)


def test_an_engine_that_cannot_say_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    experiment = write_experiment(tmp_path, "causal", settings=["without_source"])
    verb = ("predict", "-e", experiment, "--setting", "without_source", "--split", "test")
    refused = cdner(tmp_path / "s.duckdb", *verb, "--decoding", "free", "--engine", "int8", *ON)
    assert refused.code == 2
    assert "does not say how sure" in refused.err
    assert not (tmp_path / "checkpoints").exists()
