"""The output of a bulk annotation: a folder with one file a block, each there whole or not at all, and a manifest.

The manifest says what the blocks are made of: a folder goes on only with the same, so that a block that is there is
never made again, and none is there twice. Nothing in a finished folder tells which engine made it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

from cdner.annotate.source import FORMATS, ROWS, Block, Row, Source, written
from cdner.errors import UsageError
from cdner.files import Json
from cdner.formats import scores, sureness
from cdner.store.parquet import ROW, FileFormat, join_block, json_to_parquet
from cdner.types import Prediction, ReasoningChain

MANIFEST = "_manifest.json"  # readers of Parquet folders pass over names that begin so
_ENTITY = '"type" VARCHAR, "text" VARCHAR, start_token BIGINT, end_token BIGINT, "start" BIGINT, "end" BIGINT'
_SCORES = "score DOUBLE, runner_up VARCHAR"
ADDED: Mapping[str, str] = {  # DuckDB's types; entities as ``cdner export --to jsonl`` has them
    "tokens": "VARCHAR[]",
    "predicted": f"STRUCT({_ENTITY})[]",
    "generated": "VARCHAR",
    "n_malformed": "BIGINT",
}
ADDED_REASONING: Mapping[str, str] = {"initial_reasoning": "VARCHAR", "bidirectional_reasoning": "VARCHAR"}
SCRATCH, _ANSWERS, LOCK = ".scratch-", ".answers-", ".lock"


@dataclass(frozen=True, slots=True)
class Output:
    folder: Path
    format: FileFormat
    added: Mapping[str, str]  # column -> DuckDB's type
    columns: Mapping[str, str]  # of the source as a table


class Annotated(NamedTuple):
    row: Row
    prediction: Prediction
    chain: ReasoningChain | None


def output_format(folder: Path, source: Source) -> FileFormat:
    """By the folder's ending, else as the input's. UsageError for a file of that name."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: OUTPUT is a folder, with one file a block.")
    return FORMATS.get(folder.suffix.lower(), source.format)


def added_columns(source: Source, *, with_reasoning: bool, with_scores: bool = False) -> dict[str, str]:
    """What every row gets; its tokens are not added where they are what came in.

    ``with_scores``: each predicted entity has the probability of its type and the most probable other type.
    """
    added = {**ADDED, **(ADDED_REASONING if with_reasoning else {})}
    if with_scores:
        added["predicted"] = f"STRUCT({_ENTITY}, {_SCORES})[]"
    return {name: kind for name, kind in added.items() if name != source.column}


def block_file(output: Output, number: int) -> Path:
    return output.folder / f"block-{number:06d}.{output.format}"


def answers_file(output: Output, number: int) -> Path:
    """Where an LLM's answers are kept while their block is not written."""
    return output.folder / f"{_ANSWERS}{number:06d}.jsonl"


def write_block(output: Output, source: Source, block: Block, annotated: Sequence[Annotated]) -> None:
    """Put the block's file in its place, on disk and whole; then its LLM answers are needed no more."""
    target = block_file(output, block.number)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=output.folder) as scratch:
        lines, made = Path(scratch) / "rows.jsonl", Path(scratch) / target.name
        rows = [
            {**_carried(one.row), **{name: _fields(one)[name] for name in output.added}} for one in annotated
        ]
        lines.write_text("".join(f"{written(row)}\n" for row in rows), encoding="utf-8")
        if source.format == "parquet":
            join_block(
                *(source.path, made, output.format),
                first=block.first,
                n_rows=block.n_rows,
                annotations=lines,
                columns=output.added,
            )
        elif output.format == "parquet":
            json_to_parquet(lines, made, {**output.columns, **output.added})
        else:
            made = lines
        _synchronise(made)
        made.replace(target)
    _synchronise(output.folder)
    answers_file(output, block.number).unlink(missing_ok=True)


def _carried(row: Row) -> dict[str, Json]:
    """A row's own columns; of Parquet only where it stands, its columns never leave DuckDB."""
    return {ROW: row.number} if row.fields is None else row.fields


def _fields(annotated: Annotated) -> dict[str, Json]:
    row, prediction, chain = annotated
    spans = _token_spans(row)
    return {
        "tokens": list(row.sentence.tokens),
        "predicted": [
            {
                "type": entity.type,
                "text": row.text[spans[entity.start][0] : spans[entity.end - 1][1]],
                "start_token": entity.start,
                "end_token": entity.end,
                "start": spans[entity.start][0],
                "end": spans[entity.end - 1][1],
                **scores(said),
            }
            for entity, said in zip(prediction.entities, sureness(prediction), strict=True)
        ],
        "generated": prediction.generated,
        "n_malformed": sum(prediction.malformed.values()),
        "initial_reasoning": chain.initial if chain else None,
        "bidirectional_reasoning": chain.bidirectional if chain else None,
    }


def _token_spans(row: Row) -> list[tuple[int, int]]:
    """Where each token lies in the row's text, in code points."""
    spans, end = [], 0
    for token in row.sentence.tokens:
        start = row.text.index(token, end)
        end = start + len(token)
        spans.append((start, end))
    return spans


# --- the folder ------------------------------------------------------------------------------------------


@contextmanager
def claimed(output: Output, manifest: Mapping[str, Json]) -> Iterator[None]:
    """Hold the folder for these blocks: made if it is missing, swept of what a kill has left.

    ``manifest["made_of"]`` is what a folder with blocks must agree with. UsageError for a folder of something else,
    and for one that another process is writing to.
    """
    folder = output.folder
    folder.mkdir(parents=True, exist_ok=True)
    refuse_foreign(folder)
    with _opened_lock(folder / LOCK) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{folder}: another process is annotating into it. Wait until it has ended."
            ) from None
        _check_manifest(folder, manifest)
        _sweep(output)
        write_manifest(folder, manifest)
        yield


def refuse_foreign(folder: Path) -> None:
    """Raises UsageError for a folder that holds anything that annotating did not put there."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    foreign = [name for name in names if name not in (LOCK, ROWS) and not name.startswith(SCRATCH)]
    if foreign and MANIFEST not in foreign:
        raise UsageError(
            f"{folder} holds {foreign[0]}, and no manifest of ours. Name an empty or a new folder."
        )


def _opened_lock(path: Path) -> TextIO:
    """The lock file, made if it is missing; a link in its place is not followed."""
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "w")
    except OSError as error:
        raise UsageError(f"{path} cannot be opened: {error.strerror}. Name another folder.") from error


def write_manifest(folder: Path, manifest: Mapping[str, Json]) -> None:
    """Replace the folder's manifest."""
    scratch = folder / f"{SCRATCH}manifest"
    scratch.write_text(json.dumps(manifest, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    _synchronise(scratch)
    scratch.replace(folder / MANIFEST)
    _synchronise(folder)


def _check_manifest(folder: Path, manifest: Mapping[str, Json]) -> None:
    path = folder / MANIFEST
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["made_of"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be read: {error}. Name another folder.") from error
    wanted = json.loads(json.dumps(manifest["made_of"]))
    if found != wanted:
        keys = [key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key]]
        raise UsageError(
            f"{folder} holds blocks with another {' and '.join(keys) or 'origin'}. Name another folder, or delete it."
        )


def _sweep(output: Output) -> None:
    """Remove what a killed process was in the middle of, and answers whose block is there."""
    for path in output.folder.glob(f"{SCRATCH}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for path in output.folder.glob(f"{_ANSWERS}*.jsonl"):
        number = path.stem.removeprefix(_ANSWERS)
        if number.isdigit() and block_file(output, int(number)).exists():
            path.unlink()


def _synchronise(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
