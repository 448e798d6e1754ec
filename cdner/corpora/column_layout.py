"""How a column file is laid out: which columns hold token and tag, and how tags are written.

The layout is inferred from the beginning of the file, or given by the user in part. The default layout is the token in
the first column and BIO or BIOES tags in the last.

- CoNLL-U (ten columns, the first counts tokens): the token is column 2, the tag a key of column 10 (``NER=B-PER``);
  lines of ranges (``3-4``) and empty nodes (``3.1``) are left out.
- Of several columns that hold only tags, phrase chunks are left out; of the others the one whose entities contain those
  of the rest is read, else the last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from cdner.errors import InputError
from cdner.files import Json
from cdner.spans import bio_to_entities

Writing = Literal["prefix", "suffix", "bare"]  # B-PER, PER-B, PER
Rows = Sequence[Sequence[tuple[int, Sequence[str]]]]  # sentences of (line number, columns)

# Each prefix as BIOES has it: BILOU's L and U, BMES's M, BMEWO's W.
BIOES = {"B": "B", "I": "I", "E": "E", "S": "S", "L": "E", "U": "S", "M": "I", "W": "S"}
_PREFIXED = re.compile(r"(?P<prefix>[BIESLUMW])[-_](?P<type>.+)")
_SUFFIXED = re.compile(r"(?P<type>.+)[-_](?P<prefix>[BIESLUMW])")
_TWO_TAGS = re.compile(r"[|,;/&+][BIESLUMW][-_]")
_LETTER = re.compile(r"[A-Za-z]([-_]|$)|_?$")  # another scheme's prefix, or a slip: no bare type
_CHUNKS = frozenset({"NP", "VP", "PP", "ADVP", "ADJP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP"})
_NODE = re.compile(r"\d+([-.]\d+)?")
CONLLU_COLUMNS = 10


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns count from 0; ``tag_column`` -1 is the last. ``tag_key``: the key of a CoNLL-U MISC column, else "".

    ``notes``: what was chosen between possible readings, for people; not part of the identity.
    """

    token_column: int = 0
    tag_column: int = -1
    tag_key: str = ""
    writing: Writing = "prefix"
    notes: tuple[str, ...] = field(default=(), compare=False)

    def identity(self) -> Json:
        """What decides the sentences, beside the bytes; None for the default layout."""
        if self == Layout():
            return None
        made = asdict(self)
        del made["notes"]
        return made

    def shown(self) -> dict[str, Json]:
        """For people: columns count from 1, the last is "last"."""
        tag: Json = f"column {self.tag_column + 1}" if self.tag_column >= 0 else "last column"
        return {
            "token": f"column {self.token_column + 1}",
            "tag": f"{tag}, key {self.tag_key}" if self.tag_key else tag,
            "tags": {"prefix": "B-TYPE", "suffix": "TYPE-B", "bare": "TYPE"}[self.writing],
        }

    def tag_of(self, columns: Sequence[str]) -> str:
        """The cell that holds the tag; "O" where a MISC column has no such key."""
        cell = columns[self.tag_column]
        if not self.tag_key:
            return cell
        pairs = dict(pair.split("=", 1) for pair in cell.split("|") if "=" in pair)
        return pairs.get(self.tag_key, "O")

    def bioes(self, tag: str) -> str | None:
        """The tag as O, B-, I-, E- or S- and a type; None for a text that is not a tag."""
        if tag == "O":
            return "O"
        if _TWO_TAGS.search(tag):
            return None
        if self.writing == "bare":
            return f"I-{tag}" if tag and tag != "_" else None
        found = (_PREFIXED if self.writing == "prefix" else _SUFFIXED).fullmatch(tag)
        return f"{BIOES[found['prefix']]}-{found['type']}" if found else None


def is_comment(text: str) -> bool:
    """Whether a line could be a comment: ``# `` and anything behind it, or ``#`` alone."""
    return text.startswith("# ") or text.startswith("#\t") or text == "#"


def is_left_out(layout: Layout, columns: Sequence[str]) -> bool:
    """Ranges and empty nodes of CoNLL-U, which repeat or add to the tokens."""
    return bool(layout.tag_key) and not columns[0].isdigit() and bool(_NODE.fullmatch(columns[0]))


