"""What a prepared bundle cannot change: the answers and corpora that the store uses, its account, the time it takes."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from bundle_stores import (
    Parts,
    import_demo,
    parts_of,
    rows_of,
    tampered,
    written_store,
    zipped,
)
from cli_stores import Shell

from cdner.bundle.contents import load_bundle, pack_bundle
from cdner.console.progress import StderrProgress
from cdner.errors import StoreError
from cdner.experiment.own_corpora import import_files
from cdner.files import canonical_json, content_hash
from cdner.store import Store
from cdner.store.corpora import find_corpus_run, load_corpus, save_corpus
from cdner.store.llm_log import load_completions
from cdner.types import Corpus, Domain, Entity, Sentence, TypeEntry


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles of a store, with and without its corpora, and a store with the corpora alone."""
    folder = tmp_path_factory.mktemp("made")
    origin = written_store(folder / "origin.duckdb")
    pack_bundle(origin, folder / "b.zip", with_corpus=False, force=False)
    pack_bundle(origin, folder / "all.zip", with_corpus=True, force=False)
    import_demo(folder / "s.duckdb")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    for name in ("b.zip", "all.zip", "s.duckdb"):
        shutil.copy(made / name, tmp_path / name)
    return tmp_path


def with_rows(parts: Parts, table: str, rows: list[dict[str, object]]) -> None:
    parts[f"{table}.jsonl"] = b"".join(canonical_json(row).encode() + b"\n" for row in rows)  # type: ignore[arg-type]


def test_a_stored_answer_is_never_displaced(here, capsys):
    """The case: ``attempt_n: 2`` for a stored request made the bundle's text win."""
    store = Store(here / "s.duckdb")
    load_bundle(store, here / "b.zip")
    stored = rows_of(parts_of(here / "b.zip"), "completion")
    names = [str(row["request_id"]) for row in stored]
    before = load_completions(store, names)

    def answered_again(parts: Parts) -> None:
        more = [{**row, "attempt_n": 2, "text": "mine now", "cost_usd": 0.5} for row in stored]
        rows = sorted([*stored, *more], key=lambda row: (row["request_id"], row["attempt_n"]))
        with_rows(parts, "completion", rows)

    loaded = Shell(capsys, store.path)("bundle", "load", tampered(here / "b.zip", answered_again), "--csv")
    assert loaded.code == 0, loaded.err
    assert f"{len(stored)} answers were left out" in loaded.err
    assert load_completions(store, names) == before
    with store.reading() as connection:
        assert connection.execute("SELECT max(attempt_n) FROM completion").fetchone() == (1,)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("attempt_n", 2),
        ("attempt_n", 2**31 - 1),
        ("attempt_n", 0),
        ("attempt_n", -1),
        ("n_input_tokens", -1),
        ("n_output_tokens", 2**31 - 1),
        ("n_cached_tokens", -5),
        ("cost_usd", -0.01),
        ("cost_usd", 1e9),
        ("seconds", -1.0),
        ("seconds", 1e12),
    ],
)
def test_numbers_of_an_answer_are_bounded(here, capsys, column, value):
    def change(parts: Parts) -> None:
        rows = rows_of(parts, "completion")
        rows[0][column] = value
        with_rows(parts, "completion", rows)

    shell = Shell(capsys, here / "s.duckdb")
    for verb in ("verify", "load"):
        refused = shell("bundle", verb, tampered(here / "b.zip", change))
        assert refused.code == 1
        assert "completion.jsonl, row 1: " in refused.err
        assert column in refused.err


def forged(parts: Parts) -> None:
    """Another first sentence of film/train under its right checksum."""
    (run,) = [
        row["run_id"]
        for row in rows_of(parts, "corpus")
        if (row["domain"], row["split"]) == ("film", "train")
    ]
    tokens = ["Forged", "tokens"]
    name = content_hash(tokens)  # type: ignore[arg-type]
    sentences = [
        *rows_of(parts, "sentence"),
        {"sentence_id": name, "text": "Forged tokens", "tokens": tokens},
    ]
    with_rows(parts, "sentence", sentences)
    rows = rows_of(parts, "corpus_sentence")
    for row in rows:
        if (row["run_id"], row["position"]) == (run, 0):
            row["sentence_id"] = name
    with_rows(parts, "corpus_sentence", rows)


def other_entities(parts: Parts) -> None:
    rows = rows_of(parts, "gold_entity")
    types = sorted({str(row["entity_type"]) for row in rows})
    for row in rows:
        row["entity_type"] = types[0]
    with_rows(parts, "gold_entity", rows)


def fewer(parts: Parts) -> None:
    rows = rows_of(parts, "corpus_sentence")
    last = max(int(str(row["position"])) for row in rows)
    with_rows(parts, "corpus_sentence", [row for row in rows if row["position"] != last])


@pytest.mark.parametrize("change", [forged, other_entities])
def test_a_known_corpus_is_what_the_package_reads(here, capsys, change):
    shell = Shell(capsys, here / "new.duckdb")
    bad = tampered(here / "all.zip", change)
    for verb in ("verify", "load"):
        refused = shell("bundle", verb, bad)
        assert refused.code == 1
        assert "is not the file of that name" in refused.err
    assert not (here / "new.duckdb").exists()
    assert load_bundle(Store(here / "new.duckdb"), here / "all.zip")[1]["corpus"] > 0


