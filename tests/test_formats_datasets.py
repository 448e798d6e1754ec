"""Data sets of Hugging Face ``datasets``: saved folders, Parquet and names of the hub, through ``cdner import``."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from pipeline_experiments import cdner, sql

from cdner.errors import InputError, UsageError
from cdner.formats import dataset_readers
from cdner.formats.dataset_readers import from_hub, is_dataset, parts_of, read_dataset, split_named

NAMES = ["O", "B-band", "I-band", "B-place"]
ROWS = {
    "id": ["0", "1"],
    "tokens": [["The", "Beatles", "in", "Rome"], ["No", "one"]],
    "ner_tags": [[1, 2, 0, 3], [0, 0]],
}
GOLD = [((0, 2, "band"), (3, 4, "place")), ()]


def labelled() -> datasets.Dataset:
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=NAMES)),
        }
    )
    return datasets.Dataset.from_dict(ROWS, features=features)


def numbered() -> datasets.Dataset:
    return datasets.Dataset.from_dict(ROWS)


def gold(store: Path, split: str) -> list[tuple[object, ...]]:
    return sql(
        store,
        "SELECT e.position, start_token, end_token, entity_type FROM gold_entity e JOIN corpus c USING (run_id) "
        f"WHERE split = '{split}' ORDER BY ALL",
    )


ENTITIES = [(0, 0, 2, "band"), (0, 3, 4, "place")]


def test_a_saved_data_set_is_imported_split_by_split(tmp_path: Path) -> None:
    folder, store = tmp_path / "saved", tmp_path / "s.duckdb"
    saved = datasets.DatasetDict(train=labelled(), validation=labelled().select([0]), test=labelled())
    saved.save_to_disk(str(folder))
    ran = cdner(store, "import", str(folder), "--domain", "mine", "--json")
    assert ran.code == 0 and "Read as datasets" in ran.err, ran.err
    assert {row["split"]: (row["n_sentences"], row["n_entities"]) for row in ran.rows} == {
        "train": (2, 2),
        "dev": (1, 2),
        "test": (2, 2),
    }
    assert gold(store, "train") == gold(store, "dev") == ENTITIES


def test_parquet_files_named_as_on_the_hub(tmp_path: Path) -> None:
    data, store = tmp_path / "set" / "data", tmp_path / "s.duckdb"
    data.mkdir(parents=True)
    for name in ("train-00000-of-00001", "validation-00000-of-00001"):
        labelled().to_parquet(str(data / f"{name}.parquet"))
    ran = cdner(store, "import", str(tmp_path / "set"), "--domain", "mine", "--json")
    assert ran.code == 0, ran.err
    assert {row["split"] for row in ran.rows} == {"train", "dev"} and gold(store, "dev") == ENTITIES
    again = cdner(store, "import", str(data / "train-00000-of-00001.parquet"), "--domain", "mine", "--json")
    assert [row["run_id"] for row in again.rows] == [
        row["run_id"] for row in ran.rows if row["split"] == "train"
    ]


def test_numbers_without_names_need_labels(tmp_path: Path) -> None:
    file, store = tmp_path / "train.parquet", tmp_path / "s.duckdb"
    numbered().to_parquet(str(file))
    bare = cdner(store, "import", str(file), "--domain", "mine")
    assert bare.code == 2 and "row 1: tags are numbers without names" in bare.err and "--labels" in bare.err
    short = cdner(store, "import", str(file), "--domain", "mine", "--labels", "O,B-band")
    assert short.code == 2 and "a tag is 2, but --labels gives 2 names" in short.err
    assert not store.exists()
    ran = cdner(store, "import", str(file), "--domain", "mine", "--labels", ",".join(NAMES), "--json")
    assert ran.code == 0 and gold(store, "train") == ENTITIES, ran.err
    other = cdner(
        tmp_path / "t.duckdb",
        "import",
        str(file),
        "--domain",
        "mine",
        "--labels",
        "O,B-x,I-x,B-place",
        "--json",
    )
    assert [row["run_id"] for row in other.rows] != [row["run_id"] for row in ran.rows]


def test_a_row_of_text_with_spans_is_read_as_in_json_lines(tmp_path: Path) -> None:
    rows = {"text": ["Queen played."], "entities": [[{"start": 0, "end": 5, "label": "band"}]]}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "train.parquet"))
    ran = cdner(tmp_path / "s.duckdb", "import", str(tmp_path / "train.parquet"), "--domain", "mine")
    assert ran.code == 0 and gold(tmp_path / "s.duckdb", "train") == [(0, 0, 1, "band")], ran.err


@pytest.mark.parametrize("content", [b"rubbish", b"PAR1" * 9])
def test_a_broken_parquet_file_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(content)
    with pytest.raises(InputError, match="not a Parquet file that can be read") as refused:
        list(read_dataset(tmp_path / "train.parquet"))
    assert "\n" not in str(refused.value)


def test_a_label_outside_the_names_is_one_line_with_its_row(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    labelled().save_to_disk(str(folder))
    (folder / "state.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="not a data set that can be loaded"):
        list(read_dataset(folder))


def test_names_of_files_say_which_split(tmp_path: Path) -> None:
    names = ["train.jsonl", "validation-0-of-1.parquet", "val.parquet", "test_1.jsonl", "mine.jsonl"]
    assert [split_named(tmp_path / name) for name in names] == ["train", "dev", "dev", "test", "mine"]
    assert not is_dataset(tmp_path) and parts_of(tmp_path) == [tmp_path]


def test_a_name_of_the_hub_is_loaded_once_and_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str) -> datasets.DatasetDict:
        asked.append(name)
        return datasets.DatasetDict(train=labelled())

    monkeypatch.setattr(datasets, "load_dataset", load)
    first, second = from_hub("someone/music", tmp_path), from_hub("someone/music", tmp_path)
    assert first == second and asked == ["someone/music"]
    assert [part.name for part in parts_of(first)] == ["train"]


@pytest.mark.parametrize("name", ["nothing.jsonl", "../x/y", "a/b/c"])
def test_what_is_neither_a_file_nor_a_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a file nor a folder, nor a name of the hub"):
        from_hub(name, tmp_path)


def test_an_unreachable_hub_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> datasets.DatasetDict:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(
        dataset_readers, "_library", lambda: type("Library", (), {"load_dataset": staticmethod(load)})
    )
    with pytest.raises(UsageError, match=r"someone/music cannot be had from the hub: no route$"):
        from_hub("someone/music", tmp_path)
