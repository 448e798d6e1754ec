"""A whole experiment through the command line: what it stores, what it prints, and what a second run does."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from pipeline_experiments import (
    CALLS,
    GAPS,
    N_DEV,
    N_SENTENCES,
    N_TEST,
    N_TRAIN,
    N_TYPES,
    SETTINGS,
    calls,
    cdner,
    copy_of,
    dump,
    finished_store,
    shared_folder,
    sql,
    write_experiment,
)
from store_examples import counted_openings

from cdner import prompts
from cdner.config import REASONING_SETTINGS, Experiment, Llm
from cdner.console.progress import StderrProgress
from cdner.evaluate import score
from cdner.reasoning import parse_reasoning
from cdner.steps.context import open_context
from cdner.store import Store
from cdner.store.corpora import load_corpus
from cdner.store.llm_log import load_completions, load_reasoning
from cdner.store.predictions import load_predictions, predicted_corpus

FAMILIES = ("seq2seq", "causal")


@pytest.fixture(autouse=True)
def _log_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))


def run_of(store: Path, label: str) -> str:
    return str(sql(store, f"SELECT run_id FROM experiment_run WHERE label = '{label}'")[0][0])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_printed_figures_are_the_scores_of_the_stored_predictions(family: str) -> None:
    store = finished_store(family)
    rows = json.loads((store.parent / "table.json").read_text())
    assert [(row["setting"], row["split"]) for row in rows] == [
        (setting, split)
        for setting in SETTINGS
        for split in (("dev", "test") if family == "seq2seq" else ("test",))
    ]
    for row in rows:
        run_id = run_of(store, f"predict:{row['setting']}/{row['split']}")
        predictions = load_predictions(Store(store), run_id)
        corpus = load_corpus(Store(store), predicted_corpus(Store(store), run_id))
        assert len(predictions) == {"dev": N_DEV, "test": N_TEST}[row["split"]]
        scored = score(
            [corpus.sentences[position] for position in predictions],
            list(predictions.values()),
            prompts.load_domain("film").types,
        )
        assert _stored_counts(store, row["run_id"]) == sorted(
            (found.metric, found.entity_type, found.n_gold, found.n_predicted, found.n_correct)
            for found in scored
        )
        f1 = {(found.metric, found.entity_type): round(100 * found.f1, 2) for found in scored}
        names = {"strict_f1": "strict", "span_f1": "span", "mention_set_f1": "mention_set"}
        assert {key: row[key] for key in names} == {key: f1[name, "*"] for key, name in names.items()}
        assert row["macro_f1"] == f1["strict", "macro"]
    n_predicted = sql(store, "SELECT sum(n_predicted) FROM score WHERE entity_type = '*'")[0][0]
    assert n_predicted > len(rows)  # random models, but there is something to score


def _stored_counts(store: Path, run_id: str) -> list[tuple[str, str, int, int, int]]:
    columns = "metric_family, entity_type, n_gold, n_predicted, n_correct"
    return sorted(sql(store, f"SELECT {columns} FROM score WHERE run_id = '{run_id}'"))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_step_is_done_once_and_labelled(family: str) -> None:
    store = finished_store(family)
    states = sql(store, "SELECT count(*), count(DISTINCT run_id), count_if(status = 'done') FROM attempt")
    n_steps = len(sql(store, "SELECT label FROM experiment_run"))
    assert states == [(n_steps, n_steps, n_steps)]
    assert cdner(store, "store", "verify").code == 0
    # These models do not say how sure they are, so there is nothing to judge; see test_pipeline_verdicts.
    of_verdicts = {"type_probability", "judged_mention", "shown_mention", "fusion_weight"}
    for table, rows in dump(store).items():
        assert bool(rows) != (table in of_verdicts), table


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_each_sentence_has_the_reasoning_of_its_own_request(family: str) -> None:
    store = finished_store(family)
    for setting in REASONING_SETTINGS:
        n_found = 0
        for split in ("train", "dev", "test"):
            run_id = run_of(store, f"reason:{setting}/{split}")
            corpus = load_corpus(Store(store), sql(store, _CORPUS_OF.format(run_id))[0][0])
            asked = dict(sql(store, f"SELECT position, request_id FROM reasoning WHERE run_id = '{run_id}'"))
            completions = load_completions(Store(store), list(asked.values()))
            last = dict(sql(store, _LAST_MESSAGE))
            for position, chain in load_reasoning(Store(store), run_id).items():
                assert corpus.sentences[position].text in last[asked[position]]
                text = completions[asked[position]].text
                assert chain == parse_reasoning(text, setting, structured=True)
                assert bool(chain.initial) == (setting in ("full", "without_backward"))
                assert chain.bidirectional
                n_found += 1
        assert n_found == N_SENTENCES


_CORPUS_OF = "SELECT input_run_id FROM run_input WHERE run_id = '{}' AND position = 1"
_LAST_MESSAGE = """
    SELECT request_id, arg_max(text, position) FROM request_message JOIN prompt_text USING (text_id)
    GROUP BY request_id