def test_store_verify_finds_a_known_corpus_that_is_another(here, capsys):
    store = Store(here / "s.duckdb")
    run = find_corpus_run(store, "film", "train")
    assert run
    assert Shell(capsys, store.path)("store", "verify").code == 0
    with store.transaction() as connection:
        connection.execute(
            "UPDATE gold_entity SET entity_type = 'genre' WHERE run_id = ? AND position = 0", [run]
        )
    found = Shell(capsys, store.path)("store", "verify", "--csv")
    assert found.code == 1
    assert "it is not the file film/train: its sentence 0 has other entities" in found.out


# --- corpora of one's own --------------------------------------------------------------------------------


def own_store(path: Path, word: str) -> tuple[Store, str]:
    """A store in which ``mine/train`` was imported: one sentence, of this word."""
    column_file = path.with_suffix(".txt")
    column_file.write_text(f"{word}\tB-x\n")
    (row,) = import_files(
        path, {"train": [column_file]}, domain="mine", role="target", labels=(), strict=False,
        progress=StderrProgress(quiet=True),
    )  # fmt: skip
    return Store(path), row.run_id


def first_word(store: Store) -> str:
    run = find_corpus_run(store, "mine", "train")
    assert run
    return load_corpus(store, run).sentences[0].tokens[0]


def test_a_loaded_corpus_is_never_the_latest_import(tmp_path):
    theirs, _ = own_store(tmp_path / "theirs.duckdb", "Theirs")
    others, _ = own_store(tmp_path / "others.duckdb", "Others")
    mine, _ = own_store(tmp_path / "mine.duckdb", "Mine")
    pack_bundle(theirs, tmp_path / "theirs.zip", with_corpus=True, force=False)
    pack_bundle(others, tmp_path / "others.zip", with_corpus=True, force=False)
    load_bundle(mine, tmp_path / "theirs.zip")
    assert first_word(mine) == "Mine"
    empty = Store(tmp_path / "empty.duckdb")
    load_bundle(empty, tmp_path / "theirs.zip")
    load_bundle(empty, tmp_path / "others.zip")
    assert first_word(empty) == "Theirs"  # the first that came
    own_store(empty.path, "Mine")
    assert first_word(empty) == "Mine"


def test_an_import_reads_its_file_though_a_bundle_brought_a_corpus_of_its_checksum(tmp_path):
    theirs, run = own_store(tmp_path / "theirs.duckdb", "Word")
    forged_corpus = Corpus("mine", "train", (Sentence(("Forged",), (Entity(0, 1, "x"),)),), types=("x",))
    save_corpus(theirs, run, forged_corpus, Domain("mine", "target", (TypeEntry(*["x"] * 6),)))
    pack_bundle(theirs, tmp_path / "b.zip", with_corpus=True, force=False)
    mine = Store(tmp_path / "mine.duckdb")
    load_bundle(mine, tmp_path / "b.zip")
    assert first_word(mine) == "Forged"
    own_store(mine.path, "Word")
    assert first_word(mine) == "Word"


@pytest.mark.parametrize("table", ["gold_entity", "domain_type", "corpus_sentence"])
def test_a_bundle_adds_nothing_to_a_stored_corpus(tmp_path, table):
    theirs, run = own_store(tmp_path / "theirs.duckdb", "Word")
    mine, _ = own_store(tmp_path / "mine.duckdb", "Word")
    pack_bundle(theirs, tmp_path / "b.zip", with_corpus=True, force=False)
    moved = {"gold_entity": "start_token", "domain_type": "position", "corpus_sentence": "position"}[table]

    def one_more(parts: Parts) -> None:
        rows = rows_of(parts, table)
        with_rows(parts, table, [*rows, {**rows[0], moved: 9}])

    with pytest.raises(StoreError, match=f"another corpus {run}: the bundle would add to its {table}"):
        load_bundle(mine, tampered(tmp_path / "b.zip", one_more))
    assert len(load_corpus(mine, run).sentences) == 1


def test_a_clock_that_is_set_back_does_not_bring_an_old_import_back(tmp_path, monkeypatch):
    from datetime import datetime

    from cdner.store import runs

    store, _ = own_store(tmp_path / "s.duckdb", "Old")
    monkeypatch.setattr(runs, "utc_now", lambda: datetime(2001, 1, 1))
    own_store(store.path, "New")
    assert first_word(store) == "New"


# --- bounds while reading --------------------------------------------------------------------------------


def test_a_small_file_of_many_rows_is_refused_at_once(here, capsys):
    """The case: 82 kB cost 50 s and 1 GB."""
    parts = parts_of(here / "b.zip")
    parts["template.jsonl"] = b"{}\n" * 3_000_000
    bad = here / "bad.zip"
    bad.write_bytes(zipped(parts))
    assert bad.stat().st_size < 200_000
    began = time.process_time()
    refused = Shell(capsys, here / "s.duckdb")("bundle", "verify", bad)
    assert "no bundle of cdner is packed so tightly" in refused.err
    assert time.process_time() - began < 5


def test_rows_are_checked_as_they_are_read(here, capsys):
    def change(parts: Parts) -> None:
        noise = [os.urandom(16).hex() for _ in range(50_000)]
        rows: list[dict[str, object]] = [{"experiment": "e", "label": text} for text in noise]
        with_rows(parts, "experiment_run", rows)

    bad = tampered(here / "b.zip", change)
    seen = []
    from cdner.bundle import archive

    read = archive._row
    try:
        archive._row = lambda line, where: (seen.append(where), read(line, where))[1]  # type: ignore[assignment]
        refused = Shell(capsys, here / "s.duckdb")("bundle", "verify", bad)
    finally:
        archive._row = read
    assert "experiment_run.jsonl, row 1: 'run_id' is missing" in refused.err
    assert sum("experiment_run" in where for where in seen) == 1
