"""Whole experiments with a tagger through the command line: the same files, tables and commands as for other models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipeline_experiments import (
    CALLS,
    N_DEV,
    N_TEST,
    N_TYPES,
    cdner,
    copy_of,
    finished_store,
    sql,
    write_experiment,
)

from cdner.codec import encode_entities
from cdner.prompts import load_domain
from cdner.spans import bio_to_entities
from cdner.store import Store
from cdner.store.corpora import load_corpus
from cdner.store.predictions import load_predictions, load_type_probabilities
from cdner.types import Sentence

TYPES = load_domain("film").types


@pytest.fixture(autouse=True)
def _log_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))


@pytest.fixture(scope="module")
def finished() -> Path:
    return finished_store("tagger")


def _run(store: Path, label: str) -> str:
    [(run_id,)] = sql(store, f"SELECT run_id FROM experiment_run WHERE label = '{label}'")
    return str(run_id)


@pytest.mark.parametrize(("setting", "n"), [("without_all", N_DEV), ("full", N_TEST)])
def test_predictions_hold_entities_their_json_and_probabilities(finished: Path, setting: str, n: int) -> None:
    split = "dev" if setting == "without_all" else "test"
    store, run_id = Store(finished), _run(finished, f"predict:{setting}/{split}")
    [(corpus_run,)] = sql(finished, f"SELECT corpus_run_id FROM prediction_corpus WHERE run_id = '{run_id}'")
    corpus = load_corpus(store, corpus_run)
    predictions, probabilities = load_predictions(store, run_id), load_type_probabilities(store, run_id)
    assert len(predictions) == n
    for position, prediction in predictions.items():
        tokens = corpus.sentences[position].tokens
        assert prediction.generated == encode_entities(Sentence(tokens, prediction.entities), TYPES)
        assert set(prediction.malformed) <= {"orphan_tags"}
        spans = probabilities.get(position, {})
        assert set(spans) == {(entity.start, entity.end) for entity in prediction.entities}
        for distribution in spans.values():
            assert set(distribution) == set(TYPES) and len(TYPES) == N_TYPES
            assert sum(distribution.values()) == pytest.approx(1)
    rows = sql(
        finished,
        "SELECT entity_type, probability, runner_up, runner_up_probability, position, start_token, end_token"
        f" FROM predicted_entity WHERE run_id = '{run_id}'",
    )
    for entity_type, probability, runner_up, second, position, start, end in rows:
        distribution = probabilities[position][start, end]
        assert distribution[entity_type] == probability
        assert (
            second == distribution[runner_up] == max(p for t, p in distribution.items() if t != entity_type)
        )
    counted = sql(
        finished, f"SELECT DISTINCT n_output_tokens, finish_reason FROM prediction WHERE run_id = '{run_id}'"
    )
    assert counted == [(0, "stop")]


def test_the_models_find_something(finished: Path) -> None:
    [(n,)] = sql(finished, "SELECT count(*) FROM predicted_entity")
    assert n > 0


def test_a_reasoning_text_is_read_beside_the_sentence(finished: Path) -> None:
    """The same sentences have more tokens in full than without reasoning."""
    counts = [
        sql(
            finished,
            "SELECT n_input_tokens FROM prediction"
            f" WHERE run_id = '{_run(finished, f'predict:{setting}/test')}' ORDER BY position",
        )
        for setting in ("without_all", "without_initial_and_backward", "full")
    ]
    assert len(counts[0]) == N_TEST
    assert all(plain < one < both for (plain,), (one,), (both,) in zip(*counts, strict=True))


def test_orphan_tags_are_counted_in_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cdner.models.tagger as probabilities

    def with_orphan(tags: list[str]) -> object:
        return bio_to_entities([f"I-{TYPES[0]}", *tags[1:]])

    monkeypatch.setattr(probabilities, "bio_to_entities", with_orphan)
    store = tmp_path / "s.duckdb"
    ran = cdner(store, "run", write_experiment(tmp_path, "tagger", settings=("without_source",)))
    assert ran.code == 0, ran.err
    found = sql(store, "SELECT malformed FROM prediction")
    assert len(found) == N_TEST and all(json.loads(row)["orphan_tags"] >= 1 for (row,) in found)


def test_a_sentence_longer_than_the_window_is_stored_as_such(tmp_path: Path) -> None:
    from fixtures.tiny_models import write_tiny_bert

    experiment = write_experiment(tmp_path, "tagger", settings=("without_source",))
    model = write_tiny_bert(tmp_path / "narrow", window=256)
    config = json.loads((model / "tokenizer_config.json").read_text())
    ran = cdner(
        tmp_path / "s.duckdb",
        "train",
        "-e",
        experiment,
        "--setting",
        "without_source",
        f"--set=backbone.model={model}",
    )
    assert ran.code == 0, ran.err
    [(checkpoint,)] = sql(tmp_path / "s.duckdb", "SELECT path FROM checkpoint")
    path = tmp_path / checkpoint / "tokenizer_config.json"
    path.write_text(json.dumps({**config, "model_max_length": 80}))  # some test sentences are longer
    ran = cdner(tmp_path / "s.duckdb", "run", experiment, f"--set=backbone.model={model}")
    assert ran.code == 0, ran.err
    rows = sql(tmp_path / "s.duckdb", "SELECT malformed, n_input_tokens, n_truncated_tokens FROM prediction")
    long = [(n, cut) for malformed, n, cut in rows if "too_long" in malformed]
    assert 0 < len(long) < N_TEST
    assert all(n == cut > 80 for n, cut in long)
    assert "sentences are longer than the model's window and count as sentences without entities" in ran.err


def test_decoding_and_budget_make_no_difference_to_a_tagger(finished: Path, tmp_path: Path) -> None:
    store = copy_of(finished, tmp_path / "copy")
    experiment = write_experiment(tmp_path, "tagger", settings=("without_source",))
    grounded = _run(store, "predict:without_source/test")
    ran = cdner(store, "run", experiment, "--decoding", "free", "--set=predict.max_new_tokens=1")
    assert ran.code == 0, ran.err
    free = _run(store, "predict:without_source/test")
    assert free != grounded
    assert load_predictions(Store(store), free) == load_predictions(Store(store), grounded)


def test_int8_is_refused_in_one_line(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, "tagger", settings=("without_source",))
    ran = cdner(tmp_path / "s.duckdb", "run", experiment, "--engine", "int8")
    assert ran.code == 2
    assert (
        ran.err.strip()
        .splitlines()[-1]
        .endswith("The engine 'int8' runs causal and seq2seq backbones, not 'tagger'. Use --engine torch.")
    )


def test_settings_of_taggers_are_refused_for_models_that_write_before_anything_runs(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, "seq2seq", settings=("without_source",))
    ran = cdner(tmp_path / "s.duckdb", "run", experiment, "--set=train_target.head_rate=20")
    assert ran.code == 2
    assert "The setting head_rate of training is for taggers; the backbone family is 'seq2seq'" in ran.err


def test_annotate_and_explain_and_export_take_a_tagger_and_read_tags_as_the_run_does(
    finished: Path, tmp_path: Path
) -> None:
    store = copy_of(finished, tmp_path / "copy")
    experiment = write_experiment(tmp_path, "tagger", name="learned", settings=("without_source",))
    learned = ("--set=corpora.n_target_train=40", "--set=train_target.epochs=40")  # finds something
    run_ids = []
    for tags in ("sequence", "each"):
        ran = cdner(store, "run", experiment, *learned, f"--set=predict.tags={tags}")
        assert ran.code == 0, ran.err
        labelled = "label = 'predict:without_source/test' AND experiment = 'learned'"
        [(run_id,)] = sql(store, f"SELECT run_id FROM experiment_run WHERE {labelled}")
        run_ids.append(run_id)
    whole, run_id = run_ids
    assert run_id != whole
    [(corpus_run,)] = sql(store, f"SELECT corpus_run_id FROM prediction_corpus WHERE run_id = '{run_id}'")
    assert load_predictions(Store(store), run_id) != load_predictions(Store(store), whole)
    predictions = load_predictions(Store(store), run_id)
    sentences = load_corpus(Store(store), corpus_run).sentences
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"tokens": sentences[p].tokens}) + "\n" for p in predictions))
    ran = cdner(store, "annotate", rows, tmp_path / "out.jsonl", "--run", run_id)
    assert ran.code == 0, ran.err
    written = [
        json.loads(line)
        for file in sorted((tmp_path / "out.jsonl").glob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    found = [[(e["start_token"], e["end_token"], e["type"]) for e in row["predicted"]] for row in written]
    wanted = [[(e.start, e.end, e.type) for e in p.entities] for p in predictions.values()]
    assert found == wanted and any(wanted)
    ran = cdner(
        store, "explain", "--sentence", "Mira Olsen left Port Vanter.", "--run", "tiny:full/test", "--json"
    )
    assert ran.code == 0, ran.err
    ran = cdner(store, "export", "tiny:full/test", tmp_path / "x.conll", "--to", "conll")
    assert ran.code == 0, ran.err
    assert len((tmp_path / "x.conll").read_text().splitlines()) > N_TEST
