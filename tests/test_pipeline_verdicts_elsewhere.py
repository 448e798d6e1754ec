"""Mentions of sentences in no corpus are judged and fused as the experiment's are: annotate and explain."""

from __future__ import annotations

import json
import pickle
import signal
from pathlib import Path

import pytest
from judged_stores import TYPES, finished
from pipeline_experiments import CALLS, DIE_AFTER, GAPS, calls, cdner, copy_of, ended, start_cdner

from cdner.config import Execution
from cdner.pipeline.annotate.method import Method, load_method
from cdner.pipeline.annotate.worker import Silent
from cdner.store import Store
from cdner.store.corpora import find_corpus_run, load_corpus
from cdner.store.lookup import find_labelled_run
from cdner.store.predictions import load_predictions, load_type_probabilities


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    return tmp_path / "calls"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: read only."""
    return copy_of(finished(), tmp_path_factory.mktemp("elsewhere"))


def stored(store: Path):
    """The sentences of test and what the experiment's fused setting predicts there."""
    known = Store(store)
    predicted = load_predictions(known, find_labelled_run(known, "judged", "fuse:fused/test"))
    corpus_run = find_corpus_run(known, "film", "test")
    assert corpus_run
    sentences = load_corpus(known, corpus_run).sentences
    return [sentences[position] for position in predicted], list(predicted.values())


def probabilities(store: Path):
    """For each of the same sentences: span -> type -> fused probability."""
    known = Store(store)
    run_id = find_labelled_run(known, "judged", "fuse:fused/test")
    found = load_type_probabilities(known, run_id)
    return [found.get(position, {}) for position in load_predictions(known, run_id)]


@pytest.fixture
def rows(store: Path, tmp_path: Path) -> Path:
    """The sentences of test, as if they were somebody else's."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"tokens": s.tokens}) + "\n" for s in stored(store)[0]))
    return path


def written(folder: Path) -> list[dict[str, object]]:
    files = sorted(folder.glob("block-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_sentences_of_the_corpus_get_the_types_and_probabilities_of_the_experiment(store, rows, tmp_path):
    for run in ("judged:fused", "judged:fused/test", "judged:fused/dev"):
        out = tmp_path / run.replace("/", "-")
        ran = cdner(store, "--quiet", "annotate", rows, out, "--run", run, "--block-size", 7)
        assert (ran.code, ran.err) == (0, "")
        _, predictions = stored(store)
        found = written(out)
        assert sum(len(p.entities) for p in predictions) > 5
        for row, prediction in zip(found, predictions, strict=True):
            spans = [(e["type"], e["start_token"], e["end_token"]) for e in row["predicted"]]
            assert spans == [(e.type, e.start, e.end) for e in prediction.entities]
            assert row["generated"] == prediction.generated
        for row, shares_of in zip(found, probabilities(store), strict=True):
            for entity in row["predicted"]:
                shares = shares_of[entity["start_token"], entity["end_token"]]
                assert entity["score"] == pytest.approx(shares[entity["type"]], abs=1e-6)
                others = {name: p for name, p in shares.items() if name != entity["type"]}
                assert shares[entity["runner_up"]] == pytest.approx(max(others.values()), abs=1e-6)
    before = load_predictions(
        Store(store), find_labelled_run(Store(store), "judged", "predict:without_all/test")
    )
    assert [p.entities for p in before.values()] != [p.entities for p in predictions], "the LLM is heard"


def method_of(store: Path, **llm: str) -> Method:
    run_id = find_labelled_run(Store(store), "judged", "fuse:fused/test")
    return load_method(Store(store), run_id, Execution(), llm=llm, progress=Silent())


def test_the_method_can_be_sent_to_another_process_and_keeps_its_identity(store):
    method = method_of(store)
    sent = pickle.loads(pickle.dumps(method))
    assert sent.identity() == method.identity()
    assert json.loads(json.dumps(sent.identity()))["verdicts"]["llm"]["model"] == "listener"


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE fusion_weight SET value = value + 0.01 WHERE name = 'llm'",
        f"UPDATE fusion_weight SET value = value + 0.01 WHERE name = 'bias:{TYPES[0]}'",
    ],
)
def test_other_weights_are_another_method(store, tmp_path, change):
    copied = copy_of(store, tmp_path / "copy")
    with Store(copied).transaction() as connection:
        connection.execute(change)
    assert method_of(copied).identity() != method_of(store).identity()


def test_another_llm_is_another_method_and_is_told(store, rows, tmp_path):
    assert method_of(store, model="another").identity() != method_of(store).identity()
    ran = cdner(store, "annotate", rows, tmp_path / "out", "--run", "judged:fused", "--model", "another")
    assert ran.code == 0, ran.err
    assert "since the weights were fitted: its verdicts are of recorded listener" in ran.err


def test_after_a_kill_no_stored_answer_is_asked_for_again(store, rows, tmp_path):
    whole = ("annotate", rows, tmp_path / "whole", "--run", "judged:fused", "--block-size", 5)
    assert cdner(store, *whole).code == 0
    n_whole = len(calls())
    command = ("annotate", rows, tmp_path / "out", "--run", "judged:fused", "--block-size", 5)
    died = start_cdner(store, *command, log=tmp_path / "log", **{DIE_AFTER: str(n_whole + n_whole // 2)})
    assert ended(died) == -signal.SIGKILL
    assert list((tmp_path / "out").glob(".answers-*"))
    assert cdner(store, *command).code == 0
    # The one that was on its way when the process died is asked about again; the others are not.
    assert len(calls()) - n_whole == n_whole + 1
    files = sorted(path.name for path in (tmp_path / "whole").glob("block-*"))
    for name in files:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "out").glob(".answers-*"))


def test_mentions_without_a_verdict_end_the_command_or_keep_the_backbones_type(
    store, rows, tmp_path, monkeypatch
):
    monkeypatch.setenv(GAPS, "Entity")
    command = ("--quiet", "annotate", rows, tmp_path / "out", "--run", "judged:fused")
    ran = cdner(store, *command)
    assert (ran.code, ran.err.count("\n")) == (3, 1)
    assert "mentions of a block have no verdict: the server was busy" in ran.err
    ran = cdner(store, *command, "--set", "execution.max_gaps=1000")
    assert ran.code == 0, ran.err
    known = Store(store)
    before = load_predictions(known, find_labelled_run(known, "judged", "predict:without_all/test"))
    found = [
        [(e["type"], e["start_token"], e["end_token"]) for e in row["predicted"]]
        for row in written(tmp_path / "out")
    ]
    assert found == [[(e.type, e.start, e.end) for e in p.entities] for p in before.values()]


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("--run", "judged:full_fused"), 2, "No step of experiment 'judged'"),
        (("--run", "judged:without_all", "--encoder", "x"), 2, "leave --encoder off"),
        (("--run", "judged:fused", "--encoder", "x"), 2, "the run's own model finds the nearest mentions"),
        (("--run", "judged:fused", "--engine", "ray"), 2, "the verdicts come from servers"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(store, rows, tmp_path, options, code, told):
    ran = cdner(store, "--quiet", "annotate", rows, tmp_path / "out", *options)
    assert (ran.code, ran.err.count("\n")) == (code, 1), ran.err
    assert told in ran.err
    assert not list((tmp_path / "out").glob("block-*"))
