"""``cdner import FILE``: the format is guessed and said, splits are drawn, nothing is half-imported."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from pipeline_experiments import cdner, sql

from cdner.experiment.annotated_corpora import drawn_splits
from cdner.types import Entity, Sentence


def rows(n: int) -> str:
    return "\n".join(json.dumps({"text": f"Band{i} plays", "label": [[0, 5, "band"]]}) for i in range(n))


def test_a_file_alone_is_enough(tmp_path: Path) -> None:
    store, file = tmp_path / "s.duckdb", tmp_path / "all.jsonl"
    file.write_text(rows(40), encoding="utf-8")
    ran = cdner(store, "import", str(file), "--domain", "mine", "--split", "50/25/25", "--json")
    assert ran.code == 0, ran.err
    assert "Read as jsonl" in ran.err
    assert {row["split"]: row["n_sentences"] for row in ran.rows} == {"train": 20, "dev": 10, "test": 10}
    again = cdner(store, "import", str(file), "--domain", "mine", "--split", "50/25/25", "--json")
    assert [row["run_id"] for row in again.rows] == [row["run_id"] for row in ran.rows]
    other = cdner(
        store, "import", str(file), "--domain", "mine", "--split", "50/25/25", "--seed", "1", "--json"
    )
    assert not {row["run_id"] for row in other.rows} & {row["run_id"] for row in ran.rows}


def test_repairs_are_warned_of_and_stored(tmp_path: Path) -> None:
    store, file = tmp_path / "s.duckdb", tmp_path / "train.jsonl"
    file.write_text(
        json.dumps({"text": "pre-Raphaelite art", "label": [[4, 14, "movement"]]}), encoding="utf-8"
    )
    ran = cdner(store, "import", str(file), "--domain", "mine")
    assert ran.code == 0 and "Warning: 1 marks ended inside a token: the token was split" in ran.err
    assert sql(store, "SELECT count(*) FROM attempt_warning WHERE message LIKE '%inside a token%'") == [(1,)]


def test_a_dry_run_and_a_bad_file_store_nothing(tmp_path: Path) -> None:
    store, file = tmp_path / "s.duckdb", tmp_path / "train.jsonl"
    file.write_text(rows(2), encoding="utf-8")
    dry = cdner(store, "import", str(file), "--domain", "mine", "--dry-run", "--json")
    assert dry.rows == [{"domain": "mine", "split": "train", "n_sentences": 2, "n_entities": 2, "n_types": 1}]
    file.write_text(rows(2) + "\nrubbish", encoding="utf-8")
    bad = cdner(store, "import", str(file), "--domain", "mine")
    assert bad.code != 0 and "line 3: not JSON" in bad.err and len(bad.err.strip().splitlines()) <= 2
    assert not store.exists()


@pytest.mark.parametrize("shares", ["80/10", "a/b/c", "0/0/0"])
def test_shares_are_three_numbers(shares: str, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    file.write_text(rows(3), encoding="utf-8")
    ran = cdner(tmp_path / "s.duckdb", "import", str(file), "--domain", "mine", "--split", shares)
    assert ran.code == 2 and "80/10/10" in ran.err


def test_drawn_splits_spread_types_and_keep_equal_sentences_together() -> None:
    sentences = [
        Sentence((f"w{i // 2}", "x"), (Entity(0, 1, "rare" if i < 20 else "common"),)) for i in range(200)
    ]
    splits = drawn_splits(sentences, (80, 10, 10), seed=0)
    assert {split: len(found) for split, found in splits.items()} == {"train": 160, "dev": 20, "test": 20}
    n_rare = {
        split: Counter(sentence.entities[0].type for sentence in found)["rare"]
        for split, found in splits.items()
    }
    assert n_rare == {"train": 16, "dev": 2, "test": 2}
    texts = [{sentence.text for sentence in found} for found in splits.values()]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]


NESTED = "Kuutar\tB-PRO\tB-ORG\n7\tI-PRO\tO\n\nLahdessa\tB-LOC\tO\n"


def test_how_a_column_file_is_read_is_shown_and_stored(tmp_path: Path) -> None:
    store, file = tmp_path / "s.duckdb", tmp_path / "train.txt"
    file.write_text(NESTED, encoding="utf-8")
    dry = cdner(store, "import", "conll", str(file), "--domain", "mine", "--dry-run", "--json")
    assert (dry.rows[0]["token"], dry.rows[0]["tag"], dry.rows[0]["tags"]) == (
        "column 1",
        "column 2",
        "B-TYPE",
    )
    assert not store.exists()
    ran = cdner(store, "import", "conll", str(file), "--domain", "mine", "--json")
    assert ran.code == 0 and "column 2 was read (--tag-column to change)" in ran.err
    assert sql(store, "SELECT execution ->> '$.columns[0].tag' FROM attempt") == [("column 2",)]
    assert sorted(sql(store, "SELECT entity_type FROM gold_entity")) == [("LOC",), ("PRO",)]
    last = cdner(store, "import", "conll", str(file), "--domain", "mine", "--tag-column", "3", "--json")
    assert last.rows[0]["run_id"] != ran.rows[0]["run_id"] and last.rows[0]["n_entities"] == 1


def test_a_file_of_the_default_layout_keeps_the_run_id_of_its_bytes(tmp_path: Path) -> None:
    from cdner.files import file_sha256
    from cdner.steps.context import import_spec

    store, file = tmp_path / "s.duckdb", tmp_path / "train.txt"
    file.write_text("Oslo B-LOC\nrocks O\n", encoding="utf-8")
    (row,) = cdner(store, "import", "conll", str(file), "--domain", "mine", "--json").rows
    assert row["run_id"] == import_spec("mine", "train", file_sha256(file)).run_id
