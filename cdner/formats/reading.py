"""Chooses the reader of a file, by its name or by the look of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

from cdner.errors import InputError
from cdner.formats.dataset_readers import is_dataset
from cdner.formats.readers import Document, Reader
from cdner.registry import resolve


def guess_format(path: Path) -> str | None:
    """The format of a file or folder by its name and its first characters; None for a column file."""
    if is_dataset(path):
        return "datasets"
    if (
        path.is_dir()
        or path.suffix == ".ann"
        or (path.suffix == ".txt" and path.with_suffix(".ann").is_file())
    ):
        return "brat"
    if path.suffix == ".spacy":
        return "spacy"
    with path.open("rb") as file:
        beginning = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    if beginning.startswith(b"["):
        return "labelstudio" if path.suffix == ".json" else None
    return "jsonl" if beginning.startswith(b"{") else None


def read_documents(path: Path, reader: str) -> Iterator[Document]:
    """The documents of a file in the named format.

    Raises UsageError for an unknown name, InputError for a file of another shape.
    """
    read = cast(Reader, resolve("reader", reader))
    try:
        yield from read(path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start}). Convert it first.") from error
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not in a known shape of '{reader}': {error}.") from error
