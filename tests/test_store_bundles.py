"""Bundles from anyone: what is damaged, changed or hostile is named and does nothing."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from bundle_stores import (
    Parts,
    import_demo,
    line_changed,
    parts_of,
    row_changed,
    rows_of,
    tampered,
    written_store,
    zipped,
)
from cli_stores import Shell

from cdner.bundle import archive as bundle_archive
from cdner.bundle.contents import pack_bundle
from cdner.bundle.rows import CORPUS_PARTS, PARTS, columns_of
from cdner.files import canonical_json
from cdner.store import Store
from cdner.store.hash import hash_tables
from cdner.store.migrations import schema

Change = Callable[[Parts], None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle and a store with the corpora alone."""
    folder = tmp_path_factory.mktemp("made")
    pack_bundle(written_store(folder / "origin.duckdb"), folder / "b.zip", with_corpus=False, force=False)
    import_demo(folder / "s.duckdb")
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    shutil.copy(made / "b.zip", tmp_path / "b.zip")
    return tmp_path / "b.zip"


@pytest.fixture
def shell(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    shutil.copy(made / "s.duckdb", tmp_path / "s.duckdb")
    return Shell(capsys, tmp_path / "s.duckdb")


def assert_refused(shell: Shell, file: Path, complaint: str) -> None:
    """By verify and by load, in one line; the store and the folder stay as they are."""
    store, folder = Store(shell.store), sorted(file.parent.rglob("*"))
    before = hash_tables(store)
    for verb in ("verify", "load"):
        ran = shell("bundle", verb, file)
        assert ran.code == 1, verb
        assert complaint in ran.err and len(ran.err.splitlines()) == 1, ran.err
    assert hash_tables(store) == before
    assert sorted(file.parent.rglob("*")) == folder


def without(table: str, column: str) -> Change:
    def change(parts: Parts) -> None:
        rows = rows_of(parts, table)
        del rows[0][column]
        parts[f"{table}.jsonl"] = b"".join(canonical_json(row).encode() + b"\n" for row in rows)  # type: ignore[arg-type]

    return change


def repeated(table: str) -> Change:
    def change(parts: Parts) -> None:
        content = parts[f"{table}.jsonl"]
        parts[f"{table}.jsonl"] = content + content.partition(b"\n")[0] + b"\n"

    return change


DEEP = b"[" * 100_000
CHANGED: dict[str, tuple[Change, str]] = {
    "a prompt": (line_changed("prompt_text", b"You explain", b"You invent"), "prompt_text.jsonl, row "),
    "the text around a sentence": (
        line_changed("prompt_text", b"<text>", b"<TEXT>"),
        "prompt_text.jsonl, row ",
    ),
    "a template": (row_changed("template", 0, text="other"), "template.jsonl, row 1: its content does not"),
    "a run's settings": (
        row_changed("run", 2, settings={"n": 1}),
        "run.jsonl, row 3: its settings or inputs",
    ),
    "a run's input": (row_changed("run_input", 0, position=7), "its settings or inputs do not"),
    "a request's model": (
        row_changed("request", 1, model="other"),
        "request.jsonl, row 2: its content does not",
    ),
    "a request's prompt hash": (
        row_changed("request", 0, prompt_hash="00"),
        "request.jsonl, row 1: its content",
    ),
    "a sampling": (row_changed("request", 0, sampling=[1]), "request.jsonl, row 1: its content does not"),
    "a role": (row_changed("request_message", 0, role="root"), "request_message.jsonl, row 1: its role"),
    "a label's run": (row_changed("experiment_run", 0, run_id="x"), "row 1: run_id x is not in run.jsonl"),
    "an answer's request": (
        row_changed("completion", 1, request_id="x"),
        "completion.jsonl, row 2: request_id x",
    ),
    "a repeated row": (repeated("reasoning"), "reasoning.jsonl, row 5: a second row of "),
    "a column missing": (without("completion", "text"), "completion.jsonl, row 1: 'text' is missing"),
    "a column too many": (row_changed("run", 0, pid=1), "run.jsonl, row 1: run has no column 'pid'"),
    "a column in SQL": (
        row_changed("run", 0, **{"x) SELECT 1; --": 1}),
        "run.jsonl, row 1: run has no column",
    ),
    "a number as text": (row_changed("completion", 0, n_input_tokens="1"), "'n_input_tokens' is no INTEGER"),
    "a yes as number": (row_changed("completion", 0, n_input_tokens=True), "'n_input_tokens' is no INTEGER"),
    "a huge number": (row_changed("completion", 0, n_input_tokens=2**31), "'n_input_tokens' is no INTEGER"),
    "a number of 9000 digits": (
        line_changed("completion", b'"n_input_tokens":120', b'"n_input_tokens":1' + b"0" * 9000),
        "completion.jsonl, row 2: it is not JSON",
    ),
    "an infinite price": (
        line_changed("completion", b'"cost_usd":0.0001', b'"cost_usd":1e999'),
        "completion.jsonl, row 2: it is not",
    ),
    "no number": (line_changed("completion", b"0.0001", b"NaN"), "completion.jsonl, row 2: it is not JSON"),
    "a time of no calendar": (
        row_changed("completion", 0, created_utc="soon"),
        "'created_utc' is no TIMESTAMP",
    ),
    "half a character": (
        line_changed("completion", b'"finish_reason":"stop"', b'"finish_reason":"\\ud800"'),
        "completion.jsonl, row 2: it is not",
    ),
    "a key twice": (
        line_changed("run", b'{"run_id"', b'{"run_id":"x","run_id"'),
        "run.jsonl, row 1: it is not the",
    ),
    "deep nesting": (
        line_changed("run", b'"settings":', b'"settings":' + DEEP),
        "run.jsonl, row 1: it is not",
    ),
    "a list for a row": (line_changed("run", b"{", b"[{"), "run.jsonl, row 1: it is not JSON"),
    "pieces of no text": (line_changed("prompt_text", b'["', b'[1,"'), "prompt_text.jsonl, row "),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_row_is_named_even_if_the_sums_agree(name: str, bundle: Path, shell: Shell) -> None:
    change, complaint = CHANGED[name]
    assert_refused(shell, tampered(bundle, change), complaint)


def test_a_changed_byte_is_found_by_its_sum(bundle: Path, shell: Shell) -> None:
    change = row_changed("completion", 0, text="Another reasoning.")
    file = tampered(bundle, change, with_sums=False)
    assert_refused(shell, file, "completion.jsonl: its SHA-256 is not the manifest's")


@pytest.mark.parametrize(
    "name", ["../evil.jsonl", "/etc/evil", "run.jsonl/../evil", "C:\\evil", "sentence.jsonl"]
)
def test_a_part_that_a_bundle_does_not_have_is_refused(name: str, bundle: Path, shell: Shell) -> None:
    file = tampered(bundle, lambda parts: parts.update({name: b""}))
    assert_refused(shell, file, "bad.zip holds " if name != "sentence.jsonl" else "sentence.jsonl is either")


@pytest.mark.parametrize("name", ["run.jsonl", "manifest.json"])
def test_a_part_that_is_missing_is_named(name: str, bundle: Path, shell: Shell) -> None:
    assert_refused(
        shell, tampered(bundle, lambda parts: parts.pop(name, None) and None, with_sums=False), name
    )


def test_a_bomb_is_refused_before_it_is_unpacked(
    bundle: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(bundle)
    parts["run.jsonl"] = b"0" * 50_000_000
    bad = bundle.with_name("bad.zip")
    bad.write_bytes(zipped(parts))
    assert bad.stat().st_size < 200_000
    monkeypatch.setattr(bundle_archive, "LARGEST_CONTENT", 40_000_000)
    assert_refused(shell, bad, "would unpack to 50")


def test_an_archive_that_lies_about_a_size_is_refused(bundle: Path, shell: Shell) -> None:
    """The directory's record of the sizes is what is added up, so nothing beyond it is read."""
    content = bundle.read_bytes()
    entry = content.index(b"PK\x01\x02")  # the first entry of the directory: its size stands 24 bytes on
    bad = bundle.with_name("bad.zip")
    bad.write_bytes(content[: entry + 24] + (5).to_bytes(4, "little") + content[entry + 28 :])
    assert_refused(shell, bad, "bad.zip")


def test_two_parts_of_one_name_and_foreign_compression_are_refused(bundle: Path, shell: Shell) -> None:
    bad = bundle.with_name("bad.zip")
    shutil.copy(bundle, bad)
    with zipfile.ZipFile(bad, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("run.jsonl", b"")
    assert_refused(shell, bad, "'run.jsonl' twice")
    with zipfile.ZipFile(bad, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("manifest.json", b"{}")
    assert_refused(shell, bad, "compressed in a way")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x05\x06" + b"\xff" * 18, b"\x00" * 5000])
def test_what_is_no_archive_is_refused(content: bytes, bundle: Path, shell: Shell) -> None:
    bad = bundle.with_name("bad.zip")
    bad.write_bytes(content)
    assert_refused(shell, bad, "is no bundle of cdner")


def test_every_truncation_is_refused(bundle: Path, shell: Shell) -> None:
    content, bad = bundle.read_bytes(), bundle.with_name("bad.zip")
    for n_bytes in range(0, len(content), len(content) // 7):
        bad.write_bytes(content[:n_bytes])
        assert shell("bundle", "load", bad).code == 1


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"schema_version": 9999}, "schema 9999"),
        ({"format": 2}, "format 2"),
        ({"format": "1"}, "manifest.json: format"),
        ({"with_corpus": True}, "does not go with the manifest's with_corpus"),
        ({"parts": {}}, "is either in the manifest or in the archive"),
        ({"extra": 1}, "manifest.json: extra"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(
    values: dict[str, object], complaint: str, bundle: Path, shell: Shell
) -> None:
    def change(parts: Parts) -> None:
        parts["manifest.json"] = json.dumps(json.loads(parts["manifest.json"]) | values).encode()

    assert_refused(shell, tampered(bundle, change, with_sums=False), complaint)


def test_sql_in_texts_is_text(bundle: Path, shell: Shell) -> None:
    hostile = "'); DROP TABLE run; --"
    file = tampered(bundle, row_changed("completion", 0, text=hostile))
    assert shell("bundle", "load", file).code == 0
    with Store(shell.store).reading() as connection:
        rows = connection.execute("SELECT count(*) FROM completion WHERE text = ?", [hostile]).fetchall()
        assert rows == [(1,)] and connection.execute("SELECT count(*) FROM run").fetchone() != (0,)


def test_every_column_of_a_packed_table_is_packed_or_left_out_on_purpose() -> None:
    for part in (*PARTS, *CORPUS_PARTS):
        assert part.left_out | part.circumstances | set(part.key) <= set(schema()[part.table])
        assert set(schema()[part.table]) - set(columns_of(part)) == part.left_out
