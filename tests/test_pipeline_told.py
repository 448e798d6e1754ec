"""Verdicts in the backbone's input, from end to end: out of fold on train, told as texts, resumed, packed and fused."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pipeline_experiments import (
    CALLS,
    GAPS,
    DieAt,
    calls,
    cdner,
    copy_of,
    dump,
    ended,
    shared_folder,
    sql,
    start_cdner,
    write_experiment,
)

from cdner.console.experiment_options import compose_experiment
from cdner.console.progress import StderrProgress
from cdner.experiment.execute import execute
from cdner.experiment.plan import build_plan
from cdner.steps.context import open_context
from cdner.steps.crossfitting import dealt_folds
from cdner.store import Store
from cdner.store.runs import OUTPUT_TABLES
from cdner.types import Sentence

N_TRAIN, N_SCORED, N_FOLDS, EPOCHS = 15, 10, 3, 30
SETTINGS = ("without_all", "told", "told_fused")
MORE = f"""
[judge]
backend = "recorded"
model = "listener"
neighbours = 3
[crossfit]
folds = {N_FOLDS}
"""
TRAINED = tuple(
    f"--set={section}.{key}"
    for section in ("train_target", "train_augmented")
    for key in (f"epochs={EPOCHS}", "head_rate=3", "select=last", "batch_size=5", "learning_rate=3e-3")
)
SIZES = {"target_train": N_TRAIN, "target_dev": N_SCORED, "target_test": N_SCORED}
OPTIONS = (
    *TRAINED,
    *(f"--set=corpora.n_{name}={n}" for name, n in SIZES.items()),
    '--set=splits=["dev", "test"]',
)
RESULTS = ("prediction", "predicted_entity", "type_probability", "judged_mention", "reasoning", "score")
OUT_OF_FOLD, TELLING = "crossfit:without_all/train", "tell:without_all/{}"


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    return tmp_path / "calls"


def experiment(
    folder: Path, family: str = "tagger", *, settings: tuple[str, ...] = SETTINGS, more: str = ""
) -> Path:
    path = write_experiment(folder, family, name="told", settings=settings)
    path.write_text(path.read_text() + MORE + more)
    return path


@dataclass
class Observed:
    """What each fold's model was trained on and what it predicted, by the folder of its weights."""

    trained: dict[str, tuple[str, ...]] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    predicted: dict[str, tuple[str, ...]] = field(default_factory=dict)


def observe(monkeypatch: pytest.MonkeyPatch) -> Observed:
    """Trainings of folds and predictions of their models, seen where the backbone begins."""
    from cdner.models import training
    from cdner.models.tagger import TaggerBackbone

    seen = Observed()
    fit, tag = training.fit, TaggerBackbone.tag

    def fitted(backbone: Any, train: Any, dev: Any, **options: Any) -> Any:
        name = options["output"].name
        if ".fold-" in name:
            seen.trained[name] = tuple(example.sentence.text for example in train)
            seen.seeds[name] = options["settings"].seed
        return fit(backbone, train, dev, **options)

    def tagged(self: Any, sentences: Any, *arguments: Any, **options: Any) -> Any:
        folds = [name for name in seen.trained if name not in seen.predicted]
        if folds:
            seen.predicted[folds[0]] = tuple(sentence.text for sentence in sentences)
        return tag(self, sentences, *arguments, **options)

    monkeypatch.setattr(training, "fit", fitted)
    monkeypatch.setattr(TaggerBackbone, "tag", tagged)
    return seen


@cache
def finished() -> tuple[Path, Observed]:
    """The store of an unbroken run, and what its folds saw; copy the store before changing it."""
    folder = shared_folder() / "told"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patched:
        seen = observe(patched)
        ran = cdner(folder / "s.duckdb", "run", experiment(folder), *OPTIONS)
    assert ran.code == 0, ran.err
    (folder / "progress").write_text(ran.err)
    return folder / "s.duckdb", seen


def run_of(store: Path, label: str) -> str:
    ((run_id,),) = sql(store, f"SELECT run_id FROM labelled_run WHERE label = '{label}'")
    return str(run_id)


def left_behind(store: Path) -> list[str]:
    return [path.name for path in (store.parent / "checkpoints").iterdir() if "fold" in path.name]


