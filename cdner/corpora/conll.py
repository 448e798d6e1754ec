"""Reads column files: one token a line, its tag in the last column, a blank line between sentences.

Exists so that anyone's BIO, IOB1, IOB2 or BIOES file becomes a ``Corpus`` or is refused with file and line.
Does not know which domain's labels are right, nor where a file came from.

The rules, stated once:
- A line with a tab has tab-separated columns, any other line is separated by runs of spaces. The first column
  is the token, the last the tag; every line has as many columns as the first one. White space at the end of a
  line, carriage returns before the newline and a byte order mark at the start of the file are ignored.
- A token holds no space or tab, because a sentence's text is its tokens joined by single spaces. Any other
  character stays as it is, Unicode spaces such as U+00A0 too: split a text on ``" "``, never on all white
  space.
- Any number of blank lines, ``-DOCSTART-`` lines and ``IMGID:`` lines end a sentence and belong to none.
- A file without E- and S- whose B- tags all stand directly behind an entity of the same type is IOB1, and
  there an I- may start an entity. In every other file an I- or E- that continues nothing is an orphan: read
  as a start and counted, or refused when ``strict``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdner.errors import InputError
from cdner.spans import bio_to_entities
from cdner.types import Corpus, Sentence, Split

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLANKS = " \t"
_DOCUMENT_START = "-DOCSTART-"
_IMAGE_HEADER = "IMGID:"


@dataclass(frozen=True, slots=True)
class _Row:
    line: int  # 1-based
    token: str
    tag: str


@dataclass(slots=True)
class _SchemeWitness:
    """What tells IOB1 from the other schemes, gathered while the file streams by."""

    first_orphan: _Row | None = None
    iob1_possible: bool = True  # no E-, no S-, and no B- that IOB1 would have written as I-

    def watch(self, rows: Sequence[_Row]) -> None:
        previous = "O"
        for row in rows:
            prefix, _, entity_type = row.tag.partition("-")
            follows_same_type = previous != "O" and previous[2:] == entity_type
            open_before = follows_same_type and previous[0] in "BI"
            if prefix in "ES" or (prefix == "B" and not follows_same_type):
                self.iob1_possible = False
            if prefix in "IE" and not open_before and self.first_orphan is None:
                self.first_orphan = row
            previous = row.tag


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of a file that was read from end to end without keeping it."""

    n_sentences: int
    n_repaired_tags: int  # 0 in IOB1
    types: tuple[str, ...]  # in order of first appearance


class ConllReader:
    """The ``CorpusReader`` for column files; one too large for memory is surveyed first, then streamed."""

    def read(self, path: Path, *, domain: str, split: Split, strict: bool = False) -> Corpus:
        """Read one split.

        ``n_repaired_tags`` of the result counts the orphan I-/E- tags that were read as a start (0 in
        IOB1). Raises InputError, naming file and line, for a file that is missing, empty, not UTF-8 or
        malformed, and with ``strict`` for the first orphan.
        """
        sentences: list[Sentence] = []
        found = _survey(path, strict=strict, keep=sentences.append)
        return Corpus(domain, split, tuple(sentences), found.n_repaired_tags, found.types)

    def survey(self, path: Path, *, strict: bool = False) -> Survey:
        """Check the whole file as ``read`` does, keeping no sentence. InputError likewise."""
        return _survey(path, strict=strict, keep=lambda _: None)

    def stream(self, path: Path) -> Iterator[Sentence]:
        """The sentences in order. InputError at the first malformed line: what came before it was given already."""
        for rows in _sentence_rows(path):
            entities, _ = bio_to_entities([row.tag for row in rows])
            yield Sentence(tuple(row.token for row in rows), entities)


def _survey(path: Path, *, strict: bool, keep: Callable[[Sentence], None]) -> Survey:
    types: dict[str, None] = {}
    witness = _SchemeWitness()
    n_sentences = n_orphans = 0
    for rows in _sentence_rows(path):
        entities, n_here = bio_to_entities([row.tag for row in rows])
        witness.watch(rows)
        n_orphans += n_here
        types.update(dict.fromkeys(entity.type for entity in entities))
        keep(Sentence(tuple(row.token for row in rows), entities))
        n_sentences += 1
    if not n_sentences:
        raise InputError(f"{path}: no sentence in it; expected one token and its tag on each line.")
    orphan = None if witness.iob1_possible else witness.first_orphan
    if strict and orphan is not None:
        raise InputError(
            f"{path}, line {orphan.line}: tag '{orphan.tag}' of token '{_shown(orphan.token)}' continues"
            f" no entity of its type; make it B-{orphan.tag[2:]}, or read without --strict to repair it."
        )
    return Survey(n_sentences, n_orphans if orphan else 0, tuple(types))


def _sentence_rows(path: Path) -> Iterator[list[_Row]]:
    """Non-empty sentences as rows, in file order."""
    rows: list[_Row] = []
    n_columns = 0
    for line, text in _lines(path):
        columns = _columns(text)
        if not text or columns[0] == _DOCUMENT_START or _is_image_header(columns):
            if rows:
                yield rows
            rows = []
            continue
        n_columns = n_columns or len(columns)
        rows.append(_row(columns, n_columns, path=path, line=line))
    if rows:
        yield rows


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(1-based number, text without line end and trailing blanks), one line in memory at a time."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                encoded = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
                yield number, _decoded(encoded, path=path, line=number)
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from error


def _decoded(encoded: bytes, *, path: Path, line: int) -> str:
    try:
        text = encoded.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {line}: byte {error.start + 1} of the line (0x{encoded[error.start]:02x})"
            " is not UTF-8; save the file as UTF-8."
        ) from error
    text = text.rstrip("\r\n")
    if "\0" in text:
        raise InputError(f"{path}, line {line}: NUL character; this is not a text file in UTF-8.")
    if "\r" in text:
        raise InputError(f"{path}, line {line}: carriage return inside the line; end lines with a newline.")
    return text.rstrip(_BLANKS)


def _columns(text: str) -> list[str]:
    """At least one column; the columns of a tab-separated line lose the spaces around them."""
    if "\t" in text:
        return [column.strip(" ") for column in text.split("\t")]
    return [column for column in text.split(" ") if column] or [""]


def _is_image_header(columns: Sequence[str]) -> bool:
    return len(columns) == 1 and columns[0].startswith(_IMAGE_HEADER)


def _row(columns: Sequence[str], n_columns: int, *, path: Path, line: int) -> _Row:
    where = f"{path}, line {line}"
    if len(columns) < 2:
        raise InputError(
            f"{where}: only '{_shown(columns[0])}'; expected a token and its tag, tab or space between."
        )
    if len(columns) != n_columns:
        raise InputError(f"{where}: {len(columns)} columns where the lines before have {n_columns}.")
    token, tag = columns[0], columns[-1]
    if not token:
        raise InputError(f"{where}: the first column is empty; expected a token.")
    if " " in token:
        raise InputError(
            f"{where}: token '{_shown(token)}' has a space in it; put each word on a line of its own."
        )
    prefix, hyphen, entity_type = tag.partition("-")
    if tag != "O" and not (prefix in {"B", "I", "E", "S"} and hyphen and entity_type):
        raise InputError(f"{where}: unknown tag '{_shown(tag)}'; expected O, or B-, I-, E- or S- and a type.")
    return _Row(line, token, tag)


def _shown(text: str) -> str:
    """A text short enough for one line of an error message, control characters escaped."""
    visible = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:40])
    return visible if len(text) <= 40 else f"{visible}..."
