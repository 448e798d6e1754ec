"""Reads column files: one token a line with its tag, and a blank line between sentences.

A file becomes a ``Corpus``, or is refused with file and line. Which columns hold token and tag, and how tags are
written, is the matter of ``corpora.column_layout``. The other rules:

- A line with a tab has tab-separated columns, any other line is separated by runs of spaces. Every line has as many
  columns as the first one. White space at the end of a
  line, carriage returns before the newline and a byte order mark at the start of the file are ignored.
- A token holds no space or tab, because a sentence's text is its tokens joined by single spaces. Any other
  character stays as it is, Unicode spaces such as U+00A0 too: split a text on ``" "``, never on all white
  space.
- Any number of blank lines, ``-DOCSTART-`` lines and ``IMGID:`` lines end a sentence and belong to none.
- A line ``# ...`` where a sentence could begin, without the columns of the file or without a tag, is a comment. It is
  counted and left out. So is a byte order mark (U+FEFF) inside the file.
- A file without E- and S- whose B- tags all stand directly behind an entity of the same type is IOB1, and
  there an I- may start an entity. In every other file an I- or E- that continues nothing is an orphan: read
  as a start and counted, or refused when ``strict``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from cdner.corpora.column_layout import Layout, infer_layout, is_comment, is_left_out
from cdner.errors import InputError
from cdner.spans import bio_to_entities
from cdner.types import Corpus, Sentence, Split

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLANKS = " \t"
_DOCUMENT_START = "-DOCSTART-"
_IMAGE_HEADER = "IMGID:"
_MARK = "\ufeff"


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
    layout: Layout = field(default_factory=Layout)
    n_comments: int = 0
    n_left_out: int = 0  # ranges and empty nodes of CoNLL-U
    n_marks: int = 0  # byte order marks inside the file

    def notes(self) -> list[str]:
        """One line for each thing that was chosen or left out."""
        counts = {
            f"{self.n_comments} comment lines were left out": self.n_comments,
            f"{self.n_left_out} ranges and empty nodes of CoNLL-U were left out": self.n_left_out,
            f"{self.n_marks} byte order marks inside the file were removed": self.n_marks,
        }
        return [*self.layout.notes, *(line for line, n in counts.items() if n)]


@dataclass(frozen=True, slots=True)
class Columns:
    """What the user says of a file. Columns count from 0; None: inferred. ``comments``: False refuses comment lines."""

    token: int | None = None
    tag: int | None = None
    comments: bool = True


class ConllReader:
    """Reads column files. One that is too large for memory is surveyed first, then streamed."""

    def __init__(self, columns: Columns | None = None) -> None:
        self._columns = columns or Columns()

    def read(self, path: Path, *, domain: str, split: Split, strict: bool = False) -> Corpus:
        """Read one split.

        ``n_repaired_tags`` of the result counts the orphan I-/E- tags that were read as a start (0 in
        IOB1). Raises InputError, naming file and line, for a file that is missing, empty, not UTF-8 or
        malformed, and with ``strict`` for the first orphan.
        """
        sentences: list[Sentence] = []
        found = self._survey(path, strict=strict, keep=sentences.append)
        return Corpus(domain, split, tuple(sentences), found.n_repaired_tags, found.types)

    def survey(self, path: Path, *, strict: bool = False) -> Survey:
        """Check the whole file as ``read`` does, keeping no sentence. Raises InputError likewise."""
        return self._survey(path, strict=strict, keep=lambda _: None)

    def stream(self, path: Path) -> Iterator[Sentence]:
        """The sentences in order. Raises InputError at the first malformed line, after what came before it."""
        for rows in _Sentences(path, self._layout(path), self._columns).rows():
            entities, _ = bio_to_entities([row.tag for row in rows])
            yield Sentence(tuple(row.token for row in rows), entities)

    def _layout(self, path: Path) -> Layout:
        beginning = list(islice(_split_sentences(path, Counter()), SAMPLE))
        if not beginning:
            raise InputError(f"{path}: no sentence in it; expected one token and its tag on each line.")
        return infer_layout(
            beginning, path=path, token_column=self._columns.token, tag_column=self._columns.tag
        )

    def _survey(self, path: Path, *, strict: bool, keep: Callable[[Sentence], None]) -> Survey:
        types: dict[str, None] = {}
        witness = _SchemeWitness()
        n_sentences = n_orphans = 0
        layout = self._layout(path)
        read = _Sentences(path, layout, self._columns)
        for rows in read.rows():
            entities, n_here = bio_to_entities([row.tag for row in rows])
            witness.watch(rows)
            n_orphans += n_here
            types.update(dict.fromkeys(entity.type for entity in entities))
            keep(Sentence(tuple(row.token for row in rows), entities))
            n_sentences += 1
        orphan = None if witness.iob1_possible or layout.writing == "bare" else witness.first_orphan
        if strict and orphan is not None:
            raise InputError(
                f"{path}, line {orphan.line}: tag '{orphan.tag}' of token '{_shown(orphan.token)}' continues"
                f" no entity of its type; make it B-{orphan.tag[2:]}, or read without --strict to repair it."
            )
        counts = read.counts
        return Survey(
            n_sentences,
            n_orphans if orphan else 0,
            tuple(types),
            layout,
            n_comments=counts["comments"],
            n_left_out=counts["left out"],
            n_marks=counts["marks"],
        )


SAMPLE = 2000  # sentences from which the layout is inferred


@dataclass(slots=True)
class _Sentences:
    """The sentences of a file in a layout, and what was left out of them."""

    path: Path
    layout: Layout
    given: Columns
    counts: Counter[str] = field(default_factory=Counter)

    def rows(self) -> Iterator[list[_Row]]:
        """Non-empty sentences as rows, in file order."""
        for sentence in _split_sentences(self.path, self.counts, comments=self.given.comments):
            rows = []
            for line, columns in sentence:
                if is_left_out(self.layout, columns):
                    self.counts["left out"] += 1
                else:
                    rows.append(_row(columns, self.layout, path=self.path, line=line))
            if rows:
                yield rows


def _split_sentences(
    path: Path, counts: Counter[str], *, comments: bool = True
) -> Iterator[list[tuple[int, list[str]]]]:
    """Sentences as (line, columns), without comments. All lines have as many columns as the first of them."""
    rows: list[tuple[int, list[str]]] = []
    n_columns = 0
    for line, read in _lines(path):
        text = read.replace(_MARK, "")
        counts["marks"] += len(read) - len(text)
        columns = _columns(text)
        if not text or columns[0] == _DOCUMENT_START or _is_image_header(columns):
            if rows:
                yield rows
            rows = []
            continue
        if comments and not rows and is_comment(text) and _is_no_row(columns, n_columns):
            counts["comments"] += 1
            continue
        _demand_columns(columns, n_columns, path=path, line=line)
        n_columns = n_columns or len(columns)
        rows.append((line, columns))
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


def _is_no_row(columns: Sequence[str], n_columns: int) -> bool:
    """Whether a line that begins with # lacks the file's columns, or a tag in the last one."""
    if n_columns and len(columns) != n_columns:
        return True
    return len(columns) < 2 or all(
        Layout(writing=way).bioes(columns[-1]) is None for way in ("prefix", "suffix")
    )


