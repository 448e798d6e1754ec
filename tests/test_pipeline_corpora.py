"""Corpora of one's own through the pipeline, and what of a corpus may and may not reach a prompt."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.tiny_models import write_tiny_llama
from pipeline_experiments import (
    CALLS,
    calls,
    cdner,
    copy_of,
    dump,
    finished_store,
    sql,
    write_experiment,
)
from store_examples import counted_openings

import cdner as package
from cdner.console.experiment_options import compose_experiment
from cdner.console.progress import StderrProgress
from cdner.corpora.demo import FILES
from cdner.errors import InputError, StoreError
from cdner.experiment.own_corpora import import_files
from cdner.experiment.plan import build_plan
from cdner.steps.context import open_context
from cdner.store import Store

SHIPS = {
    "train": "Wulf B-ship\nleft O\nKiel B-harbour\n\nThe O\nSee B-ship\nAdler I-ship\nsank O\n",
    "dev": "Adler B-ship\nmet O\nCaptain O\nRohde B-captain\n",
    "test": "Kiel B-harbour\nsaw O\nWulf B-ship\n",
}
WHOLE = tuple(f"--set=corpora.n_target_{split}=0" for split in SHIPS)  # they have fewer than the samples
EVERY = 'splits=["dev", "test"]'
AWKWARD = {
    "train": "{{ O\n7*7 B-term\n}} O\n",
    "dev": "{% O\nraw B-term\n%} O\n",
    "test": "</s> O\n<|im_end|> B-term\n<text> O\n{{ O\nconfig B-term\n}} O\n{# O\nx O\n#} O\n\\n O\n",
}


@pytest.fixture(autouse=True)
def _log_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))


def write_splits(folder: Path, texts: dict[str, str]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for split, text in texts.items():
        (folder / f"{split}.txt").write_text(text, encoding="utf-8")
    return [folder / f"{split}.txt" for split in texts]


def test_own_files_without_a_types_file_train_predict_and_evaluate(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    counts = []
    for file in write_splits(tmp_path / "in", SHIPS):  # one command a split: only dev knows "captain"
        (row,) = cdner(store, "import", "conll", file, "--domain", "ships", "--json").rows
        counts.append((row["split"], row["n_sentences"], row["n_entities"]))
    assert counts == [("train", 2, 3), ("dev", 1, 2), ("test", 1, 2)]
    experiment = write_experiment(tmp_path, "causal", settings=("without_all",))
    evaluated = cdner(
        store,
        "evaluate",
        "-e",
        experiment,
        "--target",
        "ships",
        "--setting",
        "without_all",
        *WHOLE,
        "--set",
        EVERY,
        "--json",
    )
    assert evaluated.code == 0, evaluated.err
    assert [row["step"] for row in evaluated.rows] == [
        "evaluate:without_all/dev",
        "evaluate:without_all/test",
    ]
    supports = sql(
        store, "SELECT split, entity_type, n_gold FROM score WHERE metric_family = 'strict' AND n_gold > 0"
    )
    assert {row for row in supports if row[0] == "dev"} == {  # "captain" stands in dev alone
        ("dev", "*", 2),
        ("dev", "macro", 2),
        ("dev", "ship", 1),
        ("dev", "captain", 1),
    }
    assert calls() == []


def test_a_plan_over_own_files_opens_the_store_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "s.duckdb"
    files = write_splits(tmp_path / "in", SHIPS)
    assert cdner(store, "import", "conll", *files, "--domain", "ships").code == 0
    overrides = ("corpora.target=ships", "reason.n_examples=0")
    experiment = compose_experiment(str(write_experiment(tmp_path, settings=("full",))), {}, overrides)
    openings = counted_openings(monkeypatch)
    with open_context(store, experiment, progress=StderrProgress(quiet=True)) as context:
        plan = build_plan(experiment, context)
    assert len([step for step in plan.steps if step.kind == "import" and "ships" in step.label]) == 3
    assert openings == ["reading"] * len(("train", "dev", "their labels", "test"))


def test_a_label_of_test_alone_reaches_no_model_and_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    texts = {**SHIPS, "test": "Kiel B-harbour\nsaw O\nBrand B-storm\n"}
    files = write_splits(tmp_path / "in", texts)
    at_once = cdner(store, "import", "conll", *files, "--domain", "ships")
    assert at_once.code == 1
    assert "ships: labels storm are not among ship, harbour, captain. Name all labels: --types" in at_once.err
    for file in files:
        assert cdner(store, "import", "conll", file, "--domain", "ships").code == 0
    experiment = write_experiment(tmp_path, "causal", settings=("without_source",))
    refused = cdner(store, "run", experiment, "--target", "ships", *WHOLE)
    assert refused.code == 1
    assert "ships/test has labels that train and dev do not have: storm." in refused.err
    (settings,) = sql(store, "SELECT settings->>'types' FROM run WHERE step = 'train'")
    assert settings == ('["ship","harbour","captain"]',)


def test_the_label_order_given_at_import_is_the_order_of_the_types(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    files = write_splits(tmp_path / "in", SHIPS)
    order = "captain,harbour,ship"
    assert cdner(store, "import", "conll", *files, "--domain", "ships", "--types", order).code == 0
    experiment = write_experiment(tmp_path, settings=("without_source",))
    assert cdner(store, "run", experiment, "--target", "ships", *WHOLE, "--until", "train").code == 0
    (settings,) = sql(store, "SELECT settings->>'types' FROM run WHERE step = 'train'")
    assert settings == ('["captain","harbour","ship"]',)


@pytest.mark.parametrize("domain", ["film", "ai", "conll2003"])
def test_other_bytes_under_a_pinned_name_are_refused(tmp_path: Path, domain: str) -> None:
    store = tmp_path / "s.duckdb"
    (file,) = write_splits(tmp_path / "in", {"train": "Uma B-person\n"})
    refused = cdner(store, "import", "conll", file, "--domain", domain)
    assert refused.code == 1
    assert refused.err.count("\n") <= 2  # a progress line, and the error
    assert f"{file}: this is not the {domain}/train that cdner knows by checksum" in refused.err
    assert f"--domain my_{domain}" in refused.err
    assert not store.exists()


def test_the_same_bytes_under_a_pinned_name_are_the_pinned_run(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    file = Path(package.__file__).parent / "corpora" / "demo" / "film" / "train.txt"
    assert ("film", "train") in FILES
    (row,) = cdner(store, "import", "conll", file, "--domain", "film", "--json").rows
    plan = cdner(store, "run", write_experiment(tmp_path), "--dry-run", "--json").rows
    states = {step["run_id"]: step["state"] for step in plan}
    assert states[row["run_id"]] == "done"


def test_a_failed_import_is_recorded_and_the_earlier_one_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "s.duckdb"
    command = ("import", "conll", *write_splits(tmp_path / "in", SHIPS), "--domain", "ships", "--json")
    assert cdner(store, *command).code == 0
    before = dump(store)

    def full(*_: object, **__: object) -> None:
        raise StoreError("The disk is full.")

    monkeypatch.setattr("cdner.store.corpora.replace_run", full)
    failed = cdner(store, *command)
    assert (failed.code, "The disk is full." in failed.err) == (1, True)
    assert dump(store) == before
    states = sql(store, "SELECT status FROM attempt WHERE attempt_n = 2")
    assert states == [("failed",)]
    monkeypatch.undo()
    assert cdner(store, *command).code == 0
    assert dump(store) == before


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No file .*gone\.txt"):
        import_files(
            tmp_path / "s.duckdb",
            {"train": [tmp_path / "gone.txt"]},
            domain="ships",
            role="target",
            labels=(),
            strict=False,
            progress=StderrProgress(quiet=True),
        )


def test_a_missing_corpus_is_one_line_with_the_way_out(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    ran = cdner(store, "run", write_experiment(tmp_path), "--target", "trains", "--dry-run")
    assert ran.code == 1
    assert "The store has no corpus trains/train. Import it first: cdner import conll" in ran.err
    assert not store.exists()


@pytest.mark.slow
def test_requests_are_the_same_without_gold_labels(tmp_path: Path) -> None:
    store = copy_of(finished_store("seq2seq"), tmp_path / "copy")
    asked = "SELECT run_id, position, request_id FROM reasoning ORDER BY ALL"
    before = sql(store, asked)
    with Store(store).transaction() as connection:
        connection.execute("DELETE FROM gold_entity")
    experiment = write_experiment(tmp_path)
    for setting in ("full", "without_initial"):
        again = cdner(store, "reason", "-e", experiment, "--setting", setting, "--force", "--json")
        assert [row["state"] for row in again.rows] == ["done"] * 3, again.err
    assert sql(store, asked) == before
    assert calls() == []


@pytest.mark.slow
def test_awkward_text_reaches_the_llm_and_the_model_verbatim(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    files = write_splits(tmp_path / "in", AWKWARD)
    assert cdner(store, "import", "conll", *files, "--domain", "signs", "--types", "term,sign").code == 0
    experiment = write_experiment(tmp_path, "causal", settings=("full",))
    ran = cdner(store, "run", experiment, "--target", "signs", *WHOLE, "--n-examples", 0, "--json")
    assert ran.code == 0, ran.err
    text = "</s> <|im_end|> <text> {{ config }} {# x #} \\n"
    (last,) = sql(
        store,
        "SELECT text FROM prompt_text JOIN request_message USING (text_id) JOIN reasoning USING (request_id)"
        " JOIN experiment_run USING (run_id) WHERE label = 'reason:full/test'"
        " ORDER BY request_message.position DESC LIMIT 1",
    )
    assert text in last[0]
    assert "49" not in last[0]
    assert sql(store, "SELECT count(*) FROM prediction") == [
        (3,)
    ]  # M_src on train, M_tgt on dev, M_aug on test


@pytest.mark.slow
def test_reasoning_beyond_the_window_is_cut_and_counted(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    assert (
        cdner(store, "import", "conll", *write_splits(tmp_path / "in", SHIPS), "--domain", "ships").code == 0
    )
    model = write_tiny_llama(tmp_path / "narrow", window=200)
    experiment = write_experiment(tmp_path, "causal", settings=("full",))
    options = ("--target", "ships", *WHOLE, "--n-examples", 0, "--backbone-model", model)
    small = (
        "train_augmented.max_input_tokens=70",
        "evidence.max_new_tokens=130",
        "predict.max_new_tokens=130",
    )
    small = tuple(word for override in small for word in ("--set", override))
    ran = cdner(store, "run", experiment, *options, *small)
    assert ran.code == 0, ran.err
    cut = sql(
        store,
        "SELECT label, sum(n_truncated_tokens), max(n_input_tokens) FROM prediction"
        " JOIN experiment_run USING (run_id) GROUP BY label ORDER BY label",
    )
    found = {label: (n_cut, longest) for label, n_cut, longest in cut}
    assert found["predict:full/test"][0] > 0
    assert found["predict:without_all/dev"][0] == 0
    assert max(longest for _, longest in found.values()) <= 200 - 130
    (logged,) = sql(
        store,
        "SELECT max(n_truncated_tokens) FROM train_log JOIN experiment_run USING (run_id)"
        " WHERE label = 'train:full'",
    )
    assert logged[0] > 0


@pytest.mark.slow
def test_a_sentence_longer_than_the_window_counts_as_without_entities(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    long = {**SHIPS, "test": "Kiel B-harbour\n" + "zzyzx O\n" * 120}
    assert (
        cdner(store, "import", "conll", *write_splits(tmp_path / "in", long), "--domain", "ships").code == 0
    )
    model = write_tiny_llama(tmp_path / "narrow", window=256)
    experiment = write_experiment(tmp_path, "causal", settings=("without_source",))
    ran = cdner(store, "run", experiment, "--target", "ships", *WHOLE, "--backbone-model", model)
    assert ran.code == 0, ran.err
    (warning,) = [line for line in ran.err.splitlines() if "longer than the model's window" in line]
    assert "1 sentences" in warning and "first: position 0" in warning
    stored = sql(
        store,
        "SELECT generated, malformed::VARCHAR FROM prediction WHERE malformed::VARCHAR LIKE '%too_long%'",
    )
    assert stored == [("", '{"too_long":1}')]