def texts(store: Path, split: str) -> dict[int, str]:
    rows = sql(
        store,
        "SELECT position, bidirectional, initial, gap_reason FROM reasoning"
        f" WHERE run_id = '{run_of(store, TELLING.format(split))}'",
    )
    assert {row[2:] for row in rows} <= {("", None)}
    return {position: text for position, text, *_ in rows}


# --- out of fold ------------------------------------------------------------------------------------------


def test_every_training_sentence_is_predicted_once_by_a_model_that_has_not_seen_it():
    store, seen = finished()
    assert len(seen.trained) == N_FOLDS
    predicted = [text for fold in seen.predicted.values() for text in fold]
    train = {
        text
        for (text,) in sql(
            store,
            "SELECT text FROM prediction JOIN corpus_sentence USING (position) JOIN sentence USING (sentence_id)"
            " JOIN prediction_corpus ON prediction_corpus.run_id = prediction.run_id"
            " AND corpus_run_id = corpus_sentence.run_id"
            f" WHERE prediction.run_id = '{run_of(store, OUT_OF_FOLD)}'",
        )
    }
    assert sorted(predicted) == sorted(train) and len(predicted) == N_TRAIN
    for fold, sentences in seen.predicted.items():
        assert set(seen.trained[fold]) == train - set(sentences)
        assert len(sentences) == N_TRAIN // N_FOLDS


def test_each_fold_has_the_next_seed_and_leaves_no_model():
    store, seen = finished()
    assert list(seen.seeds.values()) == [0, 1, 2]
    assert left_behind(store) == []
    trained = sql(
        store, f"SELECT position FROM training_sentence WHERE run_id = '{run_of(store, OUT_OF_FOLD)}'"
    )
    assert len(trained) == N_TRAIN


def test_predictions_out_of_fold_hold_probabilities_as_a_predict_run_does():
    store, _ = finished()
    run_id = run_of(store, OUT_OF_FOLD)
    n, n_types = sql(
        store,
        "SELECT count(DISTINCT (position, start_token)), count(*) FROM type_probability"
        f" WHERE run_id = '{run_id}'",
    )[0]
    ((n_entities,),) = sql(store, f"SELECT count(*) FROM predicted_entity WHERE run_id = '{run_id}'")
    assert n == n_entities > 3
    assert n_types == 11 * n


def test_its_progress_says_which_fold_is_trained():
    store, _ = finished()
    lines = (store.parent / "progress").read_text()
    assert f"{OUT_OF_FOLD}: fold 1 of 3, trained on 10 sentences" in lines
    assert f"{OUT_OF_FOLD}: fold 3 of 3 (5)" in lines


def test_sentences_of_one_text_are_in_one_fold():
    words = "abacdbea"
    sentences = [Sentence((word,)) for word in words]
    for n_folds in range(2, 7):
        positions = [0, 1, 2, 3, 4, 5, 7]
        folds = dealt_folds(sentences, positions, n_folds)
        assert sorted(position for fold in folds for position in fold) == positions
        assert len(folds) == min(n_folds, 4) and all(folds)
        where = {
            word: [i for i, fold in enumerate(folds) if any(words[p] == word for p in fold)]
            for word in "abcd"
        }
        assert all(len(found) == 1 for found in where.values())


def test_one_sentence_alone_cannot_be_cross_fitted(tmp_path):
    untrained = ("--set=train_source.epochs=0", "--set=train_target.epochs=0")
    alone = ("--set=corpora.n_target_train=1", "--until", "crossfit")
    ran = cdner(tmp_path / "s.duckdb", "run", experiment(tmp_path), *untrained, *alone)
    assert ran.code == 2
    assert "1 training sentences make 1 fold" in ran.err and "corpora.n_target_train" in ran.err


def undo(store: Path, *labels: str, tables: tuple[str, ...] = ()) -> None:
    """As if these steps had never been carried out; of ``tables`` nothing is left."""
    run_ids = [run_of(store, label) for label in labels]
    with Store(store).transaction() as connection:
        for table in (*OUTPUT_TABLES, "attempt"):
            connection.execute(f"DELETE FROM {table} WHERE run_id IN (SELECT unnest(?))", [run_ids])
        for table in tables:
            connection.execute(f"DELETE FROM {table}")


