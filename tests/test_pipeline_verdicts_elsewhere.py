"""Mentions of sentences in no corpus are judged and fused as the experiment's are: annotate and explain."""

from __future__ import annotations

import json
import pickle
import signal
from itertools import pairwise
from pathlib import Path

import pytest
from judged_stores import OPTIONS, TYPES, experiment, finished
from pipeline_experiments import CALLS, DIE_AFTER, GAPS, calls, cdner, copy_of, dump, ended, sql, start_cdner

from cdner.annotate.method import Method, load_method
from cdner.annotate.worker import Silent
from cdner.config import Execution
from cdner.experiment import judge_method
from cdner.store import Store
from cdner.store.corpora import find_corpus_run, load_corpus
from cdner.store.find import find_labelled_run
from cdner.store.predictions import load_predictions, load_type_probabilities
from cdner.store.selection import select


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    return tmp_path / "calls"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: read only."""
    return copy_of(finished(), tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="module", params=["mention", "sentence"])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each mention with its own evidence, or the mentions of a sentence with the same. Read only."""
    copied = copy_of(finished(), tmp_path_factory.mktemp(request.param))
    if request.param == "sentence":
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(CALLS, str(copied.parent / "calls"))
            together = experiment(copied.parent, neighbours_of="sentence", template="judge.v2")
            ran = cdner(copied, "run", together, *OPTIONS)
        assert ran.code == 0, ran.err
    return copied


@pytest.fixture
def either_rows(either: Path, tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"tokens": s.tokens}) + "\n" for s in stored(either)[0]))
    return path


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


def test_sentences_of_the_corpus_get_the_types_and_probabilities_of_the_experiment(
    either, either_rows, tmp_path
):
    store, rows = either, either_rows
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
    assert "Since the weights were fitted: its verdicts are of recorded listener" in ran.err


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


def test_labelled_mentions_are_embedded_once_for_all_blocks(store, rows, tmp_path, monkeypatch):
    original, known = judge_method.embedded, []

    def counting(labelled: object, encoder: object) -> object:
        known.append(len(labelled.entities))
        return original(labelled, encoder)

    monkeypatch.setattr(judge_method, "embedded", counting)
    ran = cdner(
        store, "annotate", rows, tmp_path / "out", "--run", "judged:fused", "--block-size", 4, "--json"
    )
    assert ran.rows[0]["blocks"] > 2
    (n_train,) = sql(
        store,
        "SELECT count(*) FROM gold_entity JOIN corpus USING (run_id) WHERE split = 'train'"
        " AND domain = 'film' AND position IN (SELECT position FROM training_sentence"
        " JOIN experiment_run USING (run_id) WHERE label = 'train:without_all')",
    )
    assert known == list(n_train)


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


# --- explain ---------------------------------------------------------------------------------------------


def explained(store: Path, *options: object) -> dict[str, object]:
    ran = cdner(store, "--quiet", "explain", *options, "--json")
    assert (ran.code, ran.err) == (0, "")
    return json.loads(ran.out)


def test_a_test_sentence_is_explained_by_what_the_experiment_has_stored(either):
    store = either
    sentences, predictions = stored(store)
    at = max(range(len(predictions)), key=lambda index: len(predictions[index].entities))
    text = " ".join(sentences[at].tokens)
    found = explained(store, "--tokens", "--sentence", text, "--setting", "fused", "-e", "judged")
    assert calls() == []
    expected = [(e.start, e.end, e.type) for e in predictions[at].entities]
    assert [(m["start"], m["end"], m["type"]) for m in found["mentions"]] == expected
    for mention, shares in zip(found["mentions"], probabilities(store)[at].values(), strict=True):
        assert mention["fused"] == pytest.approx(shares, abs=1e-6)
    position = list(
        load_predictions(Store(store), find_labelled_run(Store(store), "judged", "fuse:fused/test"))
    )[at]
    judge = find_labelled_run(Store(store), "judged", "judge:without_all/test")
    of_sentence = f"run_id = '{judge}' AND position = {position} ORDER BY start_token"
    ids = sql(store, f"SELECT request_id FROM judged_mention WHERE {of_sentence}")
    assert [(mention["verdict"]["request_id"],) for mention in found["mentions"]] == ids
    shown = sql(store, f"SELECT likeness FROM shown_mention WHERE {of_sentence}, place")
    likeness = [one["likeness"] for mention in found["mentions"] for one in mention["verdict"]["neighbours"]]
    assert likeness == pytest.approx([value for (value,) in shown], abs=1e-3)
    verdicts = sql(store, f"SELECT entity_type, probability FROM verdict WHERE {of_sentence}, rank")
    said = [pair for mention in found["mentions"] for pair in mention["llm"].items()]
    assert [name for name, _ in said] == [name for name, _ in verdicts]
    assert [p for _, p in said] == pytest.approx([p for _, p in verdicts])


