"""Files of annotation tools become sentences of tokens; what does not fit is repaired as asked, and counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdner.errors import InputError
from cdner.formats import annotated_text as module
from cdner.formats.annotated_text import AnnotatedText, Mark, Repairs, sentences_of
from cdner.formats.exported import ExportedCorpus
from cdner.formats.json_lines import write_json_lines
from cdner.formats.label_studio import write_label_studio
from cdner.formats.readers import guess_format, read_documents
from cdner.formats.spacy_docs import write_doc_bin
from cdner.types import Entity, Prediction, Sentence

TEXT = "Queen played in London. Freddie Mercury sang."
MARKS = ((0, 5, "band"), (16, 22, "location"), (24, 39, "artist"))
EXPECTED = [
    (("Queen", "played", "in", "London", "."), ((0, 1, "band"), (3, 4, "location"))),
    (("Freddie", "Mercury", "sang", "."), ((0, 2, "artist"),)),
]


def shown(sentences: list[Sentence]) -> list[tuple[tuple[str, ...], tuple[tuple[int, int, str], ...]]]:
    return [(one.tokens, tuple((e.start, e.end, e.type) for e in one.entities)) for one in sentences]


def read(path: Path, reader: str, repairs: Repairs | None = None, **options: object) -> list[Sentence]:
    found: list[Sentence] = []
    for document in read_documents(path, reader):
        if isinstance(document, AnnotatedText):
            found += sentences_of(document, repairs or Repairs(), **options)  # type: ignore[arg-type]
        else:
            found.append(document)
    return found


def regions(start: str = "start", end: str = "end", name: str = "label") -> list[dict[str, object]]:
    return [{start: s, end: e, name: t} for s, e, t in MARKS]


STUDIO = [
    {"value": {"start": s, "end": e, "labels": [t]}, "type": "labels", "from_name": "x"} for s, e, t in MARKS
]
SHAPES = {
    "doccano, triples": {"text": TEXT, "label": [list(mark) for mark in MARKS]},
    "doccano, labels": {"text": TEXT, "labels": [list(mark) for mark in MARKS]},
    "doccano, objects": {"text": TEXT, "entities": regions("start_offset", "end_offset")},
    "prodigy": {"text": TEXT, "spans": regions(), "answer": "accept", "meta": {}},
    "lighttag": {"examples": [{"content": TEXT, "annotations": regions(name="tag")}]},
    "label studio": {"data": {"text": TEXT}, "annotations": [{"result": STUDIO}]},
    "label studio, completions": {"data": {"text": TEXT}, "completions": [{"result": STUDIO}]},
    "label studio, predictions only": {
        "data": {"text": TEXT},
        "annotations": [],
        "predictions": [{"result": STUDIO}],
    },
    "label studio, the second annotation is the truth": {
        "data": {"text": TEXT},
        "annotations": [{"result": []}, {"ground_truth": True, "result": STUDIO}],
    },
    "label studio, the first was cancelled": {
        "data": {"text": TEXT},
        "annotations": [{"was_cancelled": True, "result": []}, {"result": STUDIO}],
    },
    "label studio, min": {
        "text": TEXT,
        "label": [{"start": s, "end": e, "labels": [t]} for s, e, t in MARKS],
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_read_to_the_same_entities(shape: str, tmp_path: Path) -> None:
    is_studio = shape.startswith("label studio")
    path = tmp_path / ("train.json" if is_studio else "train.jsonl")
    path.write_text(json.dumps([SHAPES[shape]] if is_studio else SHAPES[shape]), encoding="utf-8")
    assert guess_format(path) == ("labelstudio" if is_studio else "jsonl")
    assert shown(read(path, "labelstudio" if is_studio else "jsonl")) == EXPECTED


def test_a_pretty_printed_file_is_read_as_its_lines_are(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(SHAPES["lighttag"], indent=2), encoding="utf-8")
    assert shown(read(path, "jsonl")) == EXPECTED


def test_prodigys_tokens_are_kept_and_rejected_rows_left_out(tmp_path: Path) -> None:
    tokens = [
        {"text": "Queen", "start": 0, "end": 5, "id": 0},
        {"text": "play-ed", "start": 6, "end": 13, "id": 1},
    ]
    row = {"text": "Queen play-ed", "tokens": tokens, "spans": [{"start": 0, "end": 5, "label": "band"}]}
    path = tmp_path / "p.jsonl"
    path.write_text(
        "\n".join(json.dumps({**row, "answer": said}) for said in ("reject", "accept")), encoding="utf-8"
    )
    assert shown(read(path, "jsonl")) == [(("Queen", "play-ed"), ((0, 1, "band"),))]


def test_brat_reads_text_and_standoff_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "a.ann").write_text(
        "T1\tband 0 5\tQueen\nT2\tlocation 16 22\tLondon\nR1\tin Arg1:T1 Arg2:T2\n"
        "T3\tartist 24 31;32 39\tFreddie Mercury\n",
        encoding="utf-8",
    )
    assert guess_format(tmp_path) == guess_format(tmp_path / "a.ann") == "brat"
    assert shown(read(tmp_path, "brat")) == shown(read(tmp_path / "a.ann", "brat")) == EXPECTED


@pytest.mark.parametrize(
    ("misaligned", "tokens", "entity"),
    [("split", ("pre-", "Raphaelite", "art"), (1, 2)), ("snap", ("pre-Raphaelite", "art"), (0, 1))],
)
def test_a_mark_that_ends_inside_a_token(
    misaligned: str, tokens: tuple[str, ...], entity: tuple[int, int]
) -> None:
    repairs, document = Repairs(), AnnotatedText("pre-Raphaelite art", (Mark(4, 14, "movement"),), "line 1")
    (found,) = sentences_of(document, repairs, misaligned=misaligned)  # type: ignore[arg-type]
    assert shown([found]) == [(tokens, ((*entity, "movement"),))]
    assert list(repairs.counts.values()) == [1] and list(repairs.first.values()) == ["line 1"]
    with pytest.raises(
        InputError, match=r"line 1: a mark ends inside the token 'pre-Raphaelite' \(character 4\)"
    ):
        list(sentences_of(document, repairs, misaligned="refuse"))


def test_of_overlapping_marks_the_longest_is_kept_and_the_others_counted() -> None:
    repairs = Repairs()
    marks = (Mark(0, 12, "organisation"), Mark(0, 6, "location"), Mark(7, 12, "person"), Mark(12, 13, "x"))
    (found,) = sentences_of(AnnotatedText("London Times .", marks, "p"), repairs)
    assert shown([found])[0][1] == ((0, 2, "organisation"),)
    assert repairs.counts == {module.OVERLAPPING: 2, module.EMPTY: 1}


def test_a_mark_over_the_end_of_a_sentence_holds_it_together() -> None:
    (found,) = sentences_of(AnnotatedText("He read War! And peace.", (Mark(8, 22, "book"),), "p"), Repairs())
    assert [found.tokens[e.start : e.end] for e in found.entities] == [("War", "!", "And", "peace")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"text": "a", "label": [[0, 9, "x"]]}', "line 1: the x from 0 to 9 is not inside the text"),
        ('{"text": "a"}\n{"words": 1}', "line 2: neither a text nor tokens"),
        ('{"text": "a", "spans": [{"start": "0", "end": 1, "label": "x"}]}', "no whole number under start"),
        ('{"text": "a", "spans": [{"start": 0, "end": 1}]}', "an entity has no type"),
        ('{"text": "a"}\n{"text": NaN}', "line 2: NaN is not JSON"),
        ('{"text": "a"}\nrubbish', "line 2: not JSON"),
        ('{"tokens": ["a"], "ner_tags": ["B-x", "O"]}', "the tokens have no list of as many tags"),
        ('{"tokens": ["a"], "ner_tags": ["x"]}', "not in a known shape of 'jsonl'"),
        ('{"examples": [1]}', "not in a known shape of 'jsonl'"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_file_and_place(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        read(path, "jsonl")
    assert said in str(refused.value) and str(path) in str(refused.value)


# --- what export writes is read back ------------------------------------------------------------------------

WORDS = st.text(
    st.characters(categories=("L", "N", "P", "S"), include_characters="😀́"), min_size=1, max_size=5
)


@st.composite
def labelled(draw: st.DrawFn) -> Sentence:
    tokens = tuple(draw(st.lists(WORDS, min_size=1, max_size=8)))
    entities, position = [], 0
    while position < len(tokens):
        start = draw(st.integers(position, len(tokens)))
        end = draw(st.integers(start, len(tokens)))
        if start < end:
            entities.append(Entity(start, end, draw(st.sampled_from(("song", "album")))))
        position = max(end, position + 1)
    return Sentence(tokens, tuple(entities))


@settings(max_examples=40, deadline=None)
@given(st.lists(labelled(), min_size=1, max_size=4))
def test_an_exported_corpus_is_read_back_with_the_same_entities(sentences: list[Sentence]) -> None:
    import tempfile

    corpus = ExportedCorpus(
        *("run", "model", "music", "test", ("song", "album"), tuple(range(len(sentences)))),
        tuple(sentences),
        tuple(Prediction("", ()) for _ in sentences),
    )
    with tempfile.TemporaryDirectory() as folder:
        lines, docs, tasks = (Path(folder) / name for name in ("a.jsonl", "a.spacy", "a.json"))
        write_json_lines(corpus, lines)
        write_doc_bin(corpus, docs)
        write_label_studio(corpus, tasks)
        assert read(lines, "jsonl") == read(docs, "spacy") == sentences
        texts = [
            [" ".join(s.tokens[e.start : e.end]).replace(" ", "") for e in s.entities]
            for s in read(tasks, "labelstudio", whole=True)
        ]
        assert texts == [["".join(s.tokens[e.start : e.end]) for e in s.entities] for s in sentences]
