"""Bundles: what is in them, what is not, and that a store they are loaded into holds the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from bundle_stores import (
    CUT_SHORT,
    EXPERIMENT,
    FIXED,
    POSITIONS,
    import_demo,
    parts_of,
    question,
    rows_of,
    sentences_of,
    written_store,
)
from cli_stores import Shell

from cdner.bundle.contents import load_bundle, pack_bundle, verify_bundle
from cdner.errors import StoreError
from cdner.store import Store
from cdner.store.hash import hash_tables, store_hash
from cdner.store.llm_log import load_completions, load_request, save_completions
from cdner.store.runs import run_state
from cdner.store.verify import verify
from cdner.types import Completion


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and its bundle; copied before it is changed."""
    folder = tmp_path_factory.mktemp("made")
    store = written_store(folder / "s.duckdb")
    pack_bundle(store, folder / "b.zip", with_corpus=False, force=False)
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path, made: Path) -> Store:
    """Another store with the corpora alone."""
    return import_demo(tmp_path / "elsewhere" / "s.duckdb")


@pytest.fixture
def origin(tmp_path: Path, made: Path) -> Store:
    shutil.copy(made / "s.duckdb", tmp_path / "origin.duckdb")
    return Store(tmp_path / "origin.duckdb")


def count(store: Store, table: str) -> int:
    with store.reading() as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(row[0]) if row else 0


def test_no_sentence_and_no_annotation_is_in_a_bundle_unless_asked_for(made: Path, tmp_path: Path) -> None:
    store = Store(made / "s.duckdb")
    with store.reading() as connection:
        texts = [text for (text,) in connection.execute("SELECT text FROM sentence").fetchall()]
        mentions = {name for (name,) in connection.execute("SELECT mention FROM gold_entity").fetchall()}
    without = b"".join(parts_of(made / "b.zip").values()).decode()
    assert len(texts) > 300 and FIXED in without
    assert [text for text in texts if text in without] == []
    assert [name for name in mentions if len(name) > 8 and name in without] == []
    pack_bundle(store, tmp_path / "all.zip", with_corpus=True, force=False)
    whole = b"".join(parts_of(tmp_path / "all.zip").values()).decode()
    assert sum(canonical in whole for canonical in texts) > 300


def test_a_loaded_store_holds_the_same_rows_and_packs_to_the_same_bytes(
    made: Path, elsewhere: Store, tmp_path: Path
) -> None:
    _, n_added = load_bundle(elsewhere, made / "b.zip")
    assert n_added["completion"] == len(POSITIONS) + 4 and n_added["corpus"] == 0
    assert verify(elsewhere) == []
    origin = Store(made / "s.duckdb")
    assert store_hash(hash_tables(elsewhere)) == store_hash(hash_tables(origin))
    for position in (*POSITIONS, CUT_SHORT):
        asked = question(sentences_of(origin)[position])
        with elsewhere.reading() as connection:
            (name,) = connection.execute(
                "SELECT request_id FROM request_message JOIN prompt_text USING (text_id)"
                " WHERE text = ? ORDER BY request_id LIMIT 1",
                [asked.messages[-1].content],
            ).fetchone() or ("",)
        assert load_request(elsewhere, name)[2].messages == asked.messages
    pack_bundle(elsewhere, tmp_path / "again.zip", with_corpus=False, force=False)
    assert (tmp_path / "again.zip").read_bytes() == (made / "b.zip").read_bytes()


def test_loading_again_adds_nothing(made: Path, elsewhere: Store) -> None:
    load_bundle(elsewhere, made / "b.zip")
    before = hash_tables(elsewhere)
    assert set(load_bundle(elsewhere, made / "b.zip")[1].values()) == {0}
    assert hash_tables(elsewhere) == before


def test_another_answer_to_a_request_is_refused_by_name_and_nothing_is_loaded(
    made: Path, elsewhere: Store
) -> None:
    load_bundle(elsewhere, made / "b.zip")
    (name, *_) = [row["request_id"] for row in rows_of(parts_of(made / "b.zip"), "completion")]
    with elsewhere.transaction() as connection:
        connection.execute("UPDATE completion SET text = 'mine' WHERE request_id = ?", [name])
        connection.execute("DELETE FROM reasoning")
    with pytest.raises(StoreError, match=rf"another completion {name}, 1: its text differs"):
        load_bundle(elsewhere, made / "b.zip")
    assert load_completions(elsewhere, [str(name)])[str(name)].text == "mine"
    assert count(elsewhere, "reasoning") == 0


def test_what_only_differs_in_when_and_at_what_price_is_equal(made: Path, elsewhere: Store) -> None:
    load_bundle(elsewhere, made / "b.zip")
    with elsewhere.transaction() as connection:
        connection.execute("UPDATE completion SET seconds = 9, n_cached_tokens = 0, cost_usd = NULL")
        connection.execute("UPDATE run SET created_utc = '2020-01-01'")
    assert set(load_bundle(elsewhere, made / "b.zip")[1].values()) == {0}


