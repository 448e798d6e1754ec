"""``explain`` treats a sentence as the experiment did, pays once, and leaves every result as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline_experiments import CALLS, GAPS, calls, copy_of, dump, finished_store, shared_folder, sql

from cdner.config import Execution
from cdner.console.progress import StderrProgress
from cdner.errors import BackendError, InputError, UsageError
from cdner.explain.explanation import (
    Method,
    changed_prompt,
    check_models,
    chosen_types,
    find_entities,
    load_method,
    method_experiment,
    prompt_about,
    reason_about,
)
from cdner.explain.queries import find_reasoned_prediction
from cdner.steps.context import Context, open_context
from cdner.store import Store
from cdner.store.confusion import load_rivals
from cdner.store.corpora import find_corpus_run, load_corpus
from cdner.store.find import find_labelled_run
from cdner.store.llm_log import load_reasoning
from cdner.store.predictions import load_predictions
from cdner.store.runs import OUTPUT_TABLES
from cdner.store.selection import select
from cdner.store.verify import verify
from cdner.types import Sentence, Split

OWN = Sentence(("Mara", "Holt", "filmed", "Quiet", "Harbour", "in", "Oslo", "."))


@pytest.fixture(scope="module")
def finished() -> Store:
    """Read only."""
    return Store(finished_store("seq2seq"))


@pytest.fixture
def copied(tmp_path: Path) -> Store:
    return Store(copy_of(finished_store("seq2seq"), tmp_path / "copy"))


@pytest.fixture(autouse=True)
def _log_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared_folder()
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))


def method_of(store: Store, label: str = "predict:full/test") -> Method:
    return load_method(store, find_labelled_run(store, "tiny", label))


@contextmanager
def opened(store: Store, method: Method, **execution: object) -> Iterator[Context]:
    experiment = method_experiment(method, Execution.model_validate(execution))
    with open_context(store.path, experiment, progress=StderrProgress(quiet=True)) as context:
        yield context


def sentence_of(store: Store, domain: str, split: Split, position: int) -> Sentence:
    run_id = find_corpus_run(store, domain, split)
    assert run_id
    return Sentence(load_corpus(store, run_id).sentences[position].tokens)


# --- a sentence of the corpus: what the experiment has stored is the truth ------------------------------------


@pytest.mark.parametrize("setting", ["full", "without_initial"])
def test_a_test_sentence_gets_the_predictions_and_the_reasoning_of_the_experiment(finished, setting):
    method = method_of(finished, f"predict:{setting}/test")
    augmented = load_predictions(finished, method.prediction.run_id)
    without = load_predictions(finished, find_labelled_run(finished, "tiny", "predict:without_all/test"))
    texts = load_reasoning(finished, method.reasoning.run_id)
    position = next(iter(augmented))
    sentence = sentence_of(finished, "film", "test", position)
    with opened(finished, method) as context:
        reasoned = reason_about(sentence, method, context)
        settings = context.experiment.predict
        plain = find_entities(sentence, method.target_model, context, chain=None, settings=settings)
        whole = find_entities(
            sentence, method.augmented_model, context, chain=reasoned.chain, settings=settings
        )
    assert reasoned.was_stored
    assert calls() == []
    assert reasoned.chain == texts[position]
    assert whole.prediction == augmented[position]
    assert plain.prediction == without[position]
    assert whole.generation.n_input_tokens > plain.generation.n_input_tokens


def test_coarse_types_are_those_that_the_hierarchy_was_counted_on(finished):
    method = method_of(finished)
    coarse = load_predictions(finished, method.coarse_prediction.run_id)
    position = max(coarse, key=lambda place: len(coarse[place].entities))
    sentence = sentence_of(finished, "film", "train", position)
    with opened(finished, method) as context:
        found = find_entities(
            sentence, method.source_model, context, chain=None, settings=context.experiment.evidence
        )
    assert coarse[position].entities
    assert found.prediction == coarse[position]


def test_prefixes_and_rivals_are_those_in_the_prompt(finished):
    method = method_of(finished)
    with opened(finished, method) as context:
        rows = chosen_types(method, context)
        text = "\n".join(message.content for message in prompt_about(OWN, method, context).messages)
    rivals = load_rivals(finished, method.confusion.run_id)
    assert {row.name: row.rivals for row in rows} == rivals
    assert {row.prefix for row in rows} <= {"PER", "LOC", "ORG", "MISC"}
    assert OWN.text in text
    assert all(row.name in text for row in rows)


# --- a sentence of one's own ---------------------------------------------------------------------------------


def test_an_own_sentence_is_asked_about_once_and_is_in_no_result(copied):
    method = method_of(copied)
    before = dump(copied.path, tables=(*OUTPUT_TABLES, "experiment_run"))
    usage = sql(copied.path, "SELECT * FROM llm_usage ORDER BY ALL")
    with copied.reading() as connection:
        selected = select(connection)
    answers = []
    for _ in range(2):
        with opened(copied, method) as context:
            answers.append(reason_about(OWN, method, context))
    assert [answer.was_stored for answer in answers] == [False, True]
    assert answers[0].chain == answers[1].chain
    assert answers[0].chain.initial
    assert len(calls()) == 1
    assert dump(copied.path, tables=(*OUTPUT_TABLES, "experiment_run")) == before
    now = sql(copied.path, "SELECT * FROM llm_usage ORDER BY ALL")
    (own,) = [row for row in now if row not in usage]
    assert [row for row in now if row != own] == usage
    step, status = sql(copied.path, f"SELECT step, status FROM latest_attempt WHERE run_id = '{own[0]}'")[0]
    assert (step, status) == ("explain", "done")
    assert verify(copied) == []
    with copied.reading() as connection:
        assert select(connection) == selected, "a bundle of the whole store is as it was"


def test_what_no_llm_answers_is_an_error_and_is_asked_again(copied, monkeypatch):
    method = method_of(copied)
    monkeypatch.setenv(GAPS, "Quiet")
    with (
        opened(copied, method) as context,
        pytest.raises(BackendError, match="no answer: the server was busy"),
    ):
        reason_about(OWN, method, context)
    assert sql(copied.path, "SELECT status FROM latest_attempt WHERE step = 'explain'") == [("failed",)]
    monkeypatch.delenv(GAPS)
    with opened(copied, method) as context:
        assert not reason_about(OWN, method, context).was_stored
    assert sql(copied.path, "SELECT status FROM latest_attempt WHERE step = 'explain'") == [("done",)]


def test_a_replay_asks_nobody_and_records_no_run(copied):
    method = method_of(copied)
    with (
        opened(copied, method, replay=True) as context,
        pytest.raises(BackendError, match="not in the store"),
    ):
        reason_about(OWN, method, context)
    assert calls() == []
    assert sql(copied.path, "SELECT count(*) FROM run WHERE step = 'explain'") == [(0,)]


def test_other_weights_than_those_that_wrote_the_reasoning_are_refused(finished):
    method = method_of(finished)
    with opened(finished, method) as context, pytest.raises(UsageError, match="these are other weights"):
        reason_about(OWN, method, context, weights="another")


def test_weights_known_by_checksum_alone_need_their_folder_only_to_ask(copied):
    """Whose model is a folder is stored as name@hash: where it lies is nobody's business but the machine's."""
    method = method_of(copied)
    settings = dict(method.reasoning.settings)  # type: ignore[arg-type]
    settings |= {"weights": "listener@12ab", "llm": {**settings["llm"], "model": "listener@12ab"}}
    moved = replace(method, reasoning=replace(method.reasoning, settings=settings))
    with opened(copied, moved) as context, pytest.raises(UsageError, match="--model FOLDER"):
        reason_about(OWN, moved, context)
    assert calls() == []


# --- what the runs say ---------------------------------------------------------------------------------------


def test_retries_that_an_identity_leaves_out_are_none(finished):
    """The backend 'local' refuses any: its runs are stored without the key."""
    method = method_of(finished)
    settings = dict(method.reasoning.settings)  # type: ignore[arg-type]
    llm = {name: value for name, value in settings["llm"].items() if name != "retries"}
    without = replace(method, reasoning=replace(method.reasoning, settings={**settings, "llm": llm}))
    assert method_experiment(method, Execution()).reason.retries == 2
    assert method_experiment(without, Execution()).reason.retries == 0


def test_nobody_waits_a_day_for_a_batch(finished):
    assert not method_experiment(method_of(finished), Execution(batch=True)).execution.batch


def test_a_prompt_that_has_changed_since_training_is_told(finished):
    method = method_of(finished)
    settings = {**method.reasoning.settings, "examples": "others"}  # type: ignore[dict-item]
    with opened(finished, method) as context:
        assert changed_prompt(method, context) == []
        older = replace(method, reasoning=replace(method.reasoning, settings=settings))
        assert changed_prompt(older, context) == ["examples"]


def test_a_model_whose_folder_is_gone_is_named_with_the_command_that_makes_it(copied):
    import shutil

    method = method_of(copied)
    check_models(method, copied)
    shutil.rmtree(copied.directory / "checkpoints" / method.augmented_model.run_id)
    with pytest.raises(InputError, match=r"M_aug .*cdner train --force --setting full"):
        check_models(method, copied)


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("train:full", "train:full is not done .failed.*cdner train --setting full -e tiny"),
        ("quantify:target", "quantify:target is not done .failed.*cdner quantify -e tiny"),
    ],
)
def test_the_first_step_that_is_missing_is_named_with_its_command(copied, label, told):
    undone = {
        find_labelled_run(copied, "tiny", name) for name in (label, "predict:full/test", "predict:full/dev")
    }
    with copied.transaction() as connection:
        connection.execute(
            "UPDATE attempt SET status = 'failed' WHERE run_id IN (SELECT unnest(?))", [sorted(undone)]
        )
    with pytest.raises(InputError, match=told):
        find_reasoned_prediction(copied, setting="full", experiment="tiny")
    with pytest.raises(InputError, match="cdner predict --setting full --target film"):
        find_reasoned_prediction(copied, setting="full", target="film")


def test_the_latest_finished_predictions_are_taken_and_cells_belong_to_their_experiment(copied):
    found = find_reasoned_prediction(copied, setting="full")
    wanted = {find_labelled_run(copied, "tiny", f"predict:full/{split}") for split in ("dev", "test")}
    assert found.run_id in wanted
    assert (found.target, found.experiments) == ("film", ("tiny",))
    with copied.transaction() as connection:
        connection.execute("UPDATE experiment_run SET experiment = 'tiny[seed=1]'")
    assert find_reasoned_prediction(copied, setting="full", experiment="tiny").run_id == found.run_id


# --- what changed --------------------------------------------------------------------------------------------