def infer_layout(
    sentences: Rows,
    *,
    path: object,
    token_column: int | None = None,
    tag_column: int | None = None,
) -> Layout:
    """The layout of these sentences, which have the same number of columns each. Given parts are taken as they are.

    Raises InputError for a token column that only counts.
    """
    n_columns = len(sentences[0][0][1])
    if n_columns == CONLLU_COLUMNS and token_column is None and tag_column is None and _counts(sentences, 0):
        return _conllu(sentences, path=path)
    token = token_column or 0
    if token_column is None and n_columns > 1 and len(sentences) > 1 and _counts(sentences, 0):
        raise InputError(
            f"{path}: the first column only counts the tokens of each sentence (1, 2, 3 ...). "
            "Name the token's column: --token-column 2."
        )
    if tag_column is not None:
        return _written(sentences, tag_column, Layout(token, tag_column))
    columns = [column for column in range(n_columns) if column != token and _holds_tags(sentences, column)]
    tagged = [column for column in columns if not _types(sentences, column) <= _CHUNKS] or columns
    if len(tagged) < 2:
        is_last = not tagged or tagged[0] == n_columns - 1
        column = -1 if is_last else tagged[0]
        return _written(sentences, column, Layout(token, column))
    outer = _outermost(sentences, tagged)
    named = ", ".join(str(column + 1) for column in tagged)
    note = f"columns {named} hold only tags: column {outer + 1} was read (--tag-column to change)"
    return Layout(token, -1 if outer == n_columns - 1 else outer, notes=(note,))


def _conllu(sentences: Rows, *, path: object) -> Layout:
    keys: dict[str, int] = {}
    for _, columns in _rows(sentences):
        for pair in columns[-1].split("|"):
            key, equals, value = pair.partition("=")
            if equals and Layout().bioes(value) is not None:
                keys[key] = keys.get(key, 0) + 1
    if not keys:
        raise InputError(
            f"{path}: CoNLL-U without tags: no key of the last column holds them, such as NER=B-PER."
        )
    best = max(keys, key=lambda key: keys[key])
    note = f"CoNLL-U: the token is column 2, the tag the key {best} of column 10"
    return Layout(1, CONLLU_COLUMNS - 1, best, notes=(note,))


def _written(sentences: Rows, column: int, layout: Layout) -> Layout:
    """The layout with the way its tags are written; unchanged where these are neither suffixed nor bare."""
    tags = {columns[column] for _, columns in _rows(sentences)} - {"O"}
    if not tags or any(layout.bioes(tag) for tag in tags):
        return layout
    if all(_SUFFIXED.fullmatch(tag) and not _TWO_TAGS.search(tag) for tag in tags):
        return replace(layout, writing="suffix", notes=(*layout.notes, "tags are written TYPE-B"))
    has_o = any(columns[column] == "O" for _, columns in _rows(sentences))
    if has_o and not any(_TWO_TAGS.search(tag) or _LETTER.match(tag) for tag in tags):
        note = "tags have no B- or I-: neighbouring tokens of the same type are one entity"
        return replace(layout, writing="bare", notes=(*layout.notes, note))
    return layout


def _rows(sentences: Rows) -> Iterable[tuple[int, Sequence[str]]]:
    return (row for sentence in sentences for row in sentence)


def _counts(sentences: Rows, column: int) -> bool:
    """Whether the column counts 1, 2, 3 ... in every sentence, apart from ranges and empty nodes."""
    for sentence in sentences:
        cells = [columns[column] for _, columns in sentence]
        numbers = [cell for cell in cells if cell.isdigit()]
        if any(not _NODE.fullmatch(cell) for cell in cells) or numbers != [
            str(n + 1) for n in range(len(numbers))
        ]:
            return False
    return True


def _holds_tags(sentences: Rows, column: int) -> bool:
    tags = {columns[column] for _, columns in _rows(sentences)}
    return tags != {"O"} and all(Layout().bioes(tag) is not None for tag in tags)


def _types(sentences: Rows, column: int) -> set[str]:
    return {columns[column].partition("-")[2] for _, columns in _rows(sentences)} - {""}


def _outermost(sentences: Rows, columns: Sequence[int]) -> int:
    """The column whose entities contain those of every other one; the last column without such a one."""
    found = {column: [_spans(sentence, column) for sentence in sentences] for column in columns}

    def contains(one: int, other: int) -> bool:
        return all(
            any(start <= s and e <= end for start, end in mine)
            for mine, theirs in zip(found[one], found[other], strict=True)
            for s, e in theirs
        )

    outer = [column for column in columns if all(contains(column, other) for other in columns)]
    return outer[0] if len(outer) == 1 else columns[-1]


def _spans(sentence: Sequence[tuple[int, Sequence[str]]], column: int) -> list[tuple[int, int]]:
    tags = [Layout().bioes(columns[column]) or "O" for _, columns in sentence]
    return [(entity.start, entity.end) for entity in bio_to_entities(tags)[0]]
