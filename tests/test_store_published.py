"""Published numbers: read whole, consistent with themselves, loaded into every store, never
compared unlike to unlike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_stores import domain, import_corpus

from cdner.corpora.conll import ConllReader
from cdner.errors import StoreError
from cdner.files import Json
from cdner.store import Store, migrations
from cdner.store.migrations import published_texts, read_published
from cdner.store.runs import begin_attempt, finish_attempt, label_experiment, run_spec
from cdner.store.scores import ScoreRow, save_scores
from cdner.types import Corpus, Entity, Sentence, Split

PAPER = {f"table {n}": f"paper-table-{n}.toml" for n in (1, 2, 4, 5, 6, 7)}
DOMAINS = ("science", "politics", "music", "literature", "ai")


def records(name: str) -> list[dict[str, Any]]:
    return read_published(name, published_texts()[name])


def values(name: str, column: str, **where: object) -> dict[str, float]:
    """Column -> number, of the records that are so."""
    return {
        record[column]: record["value"]
        for record in records(name)
        if all(record[key] == value for key, value in where.items())
    }


# --- the files ----------------------------------------------------------------------------------------------


def test_each_table_of_the_paper_is_read_whole():
    n_numbers = {table: len(records(name)) for table, name in PAPER.items()}
    assert n_numbers == {
        "table 1": (12 + 7 + 4) * 6,  # rows by columns, without those that print "-"
        "table 2": 5 * 6,
        "table 4": 12 * 10,
        "table 5": 5 * 12,
        "table 6": 24 * 3,
        "table 7": 5 * 5,
    }
    assert {record["source_table"] for name in PAPER.values() for record in records(name)} == set(PAPER)


def test_every_number_has_a_reference_and_no_key_twice():
    seen = set()
    for name in published_texts():
        for record in records(name):
            assert 0 < record["value"] < 100
            assert record["reference"]
            assert record["split"] == ("dev" if name == PAPER["table 6"] else "unknown")
            key = tuple(value for column, value in record.items() if column not in ("value", "remark"))
            assert key not in seen
            seen.add(key)


@pytest.mark.parametrize("name", [PAPER["table 1"], PAPER["table 2"]])
def test_printed_averages_are_means_but_for_those_remarked_on(name):
    rows: dict[tuple, dict[str, float]] = {}
    remarked = set()
    for record in records(name):
        row = tuple(record[key] for key in ("method", "setting", "source_domain", "backbone"))
        rows.setdefault(row, {})[record["target_domain"]] = record["value"]
        if record["remark"]:
            remarked.add(row)
    wrong = {
        row
        for row, found in rows.items()
        if abs(sum(found[d] for d in DOMAINS) / 5 - found["average"]) > 0.0051
    }
    assert wrong == remarked


@pytest.mark.parametrize("name", [PAPER["table 5"], PAPER["table 6"], "gliner-multitask-card-2024.toml"])
def test_printed_f1_fits_precision_and_recall_but_for_those_remarked_on(name):
    rows: dict[tuple, dict[str, float]] = {}
    remarked = set()
    for record in records(name):
        kind = "span" if record["metric"].startswith("span_") else "whole"
        row = (kind, *(record[key] for key in ("method", "setting", "target_domain", "entity_type")))
        rows.setdefault(row, {})[record["metric"].removeprefix("span_")] = record["value"]
        if record["remark"]:
            remarked.add(row)
    wrong = set()
    for row, found in rows.items():
        precision, recall = found["precision"], found["recall"]
        if abs(2 * precision * recall / (precision + recall) - found["f1"]) > 0.0151:
            wrong.add(row)
    assert wrong == remarked


def test_tables_that_print_the_same_number_agree():
    base = {"backbone": "google/flan-t5-base"}
    full = values(PAPER["table 1"], "target_domain", source_domain="conll2003", setting="full", **base)
    assert values(PAPER["table 2"], "target_domain", setting="full") == full
    for setting in ("without_all", "full"):
        ablation = values(PAPER["table 2"], "target_domain", setting=setting)
        per_domain = {name: ablation[name] for name in DOMAINS}
        assert values(PAPER["table 5"], "target_domain", setting=setting, metric="f1") == per_domain
        rounded = {name: round(value, 1) for name, value in per_domain.items()}
        assert values(PAPER["table 7"], "target_domain", setting=setting, **base) == rounded


def test_table_6_s_recalls_are_shares_of_dev_s_counts_and_not_of_test_s(shared_data: Path):
    recalls = [r for r in records(PAPER["table 6"]) if r["metric"] == "recall"]
    fitting: dict[str, int] = {}
    for split in ("dev", "test"):
        counts: dict[tuple[str, str], int] = {}
        for name in ("science", "politics", "music"):
            file = shared_data / "crossner" / name / f"{split}.txt"
            corpus = ConllReader().read(file, domain=name, split=split)
            for sentence in corpus.sentences:
                for entity in sentence.entities:
                    counts[name, entity.type] = counts.get((name, entity.type), 0) + 1
        fitting[split] = sum(
            any(
                round(100 * k / counts[r["target_domain"], r["entity_type"]], 2) == r["value"]
                for k in range(counts[r["target_domain"], r["entity_type"]] + 1)
            )
            for r in recalls
        )
    assert fitting["dev"] > 2 * fitting["test"]
    assert fitting["dev"] >= 20


HEAD = """
source_table = "t"
publication = "p"
reference = "r"
method = "m"
metric = "f1"
scorer = "unknown"
split = "test"
shots = "all"
column = "target_domain"
columns = ["ai", "music"]
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "Expected '='"),
        (HEAD + "[[block]]\nfields = []\nrows = [[1.0]]", "has 1 numbers for 2 columns"),
        (HEAD + '[[block]]\nfields = ["colour"]\nrows = [["red", 1.0, 2.0]]', r"unknown \['colour'\]"),
        (
            HEAD.replace('scorer = "unknown"', "") + "[[block]]\nfields = []\nrows = [[1, 2]]",
            r"lacks \['scorer'\]",
        ),
        (
            HEAD
            + '[[block]]\nfields = []\nrows = [[1, 2]]\n[[remark_on]]\nwhere = {method = "x"}\ntext = "?"',
            "no number fits the remark",
        ),
    ],
)
def test_a_file_laid_out_otherwise_is_refused_by_name(text, message):
    with pytest.raises(StoreError, match=rf"store/published/mine\.toml: .*{message}"):
        read_published("mine.toml", text)


