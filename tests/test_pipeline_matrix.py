"""An experiment that varies runs as its cells; what cells share is made once, and seeds are averaged."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev

import pytest
from pipeline_experiments import (
    CALLS,
    calls,
    cdner,
    copy_of,
    finished_store,
    sql,
    write_experiment,
)

from cdner.corpora.sampling import sampled_positions
from cdner.experiment.summary import SCORE_COLUMNS, averaged_scores
from cdner.store import Store
from cdner.store.corpora import load_corpus

VARY = """
[[vary]]
name = "epochs"
keys = ["train_target.epochs"]
values = [1, 2]
[[vary]]
name = "seed"
keys = ["train_target.seed", "train_augmented.seed"]
values = [0, 1]
"""


@pytest.fixture
def varied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    path = write_experiment(tmp_path, settings=("without_all",))
    path.write_text(path.read_text(encoding="utf-8") + VARY, encoding="utf-8")
    return path


@pytest.mark.slow
def test_cells_share_the_source_model_and_are_scored_each(varied: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    plan = cdner(store, "run", varied, "--dry-run", "--json")
    assert plan.code == 0, plan.err
    steps = [row["step"] for row in plan.rows]
    assert steps.count("train:source") == 1 and steps.count("train:without_all") == 4
    assert not store.exists()

    ran = cdner(store, "run", varied, "--json")
    assert ran.code == 0, ran.err
    names = [f"tiny[epochs={epochs},seed={seed}]" for epochs in (1, 2) for seed in (0, 1)]
    assert [row["experiment"] for row in ran.rows if row["split"] == "test"] == names
    assert sql(store, "SELECT count(*) FROM run WHERE step = 'train'") == [(5,)]
    assert sql(store, "SELECT DISTINCT experiment FROM experiment_run ORDER BY 1") == [(n,) for n in names]
    assert sql(store, "SELECT count(DISTINCT run_id) FROM experiment_run WHERE label = 'train:source'") == [
        (1,)
    ]

    n_attempts = sql(store, "SELECT count(*) FROM attempt")
    table = cdner(store, "run", varied).out
    assert sql(store, "SELECT count(*) FROM attempt") == n_attempts
    lines = [line.replace("│", " ").split() for line in table.splitlines() if "epochs=" in line]
    assert [line[:4] for line in lines if line[2] == "test"] == [
        [f"epochs={epochs}", "without_all", "test", "2"] for epochs in (1, 2)
    ]


def test_seeds_are_averaged_and_nothing_else() -> None:
    f1 = {("a=1,seed=0", "full"): 40.0, ("a=1,seed=1", "full"): 43.0, ("a=2,seed=0", "full"): 50.0}
    rows = [
        (f"x[{cell}]", setting, "film", "test", 1.0, 2.0, value, 4.0, 5.0, 6.0, 7.0, "run")
        for (cell, setting), value in f1.items()
    ]
    columns, averages = averaged_scores(("experiment", *SCORE_COLUMNS), rows)
    assert columns[:4] == ("cell", "setting", "split", "n")
    mean, deviation = f"{fmean([40.0, 43.0]):.2f}", f"{stdev([40.0, 43.0]):.2f}"
    assert averages == [
        ("a=1", "full", "test", 2, "1.00", "2.00", mean, "4.00", "5.00", deviation),
        ("a=2", "full", "test", 1, "1.00", "2.00", "50.00", "4.00", "5.00", ""),
    ]


@pytest.mark.slow
def test_the_sentences_of_a_few_shot_sample_are_stored(varied: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    shots = ("--set", "corpora.shots=3", "--set", "corpora.shot_unit=sentence", "--set", "vary=[]")
    for seed in (0, 1):
        ran = cdner(
            store, "run", varied, *shots, "--set", f"corpora.sample_seed={seed}", "--until", "train", "--json"
        )
        assert ran.code == 0, ran.err
    train = "SELECT t.run_id, list(position ORDER BY position) FROM training_sentence t "
    train += "JOIN corpus c ON c.run_id = t.corpus_run_id WHERE domain = 'film' GROUP BY ALL"
    samples = [positions for _, positions in sql(store, train)]
    corpus = load_corpus(
        Store(store), str(sql(store, "SELECT run_id FROM corpus WHERE domain = 'film' LIMIT 1")[0][0])
    )
    assert sorted(samples) == sorted(sampled_positions(corpus, 3, seed=seed) for seed in (0, 1))
    assert cdner(store, "store", "verify").code == 0


@pytest.mark.slow
def test_the_method_without_source_training_reads_fulls_texts_and_starts_from_the_plain_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    store = copy_of(finished_store("seq2seq"), tmp_path / "copy")
    experiment = write_experiment(tmp_path, settings=("full", "full_without_source"))
    ran = cdner(store, "run", experiment, "--json")
    assert ran.code == 0, ran.err
    assert calls() == []  # it has no text of its own

    def inputs(label: str) -> list[str]:
        """Labels of the runs that a run reads."""
        join = "run_input i USING (run_id) JOIN experiment_run r ON r.run_id = i.input_run_id"
        return [
            row[0]
            for row in sql(
                store,
                f"SELECT r.label FROM experiment_run l JOIN {join} WHERE l.label = '{label}' ORDER BY position",
            )
        ]

    assert inputs("train:full_without_source") == inputs("train:full")[1:]
    assert inputs("train:full")[0] == "train:source"
    assert "reason:full/test" in inputs("predict:full_without_source/test")
    assert {row["setting"] for row in ran.rows} == {"full", "full_without_source"}
