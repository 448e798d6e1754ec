"""Readers of annotation tools' files: JSON Lines, Label Studio, spaCy, brat. Each gives documents or sentences."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from cdner.errors import InputError, UsageError
from cdner.formats.annotated_text import AnnotatedText, Mark
from cdner.registry import resolve
from cdner.spans import bio_to_entities
from cdner.types import Sentence

Document = AnnotatedText | Sentence
Reader = Callable[[Path], Iterator[Document]]

_TEXT_KEYS = ("text", "content", "data", "sentence")
_SPAN_KEYS = ("spans", "entities", "label", "labels", "annotations", "gold")
_TAG_KEYS = ("ner_tags", "tags", "labels")
_START_KEYS = ("start", "start_offset", "startOffset", "begin")
_END_KEYS = ("end", "end_offset", "endOffset")
_TYPE_KEYS = ("label", "type", "tag", "labels", "entity_type")
_BRAT_LINE = re.compile(r"T\d+\t(?P<type>\S+) (?P<spans>\d+ \d+(?:;\d+ \d+)*)(?:\t.*)?")


# --- JSON Lines ---------------------------------------------------------------------------------------------


def read_json_lines(path: Path) -> Iterator[Document]:
    """One object a line: doccano's, Prodigy's, LightTag's and cdner's shapes, and tokens with tags.

    A Prodigy row whose answer is not "accept" is left out. Raises InputError with file and line.
    """
    for number, row in _json_lines(path):
        place = f"{path}, line {number}"
        if not isinstance(row, Mapping):
            raise InputError(f"{place}: expected an object with text or tokens.")
        if row.get("answer", "accept") == "accept":
            yield from _documents(row, place)


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(number, value) of every line; of a file that is one JSON value, its items with their numbers."""
    with path.open(encoding="utf-8-sig") as file:
        first = next((line for line in file if line.strip()), "")
    try:
        json.loads(first)
    except (ValueError, RecursionError):  # pretty-printed, or not JSON
        value = _loaded(path.read_text(encoding="utf-8-sig"), str(path))
        yield from enumerate(value if isinstance(value, list) else [value], start=1)
        return
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                value = _loaded(line, f"{path}, line {number}")
                yield from enumerate(value, start=1) if isinstance(value, list) else [(number, value)]


def _loaded(text: str, place: str) -> Any:
    def refuse(name: str) -> None:
        raise InputError(f"{place}: {name} is not JSON.")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not JSON: {error}.") from error


def _documents(row: Mapping[str, Any], place: str) -> Iterator[Document]:
    if isinstance(row.get("examples"), list):  # LightTag
        for number, example in enumerate(row["examples"], start=1):
            yield from _documents(example, f"{place}, example {number}")
        return
    tokens = row.get("tokens")
    if isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
        yield _tagged(row, tokens, place)
        return
    text = next((row[key] for key in _TEXT_KEYS if isinstance(row.get(key), str)), None)
    if text is None:
        raise InputError(f"{place}: neither a text nor tokens. Known keys: {', '.join(_TEXT_KEYS)}, tokens.")
    yield AnnotatedText(text, _marks(row, place), place, _token_spans(tokens, place))


def _token_spans(tokens: Any, place: str) -> tuple[tuple[int, int], ...] | None:
    """Prodigy's tokens, objects with start and end."""
    if not isinstance(tokens, list) or not tokens:
        return None
    return tuple((_whole(token, _START_KEYS, place), _whole(token, _END_KEYS, place)) for token in tokens)


def _tagged(row: Mapping[str, Any], tokens: Sequence[str], place: str) -> Sentence:
    tags = next((row[key] for key in _TAG_KEYS if isinstance(row.get(key), list)), None)
    if tags is not None and len(tags) == len(tokens) and all(isinstance(tag, str) for tag in tags):
        return Sentence(tuple(tokens), bio_to_entities(tags)[0])
    if isinstance(row.get("gold"), list):  # cdner's own
        spans = [(g["start_token"], g["end_token"], g["type"]) for g in row["gold"]]
        tags = ["O"] * len(tokens)
        for start, end, name in spans:
            tags[start:end] = [f"B-{name}", *[f"I-{name}"] * (end - start - 1)]
        return Sentence(tuple(tokens), bio_to_entities(tags)[0])
    raise InputError(f"{place}: the tokens have no list of as many tags ({', '.join(_TAG_KEYS)}).")


def _marks(row: Mapping[str, Any], place: str) -> tuple[Mark, ...]:
    found: list[Any] = next((row[key] for key in _SPAN_KEYS if isinstance(row.get(key), list)), [])
    return tuple(_mark(one, place) for one in found)


def _mark(one: Any, place: str) -> Mark:
    if isinstance(one, list) and len(one) >= 3:  # doccano: [start, end, type]
        one = {"start": one[0], "end": one[1], "label": one[2]}
    if not isinstance(one, Mapping):
        raise InputError(f"{place}: expected [start, end, type] or an object, found {json.dumps(one)[:60]}.")
    name = next((one[key] for key in _TYPE_KEYS if one.get(key)), None)
    name = name[0] if isinstance(name, list) else name
    if not isinstance(name, str):
        raise InputError(f"{place}: an entity has no type. Known keys: {', '.join(_TYPE_KEYS)}.")
    return Mark(_whole(one, _START_KEYS, place), _whole(one, _END_KEYS, place), name)