def _demand_columns(columns: Sequence[str], n_columns: int, *, path: Path, line: int) -> None:
    where = f"{path}, line {line}"
    if len(columns) < 2:
        raise InputError(
            f"{where}: only '{_shown(columns[0])}'; expected a token and its tag, tab or space between."
        )
    if n_columns and len(columns) != n_columns:
        raise InputError(f"{where}: {len(columns)} columns where the lines before have {n_columns}.")


def _row(columns: Sequence[str], layout: Layout, *, path: Path, line: int) -> _Row:
    where = f"{path}, line {line}"
    for column in (layout.token_column, layout.tag_column):
        if column >= len(columns):
            raise InputError(f"{where}: there is no column {column + 1}; the line has {len(columns)}.")
    token, cell = columns[layout.token_column], layout.tag_of(columns)
    if not token:
        which = "first column" if layout.token_column == 0 else f"column {layout.token_column + 1}"
        raise InputError(f"{where}: the {which} is empty; expected a token.")
    if " " in token:
        raise InputError(
            f"{where}: token '{_shown(token)}' has a space in it; put each word on a line of its own."
        )
    tag = layout.bioes(cell)
    if tag is None:
        raise InputError(
            f"{where}: unknown tag '{_shown(cell)}'; expected O, or B-, I-, E- or S- and a type."
        )
    return _Row(line, token, tag)


def _shown(text: str) -> str:
    """A text short enough for one line of an error message, control characters escaped."""
    visible = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:40])
    return visible if len(text) <= 40 else f"{visible}..."
