"""Reasoning made elsewhere, through the command line: what comes in, what is missing, and what goes on from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pipeline_experiments import (
    CALLS,
    N_DEV,
    N_TEST,
    N_TRAIN,
    calls,
    cdner,
    copy_of,
    dump,
    finished_store,
    sql,
    write_experiment,
)

from cdner.store import Store
from cdner.store.llm_log import load_reasoning

FULL = ("full",)
SPLITS = {"train": N_TRAIN, "dev": N_DEV, "test": N_TEST}
EXPORT = """
    SELECT domain, split, position, text, model, initial, bidirectional
    FROM reasoning_text JOIN experiment_run USING (run_id) WHERE label LIKE 'reason:full/%'
"""


@pytest.fixture(autouse=True)
def _log_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the demo corpora and nothing else; copy it before changing it."""
    store = tmp_path_factory.mktemp("demo") / "s.duckdb"
    assert cdner(store, "import", "demo").code == 0
    return store


def film_rows(store: Path) -> list[dict[str, Any]]:
    """A row for every sentence of film."""
    found = sql(
        store,
        "SELECT split, position, text FROM corpus_sentence JOIN corpus USING (run_id)"
        " JOIN sentence USING (sentence_id) WHERE domain = 'film' ORDER BY ALL",
    )
    return [
        {
            **{"domain": "film", "split": split, "position": position, "text": text, "model": "gpt-4o-mini"},
            **{
                "initial": f"At first, {split} {position}.",
                "bidirectional": f"On reflection, {text[:9].strip()}",
            },
        }
        for split, position, text in found
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_texts_from_a_file_are_a_finished_run_like_any_other(demo: Path, tmp_path: Path) -> None:
    store, experiment = copy_of(demo, tmp_path / "copy"), write_experiment(tmp_path, settings=FULL)
    rows = film_rows(store)
    file = write(tmp_path / "texts.jsonl", rows)
    done = cdner(store, "reason", "-e", experiment, "--from", file, "--json")
    assert done.code == 0, done.err
    assert [(row["step"], row["state"]) for row in done.rows] == [
        (f"reason:full/{split}", "done") for split in SPLITS
    ]
    asked = f"{len(rows)} rows, 100 of them of other domains or splits, 0 of no sentence here, 0 repeated"
    assert (
        f"reason:full/train: {asked}; 60 sentences of the split have a row, {N_TRAIN} are asked for"
        in done.err
    )
    expected = {(row["split"], row["position"]): (row["initial"], row["bidirectional"]) for row in rows}
    for row, (split, n) in zip(done.rows, SPLITS.items(), strict=True):
        chains = load_reasoning(Store(store), row["run_id"])
        assert len(chains) == n
        assert all(
            (chain.initial, chain.bidirectional, chain.malformed) == (*expected[split, position], {})
            for position, chain in chains.items()
        )
    assert cdner(store, "store", "verify").code == 0
    columns = "n_requests, n_answered, n_calls, n_gaps, backend_family, model[:12]"
    usage = sql(store, f"SELECT {columns} FROM llm_usage ORDER BY ALL")
    assert usage == [(n, n, 0, 0, "file", "gpt-4o-mini@") for n in sorted(SPLITS.values())]
    assert calls() == []


def test_the_identity_is_the_content_of_the_file_not_its_place(demo: Path, tmp_path: Path) -> None:
    store, experiment = copy_of(demo, tmp_path / "copy"), write_experiment(tmp_path, settings=FULL)

    def reasoned(file: object, *, by_setting: bool = False) -> list[tuple[str, str]]:
        named = ("--set", "reason.backend=file", "--set", f"reason.model={file}")
        ran = cdner(store, "reason", "-e", experiment, *(named if by_setting else ("--from", file)), "--json")
        assert ran.code == 0, ran.err
        return [(row["run_id"], row["state"]) for row in ran.rows]

    file = write(tmp_path / "texts.jsonl", film_rows(store))
    first = reasoned(file)
    moved = file.rename(tmp_path / "moved.jsonl")
    assert reasoned(moved) == reasoned(moved, by_setting=True) == [(name, "found") for name, _ in first]
    moved.write_text(moved.read_text() + "\n")
    other = reasoned(moved)
    assert {state for _, state in other} == {"done"}
    assert {name for name, _ in other} & {name for name, _ in first} == set()


def test_sentences_without_a_text_are_gaps_and_end_in_exit_code_3(demo: Path, tmp_path: Path) -> None:
    store, experiment = copy_of(demo, tmp_path / "copy"), write_experiment(tmp_path, settings=FULL)
    run = ("reason", "-e", experiment, "--split", "dev", "--json")
    asked = [row["position"] for row in film_rows(store) if row["split"] == "dev"]
    whole = cdner(store, *run, "--from", write(tmp_path / "whole.jsonl", film_rows(store)))
    sampled = list(load_reasoning(Store(store), whole.rows[0]["run_id"]))
    missing, blank = sampled[1], sampled[3]
    assert set(sampled) < set(asked)
    rows = [row for row in film_rows(store) if (row["split"], row["position"]) != ("dev", missing)]
    rows += [
        row | {"initial": " ", "bidirectional": ""}
        for row in rows
        if (row["split"], row["position"]) == ("dev", blank)
    ]
    rows = [
        row for row in rows if (row["split"], row["position"], row["initial"] == " ") != ("dev", blank, False)
    ]
    file = write(tmp_path / "texts.jsonl", rows)
    partial = cdner(store, *run, "--from", file)
    assert partial.code == 3
    assert f"2 of {N_DEV} sentences have no text in {file} (first: position {missing})" in partial.err
    assert "--set execution.max_gaps=2" in partial.err
    gaps = "SELECT position, gap_reason FROM reasoning WHERE gap_reason IS NOT NULL ORDER BY ALL"
    assert sql(store, gaps) == [(p, "the file has no text for it") for p in sorted((missing, blank))]
    allowed = cdner(store, *run, "--from", file, "--set", "execution.max_gaps=2")
    assert (allowed.code, allowed.rows[0]["state"]) == (0, "done")
    assert cdner(store, "store", "verify").code == 0


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda rows: [*rows, {"domain": "film"}], "line 161: split is missing, expected a text."),
        (
            lambda rows: [*rows, rows[0] | {"initial": "Or not."}],
            "film/dev: 1 sentences have two different rows, the first in lines 1 and 161.",
        ),
        (
            lambda rows: [rows[0] | {"position": 1}, *rows[1:]],
            "film/dev: position and text disagree in 1 rows, first in line 1 (position 1).",
        ),
    ],
    ids=["bad line", "two texts", "another corpus"],
)
def test_a_file_that_cannot_be_used_leaves_the_store_as_it_was(
    spoil: Any, complaint: str, demo: Path, tmp_path: Path
) -> None:
    store, experiment = copy_of(demo, tmp_path / "copy"), write_experiment(tmp_path, settings=FULL)
    file = write(tmp_path / "texts.jsonl", spoil(film_rows(store)))
    before = dump(store)
    refused = cdner(store, "reason", "-e", experiment, "--from", file)
    assert (refused.code, complaint in refused.err, refused.err.count("\n")) == (1, True, 1), refused.err
    assert dump(store) == before
    assert cdner(store, "runs", "--step", "reason", "--json").rows == []