def test_what_is_not_printed_is_no_number_and_a_row_overrides_its_block():
    text = HEAD + '[[block]]\nmethod = "n"\nfields = ["method"]\nrows = [["o", "-", 2]]'
    (record,) = read_published("mine.toml", text)
    assert (record["method"], record["target_domain"], record["value"]) == ("o", "music", 2.0)


# --- the table ----------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "cdner.duckdb")
    with store.transaction():
        pass
    return store


def rows(store: Store, sql: str) -> list[tuple]:
    with store.reading() as connection:
        return connection.execute(sql).fetchall()


def test_a_new_store_holds_every_number(store):
    expected = sum(len(records(name)) for name in published_texts())
    assert rows(store, "SELECT count(*), count(DISTINCT reference) > 3 FROM published_score") == [
        (expected, True)
    ]


def use_texts(monkeypatch: pytest.MonkeyPatch, texts: dict[str, str]) -> None:
    migrations._hashes.cache_clear()
    monkeypatch.setattr(migrations, "published_texts", lambda: texts)


@pytest.fixture
def clean_hashes():
    yield
    migrations._hashes.cache_clear()


def test_a_changed_file_remakes_the_table_without_a_backup(store, monkeypatch, clean_hashes):
    text = HEAD + "[[block]]\nfields = []\nrows = [[11, 22]]"
    use_texts(monkeypatch, {"mine.toml": text})
    assert rows(store, "SELECT target_domain, value FROM published_score ORDER BY value") == [
        ("ai", 11.0),
        ("music", 22.0),
    ]
    assert list(store.directory.glob("*backup*")) == []


def test_unchanged_files_leave_the_table_as_it_is(store):
    with store.transaction() as connection:
        connection.execute("DELETE FROM published_score")
    assert rows(store, "SELECT count(*) FROM published_score") == [(0,)]


# --- the view -----------------------------------------------------------------------------------------------


def made(store: Store, step: str, settings: Json, *inputs: str) -> str:
    spec = run_spec(step, 1, settings, inputs)
    finish_attempt(store, begin_attempt(store, spec, {}), "done")
    return spec.run_id


def corpus_run(store: Store, name: str, role: str, split: Split, seed: int) -> str:
    corpus = Corpus(name, split, (Sentence(("a",), (Entity(0, 1, "x"),)),), types=("x",))
    return import_corpus(store, corpus, domain(name, role, ("x",)), seed)


def evaluated(store: Store, *, n_source: int = 0, n_target: Json = 0, n: int = 0, llm: str = "big") -> None:
    """Experiment "mine": one labelled evaluation of the full setting on ai/test, strict F1 0.6, with its lineage."""
    source = corpus_run(store, "news", "source", "train", 1)
    train, test = corpus_run(store, "ai", "target", "train", 2), corpus_run(store, "ai", "target", "test", 3)
    backbone = {"backbone": {"model": "small"}}
    base = made(store, "train", {**backbone, "n_train": n_source}, source)
    reason = made(store, "reason", {"llm": {"model": llm}}, train)
    final = made(store, "train", {**backbone, "n_train": n_target}, base, train, reason)
    predict = made(store, "predict", {"n": n}, final, test)
    evaluate = made(store, "evaluate", {}, predict, test)
    score = ScoreRow("ai", "test", "strict", "*", 10, 10, 6, precision=0.6, recall=0.6, f1=0.6)
    save_scores(store, evaluate, [score])
    label_experiment(store, "mine", [(evaluate, "evaluate:full/test")])