"""


@pytest.mark.slow
def test_confusion_scores_sum_as_the_equations_say() -> None:
    sums = sql(
        finished_store("seq2seq"),
        "SELECT dimension, sum(score) FROM confusion WHERE dimension[1] = 'v' GROUP BY dimension, gold_type",
    )
    assert len(sums) == 3 * N_TYPES
    for dimension, total in sums:
        assert total == pytest.approx(2 if dimension == "v_conf" else 1)


@pytest.mark.slow
def test_a_second_run_finds_everything_and_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = copy_of(finished_store("seq2seq"), tmp_path / "copy")
    before, n_attempts = dump(store), sql(store, "SELECT count(*) FROM attempt")
    experiment = write_experiment(tmp_path)
    openings = counted_openings(monkeypatch)
    again = cdner(store, "run", experiment, "--json")
    assert openings == ["reading", "writing", "reading", "reading"]  # what is done; labels; account; scores
    assert (again.code, again.out) == (0, (store.parent / "table.json").read_text())
    assert calls() == []
    assert dump(store) == before
    assert sql(store, "SELECT count(*) FROM attempt") == n_attempts
    rows = list(csv.DictReader(io.StringIO(cdner(store, "run", experiment, "--csv").out)))
    assert [row["strict_f1"] for row in rows] == [str(row["strict_f1"]) for row in again.rows]
    monkeypatch.setenv("COLUMNS", "80")
    table = cdner(store, "run", experiment).out
    shown = {tuple(line.split()[:2]): line.split() for line in table.splitlines() if line.split()}
    for row in again.rows:
        figures = ("strict_precision", "strict_recall", "strict_f1", "span_f1", "macro_f1")
        line = shown[row["setting"], row["split"]]
        assert [cell for cell in line[2:] if cell != "│"] == [f"{row[name]:.2f}" for name in figures]
    until = cdner(store, "run", experiment, "--until", "reason:full/test", "--json").rows
    assert {row["state"] for row in until} == {"found"}
    preview = cdner(store, "run", experiment, "--dry-run", "--json").rows
    assert {row["state"] for row in preview} == {"done"}
    assert {row["llm_calls"] for row in preview} == {0, None}


@pytest.mark.slow
def test_the_table_ends_with_the_pairs_confused_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The predictions are ours, for what an untrained model confuses depends on the processor."""
    store = copy_of(finished_store("seq2seq"), tmp_path / "copy")
    before, after = (run_of(store, f"predict:{setting}/test") for setting in ("without_all", "full"))
    predicted = f"SELECT position FROM prediction WHERE run_id = '{before}'"  # of a sample
    corpus = _CORPUS_OF.format(before)
    gold = f"SELECT * FROM gold_entity WHERE run_id = ({corpus}) AND position IN ({predicted})"
    position, start, end, gold_type, mention = sql(
        store, f"SELECT * EXCLUDE run_id FROM ({gold}) ORDER BY ALL LIMIT 1"
    )[0]
    wrong_type = "city" if gold_type != "city" else "country"
    with Store(store).transaction() as connection:
        connection.execute("DELETE FROM predicted_entity WHERE run_id IN (?, ?)", [before, after])
        connection.execute(
            "INSERT INTO predicted_entity VALUES (?, ?, ?, ?, ?, ?, NULL, NULL, NULL)",
            [before, position, start, end, wrong_type, mention],
        )
    monkeypatch.setenv("COLUMNS", "120")
    table = cdner(store, "run", write_experiment(tmp_path)).out
    assert "before = without_all, after = full" in " ".join(table.split())
    rows = [line.replace("│", " ").split() for line in table.splitlines()]
    (cells,) = [
        row for row in rows if row[:3] == ["test", gold_type, wrong_type]
    ]  # dev may have the same pair
    n_gold = sql(store, f"SELECT count(*) FROM ({gold}) WHERE entity_type = '{gold_type}'")[0][0]
    assert cells == ["test", gold_type, wrong_type, str(n_gold), "1", "0", f"{1 / n_gold:.4f}", "0.0000"]