def test_the_texts_outlive_their_file(demo: Path, tmp_path: Path) -> None:
    store, experiment = copy_of(demo, tmp_path / "copy"), write_experiment(tmp_path, settings=FULL)
    rows = [row for row in film_rows(store) if row["position"] % 2]
    file = write(tmp_path / "texts.jsonl", rows)
    reason = ("reason", "-e", experiment, "--set", "execution.max_gaps=60", "--json")
    made = cdner(store, *reason, "--from", file)
    assert made.code == 0, made.err
    before = dump(store)
    ((name,),) = sql(store, "SELECT DISTINCT settings->>'$.llm.model' FROM run WHERE step = 'reason'")
    file.unlink()
    with Store(store).transaction() as connection:
        connection.execute("DELETE FROM reasoning")
        connection.execute(
            "DELETE FROM attempt WHERE run_id IN (SELECT run_id FROM run WHERE step = 'reason')"
        )
    by_name = ("--set", "reason.backend=file", "--set", f"reason.model={name}")
    again = cdner(store, *reason, *by_name)
    assert again.code == 0, again.err
    assert [row["state"] for row in again.rows] == ["done"] * len(SPLITS)
    assert dump(store) == before
    elsewhere = cdner(copy_of(demo, tmp_path / "other"), *reason, *by_name)
    assert (elsewhere.code, "The store has no texts from a file with checksum" in elsewhere.err) == (1, True)


def test_a_prompt_that_nobody_was_asked_is_not_shown(demo: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "texts.jsonl", film_rows(demo))
    options = ("--set", "reason.backend=file", "--set", f"reason.model={file}")
    shown = cdner(demo, "prompts", "render", "-e", write_experiment(tmp_path, settings=FULL), *options)
    assert (shown.code, "nobody was asked, so there is no prompt" in shown.err) == (2, True), shown.err


@pytest.mark.slow
def test_exported_texts_come_in_again_and_give_the_same_scores(tmp_path: Path) -> None:
    store = copy_of(finished_store("seq2seq"), tmp_path / "copy")
    experiment = write_experiment(tmp_path, settings=FULL)
    exported = cdner(store, "sql", "--nl", EXPORT)
    file = tmp_path / "texts.jsonl"
    file.write_text(exported.out, encoding="utf-8")
    assert exported.out.count("\n") == sum(SPLITS.values())
    before = dict(sql(store, "SELECT label, run_id FROM experiment_run WHERE label LIKE 'reason:full/%'"))
    command = ("-e", experiment, "--set", "reason.backend=file", "--set", f"reason.model={file}", "--json")
    imported = cdner(store, "reason", *command)
    assert imported.code == 0, imported.err
    for row in imported.rows:
        old, new = (load_reasoning(Store(store), name) for name in (before[row["step"]], row["run_id"]))
        assert row["run_id"] != before[row["step"]]
        assert {p: (c.initial, c.bidirectional) for p, c in new.items()} == {
            p: (c.initial, c.bidirectional) for p, c in old.items()
        }
    ran = cdner(store, "evaluate", *command)
    assert ran.code == 0, ran.err
    assert [row["state"] for row in ran.rows] == ["done", "done"]
    score = "SELECT * EXCLUDE run_id FROM score WHERE run_id = '{}' ORDER BY ALL"
    for row in ran.rows:
        old = sql(store, f"SELECT run_id FROM experiment_run WHERE label = '{row['step']}'")[0][0]
        assert sql(store, score.format(row["run_id"])) == sql(store, score.format(old))
    assert calls() == []