def test_an_own_sentence_is_asked_about_once_and_is_in_no_result(store, tmp_path):
    copied = copy_of(store, tmp_path / "copy")
    tables = ("predicted_entity", "judged_mention", "shown_mention", "fusion_weight", "experiment_run")
    before = dump(copied, tables=tables)
    sentences, predictions = stored(store)
    at = max(range(len(predictions)), key=lambda index: len(predictions[index].entities))
    text = " ".join((*sentences[at].tokens, "again"))  # several mentions, in no corpus
    own = ("--tokens", "--sentence", text, "--run", "judged:fused/test")
    first, again = explained(copied, *own), explained(copied, *own)
    assert len(calls()) == len(first["mentions"]) > 1
    asked = [mention["verdict"]["request_id"] for mention in first["mentions"]]
    assert {mention["verdict"].pop("was_stored") for mention in first["mentions"]} == {False}
    assert {mention["verdict"].pop("was_stored") for mention in again["mentions"]} == {True}
    assert first["mentions"] == again["mentions"]
    ((settings,),) = sql(copied, "SELECT settings FROM run WHERE step = 'explain'")  # asked for together
    assert json.loads(settings)["request_ids"] == asked
    assert dump(copied, tables=tables) == before
    with Store(copied).reading() as connection, Store(store).reading() as untouched:
        assert select(connection) == select(untouched)
    assert cdner(copied, "store", "verify").code == 0


def test_evidence_that_mentions_share_is_printed_once(either):
    sentences, predictions = stored(either)
    at = max(range(len(predictions)), key=lambda index: len(predictions[index].entities))
    n_mentions = len(predictions[at].entities)
    assert n_mentions > 1
    text = " ".join(sentences[at].tokens)
    said = cdner(either, "explain", "--tokens", "--sentence", text, "--setting", "fused", "-e", "judged").out
    found = explained(either, "--tokens", "--sentence", text, "--setting", "fused", "-e", "judged")
    shown = [
        [{**one, "likeness": None} for one in mention["verdict"]["neighbours"]]
        for mention in found["mentions"]
    ]
    n_same = sum(one == before for before, one in pairwise(shown))
    assert said.count("Labelled mentions: the same") == n_same
    assert said.count("likeness") == n_mentions - n_same
    assert n_same == n_mentions - 1 or "sentence" not in either.parent.name


def test_the_steps_are_printed_for_each_mention_and_the_prompt_only_when_asked_for(store):
    command = ("explain", "--setting", "fused", "--sentence", "Mara Holt filmed Quiet Harbour.")
    ran = cdner(store, *command)
    assert ran.code == 0, ran.err
    titles = (
        "film, fused, run ",
        "Entities of the model",
        "Model: ",
        "likeness",
        "LLM: ",
        "Fused: ",
        "Decisions (",
    )
    places = [ran.out.index(title) for title in titles]
    assert places == sorted(places)
    assert "--- system ---" not in ran.out
    whole = cdner(store, *command, "--prompt").out
    assert whole.count("--- system ---") == ran.out.count("LLM: ")


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("--setting", "full_fused", "-e", "judged"), 1, "predict:full/test is not done"),
        (("--setting", "full_fused"), 1, "no finished predictions of the setting 'full_fused'"),
        (("--run", "judged:fused/test", "--setting", "fused"), 2, "--run says it all"),
        (("--run", "judged:fused/test", "--target", "ai"), 2, "predicts film"),
        (("--run", "judged:fused/test", "--encoder", "x"), 2, "the run's own model finds"),
        (("--run", "judged:without_all/test"), 2, "without reasoning texts"),
    ],
)
def test_what_cannot_be_explained_is_one_line(store, options, code, told):
    ran = cdner(store, "--quiet", "explain", "--sentence", "A film.", *options)
    assert (ran.code, ran.err.count("\n")) == (code, 1), ran.err
    assert told in ran.err


# --- prompts render --------------------------------------------------------------------------------------


def test_what_is_rendered_is_what_was_asked(store, tmp_path):
    judge = find_labelled_run(Store(store), "judged", "judge:without_all/test")
    rows = sql(
        store,
        "SELECT judged.position, row_number() OVER (PARTITION BY judged.position ORDER BY start_token) - 1,"
        " list(text ORDER BY request_message.position) FROM judged_mention AS judged"
        " JOIN request_message USING (request_id) JOIN prompt_text USING (text_id)"
        f" WHERE judged.run_id = '{judge}' GROUP BY judged.position, start_token ORDER BY ALL",
    )
    assert len(rows) > 5
    command = ("prompts", "render", "-e", experiment(tmp_path), "--what", "judge", *OPTIONS)
    for position, number, texts in (rows[0], rows[-1]):
        ran = cdner(store, *command, "--position", position, "--mention", number, "--json")
        assert ran.code == 0, ran.err
        assert [message["content"] for message in json.loads(ran.out)["messages"]] == texts
    beyond = cdner(store, *command, "--position", rows[0][0], "--mention", 99)
    assert (beyond.code, "--mention 99: the sentence has" in beyond.err) == (2, True)


def test_a_verdict_can_be_rendered_before_anything_is_asked_and_nothing_is_stored(store, tmp_path):
    command = ("prompts", "render", "-e", experiment(tmp_path), "--what", "judge", *OPTIONS)
    expected = cdner(store, *command).out
    copied = copy_of(store, tmp_path / "copy")
    with Store(copied).transaction() as connection:
        for table in ("judged_mention", "shown_mention"):
            connection.execute(f"DELETE FROM {table}")
    assert cdner(copied, *command).out == expected != ""
    assert sql(copied, "SELECT count(*) FROM shown_mention") == [(0,)]
    assert calls() == []
