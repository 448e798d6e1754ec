"""Reads data sets of Hugging Face ``datasets``: a saved folder, Parquet files, or a data set of the hub.

Tags that are class labels become the names that the features give them. Rows are otherwise those of JSON Lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdner.errors import InputError, UsageError
from cdner.formats.readers import Document, documents_of_row, read_json_lines

if TYPE_CHECKING:
    from datasets import Features

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DICT, _STATE = "dataset_dict.json", "state.json"
_FILES = (".parquet", ".jsonl")
_SPLIT_NAMES = {
    **{"train": "train", "training": "train"},
    **{"dev": "dev", "validation": "dev", "valid": "dev", "val": "dev", "testb": "test", "test": "test"},
}
_BATCH = 1000  # rows of a Parquet file that are in memory at once

Names = Callable[[Any], Any]  # a column's value with integers as names


def split_named(path: Path) -> str:
    """The split that a file's name stands for: train, dev or test; another name as it is.

    ``validation``, ``valid`` and ``val`` are dev; what follows a hyphen, dot or underscore (``train-00000-of-00001``)
    says nothing.
    """
    first = re.split(r"[-._]", path.name.lower())[0]
    return _SPLIT_NAMES.get(first, path.stem)


def is_dataset(path: Path) -> bool:
    """Whether the path is a Parquet file, or a folder that ``datasets`` saved or loads."""
    if path.is_dir():
        return (path / _DICT).is_file() or (path / _STATE).is_file() or bool(_data_files(path))
    return path.suffix == ".parquet"


def parts_of(path: Path) -> list[Path]:
    """The splits of a data set of several, each a folder or file by itself; else the path alone."""
    if (path / _DICT).is_file():
        return sorted(part for part in path.iterdir() if (part / _STATE).is_file())
    if path.is_dir() and not (path / _STATE).is_file():
        return _data_files(path) or [path]
    return [path]


def _data_files(folder: Path) -> list[Path]:
    """Files named after splits, in the folder or in its ``data``."""
    found = [part for place in (folder, folder / "data") if place.is_dir() for part in place.iterdir()]
    return sorted(
        part for part in found if part.suffix in _FILES and split_named(part) in _SPLIT_NAMES.values()
    )


def from_hub(name: str, folder: Path) -> Path:
    """The data set OWNER/NAME of the hub, saved under ``folder``. Raises UsageError where no hub is reachable."""
    if not _HUB_NAME.fullmatch(name):
        raise UsageError(f"{name}: neither a file nor a folder, nor a name of the hub such as owner/name.")
    datasets = _library()
    place = folder / name.replace("/", "--")
    if not (place / _DICT).is_file():
        try:
            datasets.load_dataset(name).save_to_disk(place)
        except Exception as error:  # whatever the network, the hub and the library make of a name
            reason = str(error).split("\n", 1)[0][:200]
            raise UsageError(f"{name} cannot be had from the hub: {reason}") from error
    return place


def read_dataset(path: Path) -> Iterator[Document]:
    """The rows of one split. Raises InputError with file and row for a row of another shape."""
    if path.suffix == ".jsonl":
        yield from read_json_lines(path)
        return
    rows = _parquet_rows(path) if path.is_file() else _saved_rows(path)
    for number, row in enumerate(rows, start=1):
        yield from documents_of_row(row, f"{path}, row {number}")


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    datasets = _library()
    from pyarrow import ArrowException, parquet

    try:
        file = parquet.ParquetFile(path)
        named = _names(datasets.Features.from_arrow_schema(file.schema_arrow))
        for batch in file.iter_batches(batch_size=_BATCH):
            for row in batch.to_pylist():
                yield {key: named[key](value) for key, value in row.items()}
    except (ArrowException, OSError) as error:
        raise InputError(f"{path}: not a Parquet file that can be read: {error}.") from error


def _saved_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if not (path / _STATE).is_file():
        raise InputError(
            f"{path}: no data set: neither {_STATE}, which datasets saves, nor train.parquet or train.jsonl."
        )
    try:
        found = _library().load_from_disk(str(path))
    except Exception as error:  # whatever datasets and Arrow make of foreign bytes
        raise InputError(f"{path}: not a data set that can be loaded: {str(error)[:200]}.") from error
    named = _names(found.features)
    for row in found:
        yield {key: named[key](value) for key, value in row.items()}


def _names(features: Features) -> dict[str, Names]:
    """Column -> its values with class labels as names."""
    return {key: _name_of(getattr(feature, "feature", feature)) for key, feature in features.items()}


def _name_of(feature: object) -> Names:
    names: Sequence[str] | None = getattr(feature, "names", None)
    if names is None:
        return lambda value: value

    def named(value: Any) -> Any:
        if isinstance(value, list):
            return [named(one) for one in value]
        if not 0 <= value < len(names):
            raise ValueError(f"a label is {value}, but there are {len(names)} names")
        return names[value]

    return named


def _library() -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise UsageError("Reading data sets needs datasets: pip install 'cdner[datasets]'.") from error
    datasets.disable_progress_bars()
    return datasets