THEIRS = {
    **dict.fromkeys(("publication", "source_table", "reference"), "p"),
    **{"method": "this paper", "setting": "full", "source_domain": "news", "target_domain": "ai"},
    **{"entity_type": "*", "shots": "all", "backbone": "small", "llm": "big", "metric": "f1"},
    **{"scorer": "strict", "split": "test", "n_seeds": 1, "value": 50.0, "remark": ""},
}


def compared(store: Store, **changed: object) -> list[tuple]:
    """(comparable, why_not, difference) of our run beside one published number."""
    theirs = {**THEIRS, **changed}
    with store.transaction() as connection:
        connection.execute("DELETE FROM published_score")
        connection.execute(
            f"INSERT INTO published_score ({', '.join(theirs)}) VALUES ({', '.join('?' * len(theirs))})",
            list(theirs.values()),
        )
    return rows(store, "SELECT comparable, why_not, difference FROM published_comparison")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("ours") / "cdner.duckdb")
    evaluated(store)
    return store


def test_the_same_in_every_respect_is_comparable_and_has_a_difference(ours):
    ((comparable, why_not, difference),) = compared(ours)
    assert (comparable, why_not, difference) == (True, "", pytest.approx(10.0))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"scorer": "unknown"}, "their scorer is not stated"),
        ({"scorer": "mention_set"}, "different scorer: theirs mention_set, ours strict"),
        ({"split": "unknown"}, "their split is not stated"),
        ({"split": "dev"}, "different split: theirs dev, ours test"),
        ({"backbone": ""}, "their backbone is not stated"),
        ({"backbone": "large"}, "different backbone: theirs large, ours small"),
        ({"llm": ""}, "different LLM: theirs none or not stated, ours big"),
        ({"source_domain": ""}, "different source domain: theirs none, ours news"),
        ({"shots": "20"}, "theirs has other training sentences: shots 20"),
        ({"n_seeds": None}, "how many seeds theirs has is not stated, ours is one run"),
        ({"n_seeds": 5}, "theirs is a mean over 5 seeds, ours is one run"),
    ],
)
def test_each_thing_they_do_otherwise_forbids_the_comparison_by_name(ours, changed, reason):
    assert compared(ours, **changed) == [(False, reason, None)]


@pytest.mark.parametrize(
    ("done", "reason"),
    [
        ({"n_source": 1500}, "ours saw only 1500 source sentences"),
        ({"n_target": 20}, "ours saw only 20 target sentences"),
        ({"n_target": {"n": 30, "seed": 1}}, "ours saw only 30 target sentences"),
        ({"n_target": {"shots": 20, "unit": "mention"}}, "ours saw 20 shots (mention), theirs shots all"),
        ({"n": 7}, "ours scores only 7 sentences"),
        ({"llm": "tiny"}, "different LLM: theirs big, ours tiny"),
    ],
)
def test_each_thing_we_do_otherwise_forbids_the_comparison_by_name(store, done, reason):
    evaluated(store, **done)
    assert compared(store) == [(False, reason, None)]


def test_the_llm_alone_has_no_backbone_and_an_llm(store):
    """Its prompt warns of what a trained model confuses: that model is no part of the comparison."""
    train, test = corpus_run(store, "ai", "target", "train", 2), corpus_run(store, "ai", "target", "test", 3)
    model = made(store, "train", {"backbone": {"model": "small"}, "n_train": 0}, train)
    extract = made(store, "extract", {"llm": {"model": "big"}, "n": 7}, model, test)
    evaluate = made(store, "evaluate", {}, extract, test)
    save_scores(store, evaluate, [ScoreRow("ai", "test", "strict", "*", 10, 10, 6, 0.6, 0.6, 0.6)])
    label_experiment(store, "mine", [(evaluate, "evaluate:llm_only/test")])
    theirs = {"setting": "llm_only", "source_domain": "", "backbone": ""}
    assert compared(store, **theirs) == [(False, "ours scores only 7 sentences", None)]
    different = "different backbone: theirs small, ours none; ours scores only 7 sentences"
    assert compared(store, **{**theirs, "backbone": "small"}) == [(False, different, None)]


def test_several_reasons_are_all_given(ours):
    ((_, why_not, _),) = compared(ours, split="dev", n_seeds=3)
    assert why_not.split("; ") == [
        "different split: theirs dev, ours test",
        "theirs is a mean over 3 seeds, ours is one run",
    ]


def test_other_domains_single_types_other_ablations_and_other_metrics_are_no_pair(ours):
    for changed in (
        {"target_domain": "music"},
        {"entity_type": "x"},
        {"setting": "without_all"},
        {"metric": "recall"},
    ):
        assert compared(ours, **changed) == []
    assert len(compared(ours, method="another", setting="")) == 1