@pytest.mark.slow
def test_force_does_the_named_step_again_and_replaces_its_rows(tmp_path: Path) -> None:
    store = copy_of(finished_store("seq2seq"), tmp_path / "copy")
    before = dump(store)
    predict = ("predict", "-e", write_experiment(tmp_path), "--setting", "full", "--split", "test", "--json")
    assert [row["state"] for row in cdner(store, *predict).rows] == ["found"]
    (forced,) = cdner(store, *predict, "--force").rows
    assert forced["state"] == "done"
    assert sql(store, "SELECT run_id FROM attempt WHERE attempt_n > 1") == [(forced["run_id"],)]
    assert dump(store) == before


def test_until_stops_after_the_named_step(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    experiment = write_experiment(tmp_path, settings=("without_source",))
    ran = cdner(store, "run", experiment, "--until", "train", "--json")
    assert ran.code == 0
    assert [row["step"] for row in ran.rows] == [
        "import:film/train",
        "import:film/dev",
        "train:without_source",
    ]
    assert sql(store, "SELECT count(*) FROM prediction") == [(0,)]
    unknown = cdner(store, "run", experiment, "--until", "quantify")
    assert unknown.code == 2
    assert "No step 'quantify'" in unknown.err


@pytest.mark.slow
def test_the_labels_of_a_dropped_setting_disappear(tmp_path: Path) -> None:
    store = copy_of(finished_store("seq2seq"), tmp_path / "copy")
    dropped = "SELECT count(*) FROM experiment_run WHERE label LIKE '%without_source%'"
    (before,) = sql(store, dropped)
    experiment = write_experiment(tmp_path, settings=("without_all", "full"))
    assert cdner(store, "run", experiment, "--until", "import").code == 0
    assert sql(store, dropped) == [before] != [(0,)]  # a part of a plan says nothing of the rest
    ran = cdner(store, "run", experiment, "--json")
    assert ran.code == 0, ran.err
    assert sql(store, dropped) == [(0,)]
    planned = cdner(store, "run", experiment, "--dry-run", "--json").rows
    assert sql(store, "SELECT count(*) FROM experiment_run") == [(len(planned),)]


@pytest.mark.slow
def test_gaps_end_in_exit_code_3_and_a_rerun_asks_for_them_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "s.duckdb"
    experiment = write_experiment(tmp_path, settings=("full",))

    def llm_calls() -> dict[str, int]:
        rows = cdner(store, "run", experiment, "--dry-run", "--json").rows
        return {row["step"]: row["llm_calls"] for row in rows if row["llm_calls"] is not None}

    every = {"reason:full/train": N_TRAIN, "reason:full/dev": N_DEV, "reason:full/test": N_TEST}
    assert llm_calls() == {"describe:target": N_TYPES, **every}
    assert not store.exists()

    monkeypatch.setenv(GAPS, "Type to explain: director")
    described = cdner(store, "run", experiment)
    assert described.code == 3
    assert f"describe:target: 1 of {N_TYPES} types have no description yet: the server was busy (1)." in (
        described.err
    )
    assert len(calls()) == N_TYPES
    assert llm_calls()["describe:target"] == 1

    monkeypatch.setenv(GAPS, "|".join(_first_words(store)))
    partial = cdner(store, "run", experiment)
    assert partial.code == 3
    assert f"reason:full/train: 2 of {N_TRAIN} sentences have no reasoning text yet" in partial.err
    assert "run the same command again" in partial.err
    assert len(calls()) == N_TYPES + 1 + N_TRAIN
    assert llm_calls() == {"describe:target": 0, **every, "reason:full/train": 2}
    assert cdner(store, "store", "verify").code == 0

    monkeypatch.delenv(GAPS)
    assert cdner(store, "run", experiment).code == 0
    assert len(calls()) == N_TYPES + 1 + N_TRAIN + 2 + N_DEV + N_TEST
    assert set(llm_calls().values()) == {0}
    assert sql(store, "SELECT count(*) FROM reasoning WHERE gap_reason IS NOT NULL") == [(0,)]
    whole = dump(finished_store("seq2seq"))
    assert set(dump(store)["predicted_entity"]) <= set(whole["predicted_entity"])


@pytest.mark.slow
def test_a_permanent_gap_may_be_allowed_and_stays_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = copy_of(finished_store("seq2seq"), tmp_path / "copy")
    run_id = run_of(store, "reason:full/train")
    with Store(store).transaction() as connection:
        connection.execute(
            "DELETE FROM completion WHERE request_id IN (SELECT request_id FROM reasoning WHERE run_id = ?)",
            [run_id],
        )
    monkeypatch.setenv(GAPS, "|".join(_first_words(store)))
    command = ("reason", "-e", write_experiment(tmp_path), "--split", "train")
    refused = cdner(store, *command, "--force", "--set", "execution.max_gaps=1")
    assert refused.code == 3
    assert "--set execution.max_gaps=2" in refused.err
    allowed = cdner(store, *command, "--set", "execution.max_gaps=2", "--json")
    assert (allowed.code, allowed.rows[0]["run_id"], allowed.rows[0]["state"]) == (0, run_id, "done")
    warning = f"reason:full/train: 2 of {N_TRAIN} sentences go without reasoning text"
    assert f"Warning: {warning}" in allowed.err
    listed = next(row for row in cdner(store, "runs", "--json").rows if row["run_id"] == run_id)
    assert [line.startswith(warning) for line in listed["warnings"]] == [True]
    stored = f"SELECT count(*), count(gap_reason) FROM reasoning WHERE run_id = '{run_id}'"
    assert sql(store, stored) == [(N_TRAIN, 2)]
    train = cdner(store, "train", "-e", write_experiment(tmp_path), "--force", "--json")
    assert train.code == 0, train.err  # two sentences without a chain


def _first_words(store: Path) -> list[str]:
    """What two of the sampled training sentences begin with, as their last message shows it."""
    from cdner.corpora.demo import read_demo
    from cdner.corpora.sampling import sampled_positions

    corpus = read_demo("film", "train")
    return [corpus.sentences[position].text for position in sampled_positions(corpus, N_TRAIN, seed=0)[:2]]


@pytest.mark.slow
@pytest.mark.parametrize("structured", ["true", "false"])
def test_a_description_is_stored_as_text_whatever_format_was_asked_for(
    structured: str, tmp_path: Path
) -> None:
    store = tmp_path / "s.duckdb"
    options = ("-e", write_experiment(tmp_path), "--set", f"describe.structured={structured}")
    ran = cdner(store, "describe", *options)
    assert ran.code == 0, ran.err
    texts = [row[0] for row in sql(store, "SELECT description FROM type_description WHERE origin = 'llm'")]
    assert len(texts) == N_TYPES
    expected = "The description of text " if structured == "true" else "A thing that is described as number "
    assert all(text.startswith(expected) for text in texts)


def run_ids(tmp_path: Path, *options: str) -> dict[str, str]:
    plan = cdner(tmp_path / "none.duckdb", "run", write_experiment(tmp_path), "--dry-run", "--json", *options)
    assert plan.code == 0, plan.err
    return {row["step"]: row["run_id"] for row in plan.rows}


def test_how_a_run_is_executed_changes_no_run_id(tmp_path: Path) -> None:
    elsewhere = (
        *(
            "--batch-size",
            "3",
            "--device",
            "cpu",
            "--concurrency",
            "2",
            "--base-url",
            "http://localhost:1/v1",
        ),
        *("--set", "execution.timeout_seconds=7", "--backend", "replay", "--set", "name=other"),
    )
    assert run_ids(tmp_path, *elsewhere) == run_ids(tmp_path)


def test_a_whole_number_and_the_same_float_give_one_run_id(tmp_path: Path) -> None:
    whole, real = (run_ids(tmp_path, "--set", f"confusion.w0={value}") for value in ("3", "3.0"))
    assert whole == real
    assert whole["quantify:target"] != run_ids(tmp_path)["quantify:target"]


def test_a_setting_changes_the_runs_that_depend_on_it_and_no_others(tmp_path: Path) -> None:
    before, after = run_ids(tmp_path), run_ids(tmp_path, "--alpha", "0.4")
    changed = {label for label in before if before[label] != after[label]}
    augmented = {label for label in before for name in REASONING_SETTINGS if f":{name}" in label}
    assert changed == {"quantify:target", *augmented}


def test_decoding_is_part_of_a_training_that_selects_by_predictions(tmp_path: Path) -> None:
    def trained(select: str, decoding: str) -> dict[str, str]:
        sections = ("train_source", "train_target", "train_augmented")
        chosen = [f"--set={section}.select={select}" for section in sections]
        ids = run_ids(tmp_path, *chosen, "--decoding", decoding)
        return {label: ids[label] for label in ("train:source", "train:without_all")}

    assert trained("dev_loss", "free") == trained("dev_loss", "grounded")
    free, grounded = trained("dev_metric", "free"), trained("dev_metric", "grounded")
    assert all(free[label] != grounded[label] for label in free)


def test_a_models_folder_may_move_but_its_weights_may_not_change(tmp_path: Path) -> None:
    def planned(folder: Path) -> dict[str, str]:
        llm = ("--set", f"reason.model={folder}", "--set", f"describe.model={folder}")
        return run_ids(tmp_path, "--backbone-model", str(folder), *llm)

    here, there = tmp_path / "here" / "t5", tmp_path / "there" / "t5"
    shutil.copytree(shared_folder() / "t5", here)
    shutil.copytree(here, there)
    assert planned(here) == planned(there)
    (weights,) = there.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    changed = {label for label, run_id in planned(here).items() if planned(there)[label] != run_id}
    assert {"train:source", "describe:target", "reason:full/train", "predict:full/test"} <= changed
    assert not any(label.startswith("import:") for label in changed)


def test_the_local_backend_is_called_what_its_requests_say(tmp_path: Path) -> None:
    model = str(shared_folder() / "llama")
    llm = Llm(backend="local", model=model, structured=False, retries=0)
    context = open_context(tmp_path / "s.duckdb", Experiment(name="e"), progress=StderrProgress(quiet=True))
    assert context.llms.open(llm).model == context.model("llm", model)
    assert context.model("llm", "embedded") == "embedded@b179c9523d0e"


def test_a_verb_alone_makes_its_runs_known_by_the_experiments_name(tmp_path: Path) -> None:
    store = copy_of(finished_store("seq2seq"), tmp_path / "copy")
    with Store(store).transaction() as connection:
        connection.execute("DELETE FROM experiment_run")
    experiment = write_experiment(tmp_path)
    assert cdner(store, "evaluate", "-e", experiment, "--setting", "full", "--split", "test").code == 0
    labels = {label for (label,) in sql(store, "SELECT label FROM experiment_run")}
    assert {"evaluate:full/test", "predict:full/test", "train:full"} <= labels
    listed = cdner(store, "errors", "-e", experiment, "--setting", "full", "--json")
    assert listed.code == 0, listed.err
