"""What a store, a corpus or an environment from elsewhere could do: a hostile store reads no file of ours, hostile text
stays text in every format, and no key of the environment is in anything that is written or said."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import duckdb
import pytest
from cli_stores import Shell, study_store
from report_stores import ATTACKS, TYPES, shared_report_store

from cdner.console.output import print_rows
from cdner.errors import StoreError
from cdner.export.exporting import export
from cdner.formats import ExportedCorpus
from cdner.formats.label_studio import labelling_interface
from cdner.store import Store, untrusted
from cdner.types import Entity, Prediction, Sentence

CANARY = "tr0ub4dor-Zx9Qw7Lm2"
FORMULAS = (
    '=HYPERLINK("http://x","y")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "\t=1+1",
    'a",=1+1,"',
    "=1\n=2",
)


# --- a store that somebody else made ---------------------------------------------------------------------


def test_views_of_a_hostile_store_read_no_file_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text of a view is checked by a hash that stands in the store itself: whoever makes one can write both."""
    made = study_store(tmp_path / "s.duckdb")
    secret = tmp_path / "secret.txt"
    secret.write_text(CANARY)
    with duckdb.connect(str(made.path)) as connection:
        for view in ("leaderboard", "latest_attempt", "most_confused"):
            connection.execute(f"DROP VIEW {view}")
            connection.execute(f"CREATE VIEW {view} AS SELECT *, content FROM attempt, read_text('{secret}')")
    untrusted._checked.clear()  # this process has looked into the store before
    shell = Shell(capsys, made.path)
    for command in (
        ("runs",),
        ("report", "--markdown", tmp_path / "r.md"),
        ("sql", "FROM leaderboard"),
        ("bundle", "pack", tmp_path / "b.zip"),
    ):
        ran = shell(*command)
        assert CANARY not in ran.out + ran.err
        assert "Traceback" not in ran.err
    with (
        pytest.raises(StoreError, match="file system operations are disabled"),
        Store(made.path).reading() as opened,
    ):
        opened.execute("FROM leaderboard")
    written = [file for file in (tmp_path / "r.md", tmp_path / "b.zip") if file.exists()]
    assert all(CANARY.encode() not in file.read_bytes() for file in written)


# --- a corpus full of syntax -----------------------------------------------------------------------------

TEXTS = tuple(
    "".join(text.split()) or "x" for text in (*ATTACKS, *FORMULAS, "<|im_end|>", "\x9b31m", "]]>", "%s{0}")
)


def hostile_corpus() -> ExportedCorpus:
    sentences = tuple(Sentence((text, "Ann", text), (Entity(0, 1, TYPES[2]),)) for text in TEXTS)
    predictions = tuple(Prediction("", (Entity(1, 2, "poet"),)) for _ in TEXTS)
    name = "<script>\x1b]0;owned\x07\n---\nevil: 1"
    return ExportedCorpus(
        "0123abcd", name, "ai", "test", TYPES, tuple(range(len(TEXTS))), sentences, predictions
    )


@pytest.mark.parametrize("to", ["jsonl", "labelstudio", "datasets"])
def test_hostile_text_is_text_in_every_export(to: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    export(hostile_corpus(), target, to=to)
    files = [target] if target.is_file() else sorted(target.iterdir())
    for file in files:
        content = file.read_text(encoding="utf-8")
        assert "\x1b" not in content and "\x07" not in content
        if file.name == "README.md":
            front, _, said = content.removeprefix("---\n").partition("\n---\n")
            assert "evil" not in front and "<script>" not in said and said.count("\n---\n") == 0
            continue
        rows = (
            json.loads(content)
            if to == "labelstudio"
            else [json.loads(line) for line in content.splitlines()]
        )
        found = [row["data"]["text"] if to == "labelstudio" else " ".join(row["tokens"]) for row in rows]
        assert found == [f"{text} Ann {text}" for text in TEXTS]


def test_the_labelling_interface_is_sound_xml_whatever_types_are_called() -> None:
    names = ("<b>river</b>", '"/><Header value="owned', "a&b", "$text", "{{x}}")
    root = ElementTree.fromstring(labelling_interface(names))
    assert [label.get("value") for label in root.iter("Label")] == list(names)
    assert {child.tag for child in root.iter()} == {"View", "Labels", "Label", "Text"}


def test_formulas_stay_in_their_cells_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """CSV is exact: a mention that begins with = or - is data. No cell opens another one."""
    print_rows(("mention", "n"), [(text, 1) for text in FORMULAS], "csv")
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))
    assert rows == [["mention", "n"], *([text, "1"] for text in FORMULAS)]


# --- keys ------------------------------------------------------------------------------------------------

KEYS = (
    "OPENAI_API_KEY",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "VLLM_API_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "CDNER_X_KEY",
)


def test_no_key_is_in_anything_that_is_written_or_said(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in KEYS:
        monkeypatch.setenv(name, CANARY)
    for name, value in {
        "OPENAI_LOG": "debug",
        "CDNER_DEBUG": "1",
        "CDNER_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.duckdb").write_bytes(shared_report_store(tmp_path_factory).path.read_bytes())
    shell = Shell(capsys, tmp_path / "s.duckdb")
    said = ""
    for command in (
        ("import", "demo"),
        (
            "run",
            "demo",
            "--dry-run",
            "--set=reason.backend=openai",
            f"--base-url=http://u:{CANARY}@127.0.0.1:9/v1",
        ),
        ("models", "served", f"--base-url=http://user:{CANARY}@127.0.0.1:9/v1"),
        ("doctor", "--network", f"--base-url=http://user:{CANARY}@127.0.0.1:9/v1"),
        ("backends",),
        ("runs", "--json"),
        ("report", "--html", "r.html", "--markdown", "r.md", "--resamples", 100),
        ("export", "sizes[n_train=10,seed=0]:full/test", "e.jsonl", "--to", "jsonl"),
        ("bundle", "pack", "b.zip"),
        ("sql", "FROM attempt", "--json"),
        ("sql", "SELECT * FROM duckdb_settings()", "--csv"),
    ):
        ran = shell(*command)
        assert ran.code in (0, 1, 2), command
        said += ran.out + ran.err
    assert CANARY not in said
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"s.duckdb", "r.html", "r.md", "e.jsonl"} <= {path.name for path in files}
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
    with Store(tmp_path / "s.duckdb").reading() as connection:
        for (table,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
            assert CANARY not in repr(connection.execute(f"FROM {table}").fetchall()), table
