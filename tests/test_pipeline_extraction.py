"""The LLM alone: its own entities are predictions like a backbone's, scored by the same evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipeline_experiments import N_TEST, cdner, sql, write_experiment

ANSWERS = [
    {"match": "Type to explain", "text": "A kind of thing with a name."},
    {"match": "NOTHING", "text": "never matches"},
]


def _script(folder: Path, entities: str) -> Path:
    """Answers every sentence with the same reasoning and entities."""
    text = f"Initial Reasoning: It has a name.\nBidirectional Reasoning: One, not the other.\nEntities: {entities}"
    path = folder / "script.jsonl"
    lines = [*ANSWERS, {"match": "", "text": text}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def _run(folder: Path, entities: str) -> tuple[Path, list[dict[str, object]]]:
    experiment = write_experiment(folder, settings=("llm_only",))
    options = ("--backend", "scripted", "--model", _script(folder, entities))
    options = (*options, "--set", "reason.structured=false", "--set", 'splits=["test"]')
    ran = cdner(folder / "s.duckdb", "run", experiment, *options, "--json")
    assert ran.code == 0, ran.err
    return folder / "s.duckdb", ran.rows


@pytest.mark.slow
def test_the_llms_entities_are_predictions_and_are_scored(tmp_path: Path) -> None:
    gold = "SELECT DISTINCT g.entity_type, g.mention FROM gold_entity g JOIN prediction p USING (position) "
    gold += "JOIN run ON run.run_id = p.run_id WHERE step = 'extract' AND g.run_id IN "
    gold += "(SELECT input_run_id FROM run_input WHERE run_id = p.run_id)"
    first = tmp_path / "first"
    first.mkdir()
    store, rows = _run(first, "{}")
    assert [(row["setting"], row["split"], row["strict_f1"]) for row in rows] == [("llm_only", "test", 0.0)]
    wanted: dict[str, list[str]] = {}
    for entity_type, mention in sql(store, gold):
        wanted.setdefault(entity_type, []).append(mention)
    assert wanted

    second = tmp_path / "second"
    second.mkdir()
    store, rows = _run(second, json.dumps(wanted))
    assert [(row["strict_recall"], row["span_f1"]) for row in rows] == [(100.0, rows[0]["span_f1"])]
    malformed = sql(store, "SELECT malformed FROM prediction JOIN run USING (run_id) WHERE step = 'extract'")
    assert len(malformed) == N_TEST  # what one sentence has, the others have not: dropped and counted
    assert all("ungrounded_mention" in json.loads(row[0]) for row in malformed)
    ((said,),) = sql(store, "SELECT message FROM attempt_warning WHERE message LIKE 'extract%'")
    assert said.startswith("extract:llm_only/test: ") and "mentions were dropped, because" in said
    assert sql(store, "SELECT count(*) FROM run WHERE step = 'reason'") == [(0,)]
    kept = (
        "SELECT DISTINCT initial, bidirectional FROM reasoning JOIN run USING (run_id) WHERE step = 'extract'"
    )
    assert sql(store, kept) == [("It has a name.", "One, not the other.")]
    usage = sql(store, "SELECT n_calls FROM llm_usage JOIN run USING (run_id) WHERE step = 'extract'")
    assert usage == [(N_TEST,)]
    assert cdner(store, "store", "verify").code == 0


def test_the_llm_alone_may_write_more_than_a_reasoning_text(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, settings=("llm_only", "full"))
    store = tmp_path / "s.duckdb"
    options = ("--backend", "scripted", "--model", _script(tmp_path, "{}"), "--set", 'splits=["test"]')
    options = (*options, "--set", "reason.structured=false", "--set", "reason.max_tokens=96")

    def run_ids(*more: str) -> dict[str, str]:
        plan = cdner(store, "run", experiment, *options, *more, "--dry-run", "--json")
        assert plan.code == 0, plan.err
        return {row["step"]: row["run_id"] for row in plan.rows}

    as_before, longer = run_ids(), run_ids("--set", "extract.max_tokens=300")
    differing = {label for label in as_before if as_before[label] != longer[label]}
    assert differing == {"extract:llm_only/test", "evaluate:llm_only/test"}

    assert cdner(store, "run", experiment, *options, "--set", "extract.max_tokens=300").code == 0
    bounds = (
        "SELECT DISTINCT step, CAST(sampling ->> 'max_tokens' AS INTEGER) FROM reasoning "
        "JOIN run USING (run_id) JOIN request USING (request_id) ORDER BY step"
    )
    assert sql(store, bounds) == [("extract", 300), ("reason", 96)]


def test_only_an_llm_can_be_alone(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, settings=("llm_only",))
    store = tmp_path / "s.duckdb"
    texts = ("--set", "reason.backend=file", "--set", f"reason.model={experiment}")
    refused = cdner(store, "run", experiment, *texts)
    assert refused.code == 2 and "'llm_only' asks an LLM" in refused.err
    train = cdner(store, "train", "-e", experiment, "--setting", "llm_only")
    assert train.code == 2 and "'llm_only' has no such step" in train.err
    assert not store.exists()