def test_labels_that_an_experiment_has_given_to_other_runs_stay(made: Path, elsewhere: Store) -> None:
    with elsewhere.transaction() as connection:
        connection.execute(
            "INSERT INTO experiment_run SELECT ?, 'reason:full/train', run_id, '2020-01-01' FROM run LIMIT 1",
            [EXPERIMENT],
        )
    assert load_bundle(elsewhere, made / "b.zip")[1]["experiment_run"] == 1
    assert count(elsewhere, "experiment_run") == 2


def test_the_corpora_must_be_there_and_the_error_names_them(made: Path, tmp_path: Path) -> None:
    shell_store = Store(tmp_path / "none.duckdb")
    with pytest.raises(
        Exception, match=r"Import their corpora first .*film/train \(SHA-256 ebe826ff06cc"
    ) as told:
        load_bundle(shell_store, made / "b.zip")
    assert "newsdesk" not in str(told.value)  # no prompt quotes the source
    assert not shell_store.path.exists()
    assert verify_bundle(shell_store, made / "b.zip").n_requests_unhashed == len(POSITIONS) + 3


def test_with_its_corpora_a_bundle_needs_no_import(origin: Store, tmp_path: Path) -> None:
    pack_bundle(origin, tmp_path / "all.zip", with_corpus=True, force=False)
    empty = Store(tmp_path / "empty.duckdb")
    load_bundle(empty, tmp_path / "all.zip")
    assert verify(empty) == []
    assert store_hash(hash_tables(empty)) == store_hash(hash_tables(origin))
    (imported, *_) = [row["run_id"] for row in rows_of(parts_of(tmp_path / "all.zip"), "corpus")]
    assert run_state(empty, str(imported)) == "done"
    assert set(load_bundle(empty, tmp_path / "all.zip")[1].values()) == {0}
    assert count(empty, "attempt") == count(empty, "corpus")


def test_an_experiment_is_packed_with_its_retries_and_without_others_runs(
    origin: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(capsys, origin.path)
    assert shell("bundle", "pack", tmp_path / "e.zip", "-e", EXPERIMENT).code == 0
    parts = parts_of(tmp_path / "e.zip")
    asked = [row["sampling"]["seed"] for row in rows_of(parts, "request")]  # type: ignore[index]
    assert sorted(asked) == [0] * (len(POSITIONS) + 1) + [1]  # the description's too
    assert "Nobody has read this." not in parts["completion.jsonl"].decode()
    steps = sorted(str(row["step"]) for row in rows_of(parts, "run"))
    assert steps == ["describe", "import", "quantify", "reason"]
    unknown = shell("bundle", "pack", tmp_path / "u.zip", "-e", "studdy")
    assert unknown.code == 2 and "Did you mean 'study'" in unknown.err
    assert not (tmp_path / "u.zip").exists()


@pytest.mark.parametrize(
    ("variable", "key", "text"),
    [
        ("OTHER_API_KEY", "plain-words-as-key", "It says plain-words-as-key here."),
        ("OTHER_API_KEY", 'quo"ted\\key', 'It says quo"ted\\key here.'),
        ("NOTHING", "", "The key sk-proj-abcdef0123456789ABCDEF is in it."),
    ],
)
def test_a_row_with_a_key_is_named_and_nothing_is_written(
    variable: str, key: str, text: str, origin: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, key)
    pack_bundle(origin, tmp_path / "before.zip", with_corpus=False, force=False)
    (name, *_) = [row["request_id"] for row in rows_of(parts_of(tmp_path / "before.zip"), "completion")]
    save_completions(origin, "", [(str(name), Completion(text, "stop", 1, 0, 1))])
    with origin.transaction() as connection:
        connection.execute("UPDATE completion SET asked_by = NULL WHERE asked_by = ''")
    with pytest.raises(
        Exception, match=rf"completion.jsonl, row 2 \(request_id {name}, attempt_n 2\)"
    ) as told:
        pack_bundle(origin, tmp_path / "after.zip", with_corpus=False, force=False)
    assert not key or key not in str(told.value)
    assert not (tmp_path / "after.zip").exists()


def test_a_file_is_replaced_only_when_forced_and_only_by_a_whole_one(
    origin: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, shell = tmp_path / "x.zip", Shell(capsys, origin.path)
    file.write_text("mine")
    refused = shell("bundle", "pack", file)
    assert (refused.code, file.read_text()) == (2, "mine") and "--force" in refused.err
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    full = shell("bundle", "pack", file, "--force")
    assert (full.code, file.read_text()) == (1, "mine") and "No space left" in full.err
    monkeypatch.undo()
    assert shell("bundle", "pack", file, "--force").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["origin.duckdb", "x.zip"]
    assert shell("bundle", "verify", file).code == 0


def test_a_prompt_that_quotes_no_sentence_of_the_store_is_not_packed(origin: Store, tmp_path: Path) -> None:
    with origin.transaction() as connection:
        connection.execute("DELETE FROM corpus_sentence")
        connection.execute("DELETE FROM sentence")
    with pytest.raises(Exception, match=r"Request \w+ quotes a text that is no sentence of the store"):
        pack_bundle(origin, tmp_path / "x.zip", with_corpus=False, force=False)
