"""Files as they should not be, through ``cdner import`` and onward: each is one line, or comes through unharmed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipeline_experiments import CALLS, cdner, sql, write_experiment
from test_pipeline_corpora import WHOLE, write_splits

GOOD = "Ann\tB-person\nleft\tO\n\n"
MEGABYTE = "ab" * (1 << 19)
# Right to left with marks, marks that combine, letters beyond the first plane, joined emoji, a soft hyphen.
TOKENS = (
    "\u202bשָׁלוֹם\u202c",
    "العَرَبِيَّة",
    "e\u0301\u0327",
    "a\u0300\u0301\u0302\u0303",
    "𝔘𝔫𝔦",
    "👩‍🚒",
    "co\u00adop",
    "क्षि",
)


@pytest.fixture(autouse=True)
def _log_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (GOOD.replace("Ann", "Änn").encode("latin-1"), "line 1: byte 1 of the line (0xc4) is not UTF-8"),
        (GOOD.encode("cp1252") + "naïve\tO\n".encode("cp1252"), "line 4: byte 3 of the line (0xef)"),
        (GOOD.encode("utf-16"), "line 1: byte 1 of the line (0xff) is not UTF-8"),
        (GOOD.encode("utf-16-le"), "line 1: NUL character; this is not a text file in UTF-8"),
        (GOOD.encode("utf-32-be"), "line 1: NUL character"),
        (b"\xed\xa0\x80\tO\n", "line 1: byte 1 of the line (0xed) is not UTF-8"),
        (GOOD.encode() + b"a\x00b\tO\n", "line 4: NUL character"),
        (b"", "no sentence in it"),
        (b"\n\n \t\n", "no sentence in it"),
        (b"\xef\xbb\xbf", "no sentence in it"),
        (MEGABYTE.encode(), "line 1: only 'abababab"),
        (f"Ann\tB-person\n{MEGABYTE}\t{MEGABYTE}\n".encode(), "line 2: unknown tag 'abab"),
        (b"\x1b]0;owned\x07\tO\t\x1b[31mx\n", "line 1: unknown tag '\\x1b[31mx'"),
        (b"PK\x03\x04\x14\x00\x00\x00", "line 1: NUL character"),
        (b'{"tokens": ["a"], "ner_tags": ["O"]}\n', "line 1: unknown tag '[\"O\"]}'"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line_and_makes_no_store(
    content: bytes, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "train.txt"
    file.write_bytes(content)
    ran = cdner(tmp_path / "s.duckdb", "--quiet", "import", "conll", file, "--domain", "d")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"Error: {file}") and told in ran.err
    assert len(ran.err.splitlines()) == 1 and len(ran.err) < 600 and ran.err.strip().isprintable()
    assert not (tmp_path / "s.duckdb").exists()


def test_every_script_and_the_longest_token_come_back_as_they_were(tmp_path: Path) -> None:
    """Into the store, into its listings, and out again."""
    tokens = (*TOKENS, MEGABYTE, "end")
    lines = "".join(f"{token}\t{'B' if n % 2 == 0 else 'I'}-größe\n" for n, token in enumerate(tokens))
    (file,) = write_splits(tmp_path / "in", {"train": lines})
    store = tmp_path / "s.duckdb"
    (row,) = cdner(store, "import", "conll", file, "--domain", "d", "--json").rows
    assert (row["n_sentences"], row["n_entities"]) == (1, 5)
    (shown,) = cdner(store, "corpora", "show", "d", "--json").rows
    assert shown["text"] == " ".join(tokens)
    assert shown["entities"][0] == {
        **{"type": "größe", "mention": " ".join(tokens[:2]), "start_token": 0, "end_token": 2}
    }
    table = cdner(store, "corpora", "show", "d", "--limit", 1).out
    assert "\u202b" not in table and "\\u202b" in table
    asked = cdner(store, "sql", "SELECT tokens, len(text) AS n FROM sentence", "--nl").out
    assert json.loads(asked) == {"tokens": list(tokens), "n": len(" ".join(tokens))}
    assert cdner(store, "store", "verify").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_a_sentence_of_ten_thousand_tokens_is_a_counted_prediction_of_nothing(
    family: str, tmp_path: Path
) -> None:
    """No model's window holds it, T5's neither, whose attention over it would take all memory there is."""
    store = tmp_path / "s.duckdb"
    long = "Wulf\tB-ship\n" + "sank\tO\n" * 9_999
    files = write_splits(tmp_path / "in", {"train": GOOD, "dev": GOOD, "test": f"{long}\n{GOOD}"})
    for file in files:
        assert cdner(store, "import", "conll", file, "--domain", "d", "--types", "person,ship").code == 0
    experiment = write_experiment(tmp_path, family, settings=("without_source",))
    ran = cdner(store, "run", experiment, "--target", "d", *WHOLE, "--set=predict.max_new_tokens=8")
    assert ran.code == 0, ran.err
    assert "longer than the model's window" in ran.err
    generated = "SELECT position, generated <> '' FROM prediction JOIN experiment_run USING (run_id)"
    rows = sql(store, f"{generated} WHERE label = 'predict:without_source/test' ORDER BY position")
    assert rows == [(0, False), (1, True)]