def _whole(one: Any, keys: Sequence[str], place: str) -> int:
    value = next((one[key] for key in keys if isinstance(one, Mapping) and key in one), None)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{place}: an entity or token has no whole number under {' or '.join(keys)}.")
    return value


# --- Label Studio -------------------------------------------------------------------------------------------


def read_label_studio(path: Path) -> Iterator[Document]:
    """An export as JSON (with annotations, or completions as they were called) or as JSON-MIN.

    Of several annotations of a task the ground truth is read, else the first that was not cancelled; predictions only
    where there is no annotation.
    """
    tasks = _loaded(path.read_text(encoding="utf-8-sig"), str(path))
    if not isinstance(tasks, list):
        raise InputError(f"{path}: expected an array of tasks, as Label Studio exports them.")
    for number, task in enumerate(tasks, start=1):
        place = f"{path}, task {number}"
        if not isinstance(task, Mapping):
            raise InputError(f"{place}: expected an object.")
        data = task.get("data", task)
        text = next((data[key] for key in _TEXT_KEYS if isinstance(data.get(key), str)), None)
        if text is None:
            raise InputError(f"{place}: no text under data. Known keys: {', '.join(_TEXT_KEYS)}.")
        yield AnnotatedText(text, tuple(_regions(task, place)), place)


def _regions(task: Mapping[str, Any], place: str) -> Iterator[Mark]:
    if "data" not in task:  # JSON-MIN
        yield from _marks(task, place)
        return
    made = task.get("annotations", task.get("completions", []))
    done: list[Mapping[str, Any]] = [one for one in made if not one.get("was_cancelled")]
    proposed: list[Mapping[str, Any]] = [*done, *task.get("predictions", []), {}]
    chosen = next((one for one in done if one.get("ground_truth")), proposed[0])
    for region in chosen.get("result", []):
        value = region.get("value", {})
        if "start" in value and region.get("type", "labels") in ("labels", "hypertextlabels"):
            yield _mark(value, place)


# --- spaCy --------------------------------------------------------------------------------------------------


def read_doc_bin(path: Path) -> Iterator[Document]:
    """A spaCy DocBin; entities are ``doc.ents``. A doc with sentence boundaries is read sentence by sentence."""
    try:
        import spacy
        from spacy.tokens import DocBin
    except ModuleNotFoundError as error:
        raise UsageError("Reading a DocBin needs spaCy: pip install 'cdner[export]'.") from error
    try:
        docs = list(DocBin().from_bytes(path.read_bytes()).get_docs(spacy.blank("xx").vocab))
    except Exception as error:  # whatever spaCy and msgpack make of foreign bytes
        raise InputError(f"{path}: not a spaCy DocBin: {error}.") from error
    for doc in docs:
        parts = list(doc.sents) if doc.has_annotation("SENT_START") else [doc[:]]
        for part in parts:
            tags = ["O" if not token.ent_type_ else f"{token.ent_iob_}-{token.ent_type_}" for token in part]
            words = [(token.text, tag) for token, tag in zip(part, tags, strict=True) if token.text.strip()]
            if words:
                yield Sentence(
                    tuple(word for word, _ in words), bio_to_entities([tag for _, tag in words])[0]
                )


# --- brat ---------------------------------------------------------------------------------------------------


def read_brat(path: Path) -> Iterator[Document]:
    """A folder of ``NAME.txt`` with ``NAME.ann``, or one such pair. A discontinuous entity is read as its extent."""
    texts = sorted(path.glob("*.txt")) if path.is_dir() else [path.with_suffix(".txt")]
    if not texts:
        raise InputError(f"{path}: no text files (*.txt) of brat here.")
    for text in texts:
        notes = text.with_suffix(".ann")
        if not text.is_file() or not notes.is_file():
            missing = notes if text.is_file() else text
            raise InputError(f"{missing}: missing. brat writes NAME.txt and NAME.ann side by side.")
        with text.open(encoding="utf-8", newline="") as file:
            content = file.read()
        yield AnnotatedText(content, tuple(_brat_marks(notes)), str(text))


def _brat_marks(path: Path) -> Iterator[Mark]:
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.startswith("T"):
            continue  # relations, events, attributes, notes
        found = _BRAT_LINE.fullmatch(line.rstrip("\r"))
        if found is None:
            raise InputError(f"{path}, line {number}: expected 'T1<tab>TYPE START END<tab>TEXT'.")
        numbers = [int(part) for part in re.split("[ ;]", found["spans"])]
        yield Mark(min(numbers), max(numbers), found["type"])


# --- by name ------------------------------------------------------------------------------------------------


def guess_format(path: Path) -> str | None:
    """The format of a file or folder by its name and its first characters; None for a column file."""
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