def test_after_a_kill_the_folds_that_are_stored_are_not_trained_again(tmp_path, monkeypatch):
    store = copy_of(finished()[0], tmp_path / "killed")
    undo(store, OUT_OF_FOLD)
    arguments = ("run", experiment(tmp_path), *OPTIONS)
    dying = DieAt("cdner.store.predictions", "save_predictions", n=2)
    assert ended(start_cdner(store, *arguments, log=tmp_path / "log", patch=dying)) == -9
    assert left_behind(store) == [f"{run_of(store, OUT_OF_FOLD)}.fold-1"]
    stored = f"SELECT count(*) FROM prediction WHERE run_id = '{run_of(store, OUT_OF_FOLD)}'"
    assert sql(store, stored) == [(N_TRAIN // N_FOLDS,)]
    (
        store.parent / "checkpoints" / f".{run_of(store, OUT_OF_FOLD)}.fold-0.training"
    ).mkdir()  # of another kill
    seen = observe(monkeypatch)
    ran = cdner(store, *arguments)
    assert ran.code == 0, ran.err
    assert [name.rpartition("-")[2] for name in seen.trained] == ["1", "2"]
    assert left_behind(store) == []
    assert dump(store, tables=RESULTS) == dump(finished()[0], tables=RESULTS)


def test_a_second_run_does_nothing(tmp_path, monkeypatch):
    store = copy_of(finished()[0], tmp_path / "again")
    seen = observe(monkeypatch)
    assert cdner(store, "run", experiment(tmp_path), *OPTIONS).code == 0
    assert (calls(), seen.trained) == ([], {})
    rows = cdner(store, "run", experiment(tmp_path), *OPTIONS, "--dry-run", "--json").rows
    assert {row["state"] for row in rows} == {"done"}


# --- texts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_texts_are_what_the_verdicts_say(split):
    """Written again from the view of verdicts, with loops."""
    store, _ = finished()
    rows = sql(
        store,
        f"""
        SELECT verdict.position, start_token, end_token, entity_type, probability, rank, tokens
        FROM verdict
        JOIN run_input AS read ON read.run_id = verdict.run_id AND read.position = 1
        JOIN corpus_sentence AS place ON place.run_id = read.input_run_id AND place.position = verdict.position
        JOIN sentence USING (sentence_id)
        WHERE verdict.run_id = '{run_of(store, f"judge:without_all/{split}")}' AND rank <= 2 ORDER BY 1, 2, 3, 6
        """,
    )
    expected: dict[int, list[str]] = {}
    for first, rival in zip(rows[::2], rows[1::2], strict=True):
        assert (first[:3], first[5], rival[5]) == (rival[:3], 1, 2)
        position, start, end, name, probability, _, tokens = first
        mention = " ".join(tokens[start:end])
        clause = f"{mention}: {name} rather than {rival[3]}, {probability:.2f} against {rival[4]:.2f}."
        expected.setdefault(position, []).append(clause)
    found = texts(store, split)
    assert {position: text for position, text in found.items() if text} == {
        position: " ".join(clauses) for position, clauses in expected.items()
    }
    assert len(found) == (N_TRAIN if split == "train" else N_SCORED)
    assert expected


def test_the_mentions_told_of_on_train_are_those_found_out_of_fold_and_shown_beside_others():
    store, _ = finished()
    spans = "position, start_token, end_token"
    predicted, judged = run_of(store, OUT_OF_FOLD), run_of(store, "judge:without_all/train")
    found = sql(store, f"SELECT {spans} FROM predicted_entity WHERE run_id = '{predicted}' ORDER BY ALL")
    assert sql(store, f"SELECT {spans} FROM judged_mention WHERE run_id = '{judged}' ORDER BY ALL") == found
    ((n_shown, n_own),) = sql(
        store,
        f"""
        SELECT count(*), count_if(own.sentence_id = other.sentence_id)
        FROM shown_mention
        JOIN run_input AS read ON read.run_id = shown_mention.run_id AND read.position = 1
        JOIN corpus_sentence AS own ON own.run_id = read.input_run_id AND own.position = shown_mention.position
        JOIN corpus_sentence AS other ON other.run_id = read.input_run_id AND other.position = train_position
        WHERE shown_mention.run_id = '{judged}'
        """,
    )
    assert (n_shown, n_own) == (3 * len(found), 0)


def test_no_label_of_dev_or_test_enters_a_text(tmp_path):
    """With these labels gone from the store the same questions are asked and the same texts are told."""
    store = copy_of(finished()[0], tmp_path / "unlabelled")
    before = dump(store, tables=("reasoning", "judged_mention", "shown_mention"))
    imported = [run_of(store, f"import:film/{split}") for split in ("dev", "test")]
    with Store(store).transaction() as connection:
        (n_gone,) = connection.execute(
            "DELETE FROM gold_entity WHERE run_id IN (SELECT unnest(?))", [imported]
        ).fetchone() or (0,)
    assert n_gone > 10
    overrides = tuple(option.removeprefix("--set=") for option in OPTIONS)
    asked = compose_experiment(str(experiment(tmp_path)), {}, overrides)
    with open_context(store, asked, progress=StderrProgress(quiet=True)) as context:
        plan = build_plan(asked, context)
        again = [f"{kind}:without_all/{split}" for kind in ("judge", "tell") for split in ("dev", "test")]
        outcomes = {row.label: row.state for row in execute(plan.closure(again), context, force=set(again))}
    assert {label for label, state in outcomes.items() if state == "done"} == set(again)
    assert calls() == []
    assert dump(store, tables=tuple(before)) == before


def test_a_mention_without_an_answer_is_not_named_and_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv(GAPS, "Entity")
    store = copy_of(finished()[0], tmp_path / "gaps")
    ran = cdner(store, "run", experiment(tmp_path), *OPTIONS, "--set=judge.seed=1", "--until", "tell")
    assert ran.code == 0, ran.err
    assert f"Warning: {TELLING.format('test')}: " in ran.err
    assert "mentions have no verdict; the texts leave them out" in ran.err
    assert set(texts(store, "test").values()) == {""}


# --- what reads them ---------------------------------------------------------------------------------------


def test_the_model_reads_the_texts():
    store, _ = finished()
    rows = sql(
        store,
        "SELECT told.position, told.n_input_tokens - plain.n_input_tokens"
        " FROM prediction AS told JOIN prediction AS plain USING (position)"
        f" WHERE told.run_id = '{run_of(store, 'predict:told/test')}'"
        f" AND plain.run_id = '{run_of(store, 'predict:without_all/test')}'",
    )
    with_text = {position for position, text in texts(store, "test").items() if text}
    assert {position for position, n_more in rows if n_more > 0} == with_text
    assert with_text


def test_told_fused_has_the_entities_of_told_with_verdicts_on_its_own_mentions():
    store, _ = finished()
    spans = "SELECT position, start_token, end_token FROM {} WHERE run_id = '{}' ORDER BY ALL"
    told = sql(store, spans.format("predicted_entity", run_of(store, "predict:told/test")))
    assert len(told) > 2
    for table, label in (("judged_mention", "judge:told/test"), ("predicted_entity", "fuse:told_fused/test")):
        assert sql(store, spans.format(table, run_of(store, label))) == told


def test_listings_scores_and_comparisons_know_the_settings():
    store, _ = finished()
    ran = cdner(store, "sql", "@leaderboard", "--experiment", "told", "--json")
    assert {row["setting"] for row in ran.rows} == set(SETTINGS)
    labelled = sql(store, "SELECT step, setting, split FROM labelled_run WHERE step IN ('crossfit', 'tell')")
    assert sorted(labelled) == [
        ("crossfit", "without_all", "train"),
        *(("tell", "without_all", split) for split in ("dev", "test", "train")),
    ]
    compared = cdner(store, "compare", "told:without_all/test", "told:told_fused/test", "--resamples", "100")
    assert compared.code == 0, compared.err
    for step, n in (("crossfit", 1), ("tell", 3)):
        assert len(cdner(store, "runs", "--step", step, "--json").rows) == n
    coverage = cdner(store, "sql", "@reasoning_coverage", "--experiment", "told", "--json").rows
    assert [(row["setting"], row["n_texts"]) for row in coverage] == [("told", N_SCORED)]
    assert sql(store, "SELECT DISTINCT backend_family FROM llm_usage") == [("recorded",)]
    (row,) = sql(store, "SELECT n_units, with_reasoning FROM step_duration WHERE step = 'crossfit'")
    assert row == (N_TRAIN * EPOCHS * (N_FOLDS - 1), False)
    assert cdner(store, "store", "verify").code == 0


def test_verbs_judge_train_and_refuse_what_there_is_not(tmp_path):
    store = copy_of(finished()[0], tmp_path / "verbs")
    path = experiment(tmp_path)
    judged = cdner(store, "judge", "-e", path, *OPTIONS, "--setting", "told", "--split", "train", "--json")
    assert [(row["step"], row["state"]) for row in judged.rows] == [("judge:without_all/train", "found")]
    own = cdner(store, "judge", "-e", path, *OPTIONS, "--setting", "told_fused", "--json")
    assert [row["step"] for row in own.rows] == ["judge:told/dev", "judge:told/test"]
    (tmp_path / "rows.jsonl").write_text('{"text": "Ada met Turing ."}\n')
    for name in ("told:told/test", "told:told_fused/test"):
        refused = cdner(store, "annotate", tmp_path / "rows.jsonl", tmp_path / "out", "--run", name)
        assert refused.code == 2, refused.err
        assert "'cdner annotate' does not ask for" in refused.err


def test_explain_takes_no_told_run_for_another_and_says_what_it_cannot_do():
    store, _ = finished()
    explain = ("explain", "--sentence", "Ada met Turing .")
    refused = cdner(store, *explain, "--run", "told:told_fused/test")
    assert refused.code == 2 and "is of the setting 'told_fused'" in refused.err
    assert "Name a run of fused, full_fused" in refused.err
    refused = cdner(store, *explain, "--run", "told:told/test")
    assert refused.code == 2 and "predicts without reasoning texts of an LLM" in refused.err
    absent = cdner(store, *explain, "--setting", "fused", "-e", "told")
    assert absent.code == 1 and "fuse:fused/" in absent.err


def test_the_questions_on_train_can_be_rendered(tmp_path):
    store, _ = finished()
    judge = ("prompts", "render", "-e", experiment(tmp_path), *OPTIONS, "--what", "judge", "--split", "train")
    position, mention = sql(
        store,
        "SELECT position, mention FROM predicted_entity"
        f" WHERE run_id = '{run_of(store, OUT_OF_FOLD)}' ORDER BY position, start_token",
    )[0]
    rendered = cdner(store, *judge, "--setting", "told", "--position", position)
    assert rendered.code == 0, rendered.err
    assert f"Entity: {mention}\n" in rendered.out
    refused = cdner(store, *judge, "--setting", "fused")
    assert refused.code == 2 and "the LLM is asked about dev and test" in refused.err


def test_a_bundle_holds_the_texts_and_replays(tmp_path):
    store, _ = finished()
    bundle = tmp_path / "told.zip"
    packed = cdner(store, "bundle", "pack", bundle, "--experiment", "told")
    assert packed.code == 0, packed.err
    new = copy_of(store, tmp_path / "new")
    labels = [label for (label,) in sql(store, "SELECT label FROM experiment_run")]
    mine = [label for label in labels if label.partition(":")[0] in ("judge", "tell", "fuse", "evaluate")]
    undo(new, *mine, tables=("request", "request_message", "prompt_text", "completion"))
    loaded = cdner(new, "bundle", "load", bundle)
    assert loaded.code == 0, loaded.err
    replayed = cdner(new, "run", experiment(tmp_path), *OPTIONS, "--backend", "replay")
    assert replayed.code == 0, replayed.err
    assert calls() == []
    results = ("reasoning", "predicted_entity", "score")
    assert dump(new, tables=results) == dump(store, tables=results)
    assert cdner(new, "store", "verify").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("family", ["seq2seq", "causal"])
def test_decoders_read_told_verdicts_without_probabilities_of_their_own(family, tmp_path):
    store = tmp_path / "s.duckdb"
    small = ("--set=judge.neighbours=1", "--set=crossfit.folds=2", '--set=splits=["test"]')
    ran = cdner(store, "run", experiment(tmp_path, family, settings=("told",)), *small)
    assert ran.code == 0, ran.err
    assert set(texts(store, "test").values()) != {""}
    assert sql(store, "SELECT count(*) FROM type_probability") == [(0,)]
    rows = sql(
        store,
        "SELECT told.position, told.n_input_tokens > plain.n_input_tokens"
        " FROM prediction AS told JOIN prediction AS plain USING (position)"
        f" WHERE told.run_id = '{run_of(store, 'predict:told/test')}'"
        f" AND plain.run_id = '{run_of(store, 'predict:without_all/test')}'",
    )
    assert dict(rows) == {position: text != "" for position, text in texts(store, "test").items()}
