"""Column files in every dialect, and every way they can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdner.corpora.conll import ConllReader
from cdner.errors import InputError
from cdner.spans import entities_to_bio
from cdner.types import Corpus, Entity, Sentence


def _read(folder: Path, content: str | bytes, *, strict: bool = False) -> Corpus:
    path = folder / "corpus.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return ConllReader().read(path, domain="d", split="train", strict=strict)


def _refused(folder: Path, content: str | bytes, *, strict: bool = False) -> str:
    with pytest.raises(InputError) as caught:
        _read(folder, content, strict=strict)
    message = str(caught.value)
    assert str(folder / "corpus.txt") in message
    assert "\n" not in message
    return message


_IVO = Sentence(("Ivo", "Lund", "left", "Oslo"), (Entity(0, 2, "PER"), Entity(3, 4, "LOC")))
_PLAIN = Sentence(("Nothing", "here"))

DIALECTS = {
    "tabs": "Ivo\tB-PER\nLund\tI-PER\nleft\tO\nOslo\tB-LOC\n\nNothing\tO\nhere\tO\n",
    "spaces": "Ivo B-PER\nLund  I-PER\nleft O\nOslo B-LOC\n\nNothing O\nhere O\n",
    "three columns": "Ivo N B-PER\nLund N I-PER\nleft V O\nOslo N B-LOC\n\nNothing N O\nhere A O\n",
    "carriage returns": "Ivo\tB-PER\r\n"
    "Lund\tI-PER\r\nleft\tO\r\nOslo\tB-LOC\r\n\r\nNothing\tO\r\nhere\tO\r\n",
    "byte order mark": "\ufeffIvo\tB-PER\nLund\tI-PER\nleft\tO\nOslo\tB-LOC\n\nNothing\tO\nhere\tO\n",
    "no last newline": "Ivo\tB-PER\nLund\tI-PER\nleft\tO\nOslo\tB-LOC\n\nNothing\tO\nhere\tO",
    "trailing blanks": "Ivo\tB-PER \nLund\tI-PER\t\nleft\tO\nOslo\tB-LOC\n \t\nNothing\tO\nhere\tO\n\t\n",
    "many blank lines": "\n\nIvo\tB-PER\nLund\tI-PER\nleft\tO\nOslo\tB-LOC\n\n\n\nNothing\tO\nhere\tO\n\n\n",
    "document starts": (
        "-DOCSTART- -X- O O\n\nIvo N x B-PER\nLund N x I-PER\nleft V x O\nOslo N x B-LOC\n"
        "-DOCSTART- -X- O O\nNothing N x O\nhere A x O\n"
    ),
    "bare document start": "-DOCSTART-\nIvo B-PER\nLund I-PER\nleft O\nOslo B-LOC\n\nNothing O\nhere O\n",
    "image headers": (
        "IMGID:1001\nIvo\tB-PER\nLund\tI-PER\nleft\tO\nOslo\tB-LOC\n\nIMGID:1002\nNothing\tO\nhere\tO\n"
    ),
    "image headers without blank lines": (
        "IMGID:1001\nIvo\tB-PER\nLund\tI-PER\nleft\tO\nOslo\tB-LOC\nIMGID:1002\nNothing\tO\nhere\tO\n"
    ),
    "IOB1": "Ivo\tI-PER\nLund\tI-PER\nleft\tO\nOslo\tI-LOC\n\nNothing\tO\nhere\tO\n",
    "BIOES": "Ivo\tB-PER\nLund\tE-PER\nleft\tO\nOslo\tS-LOC\n\nNothing\tO\nhere\tO\n",
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("content", DIALECTS.values(), ids=DIALECTS.keys())
def test_every_dialect_reads_as_the_same_corpus(tmp_path: Path, content: str, strict: bool) -> None:
    assert _read(tmp_path, content, strict=strict) == Corpus("d", "train", (_IVO, _PLAIN), 0, ("PER", "LOC"))


def test_types_are_in_order_of_first_appearance(tmp_path: Path) -> None:
    assert _read(tmp_path, "a B-z\nb B-a\n\nc B-z\nd B-m\n").types == ("z", "a", "m")


def test_a_type_may_hold_a_hyphen(tmp_path: Path) -> None:
    assert _read(tmp_path, "a B-work-of-art\nb I-work-of-art\n").sentences[0].entities == (
        Entity(0, 2, "work-of-art"),
    )


def test_iob1_separates_touching_entities_of_one_type_by_b(tmp_path: Path) -> None:
    corpus = _read(tmp_path, "Oslo I-LOC\nBergen B-LOC\nHavn I-LOC\nIvo I-PER\n", strict=True)
    assert corpus.n_repaired_tags == 0
    assert corpus.sentences[0].entities == (Entity(0, 1, "LOC"), Entity(1, 3, "LOC"), Entity(3, 4, "PER"))


def test_orphans_are_repaired_and_counted(tmp_path: Path) -> None:
    corpus = _read(tmp_path, "Ivo B-PER\nleft O\nOslo I-LOC\nHavn I-LOC\n\nLund I-PER\nOslo I-LOC\n")
    assert corpus.n_repaired_tags == 3
    assert corpus.sentences[0].entities == (Entity(0, 1, "PER"), Entity(2, 4, "LOC"))
    assert corpus.sentences[1].entities == (Entity(0, 1, "PER"), Entity(1, 2, "LOC"))


def test_strict_refuses_the_first_orphan_by_line(tmp_path: Path) -> None:
    message = _refused(tmp_path, "Ivo B-PER\nleft O\n\nOslo I-LOC\nLund I-PER\n", strict=True)
    assert "line 4" in message
    assert "I-LOC" in message
    assert "Oslo" in message


def test_an_orphan_end_of_bioes_is_refused_when_strict(tmp_path: Path) -> None:
    content = "Ivo S-PER\nOslo E-LOC\n"
    assert "line 2" in _refused(tmp_path, content, strict=True)
    assert _read(tmp_path, content).n_repaired_tags == 1


def test_an_orphan_before_the_first_b_is_still_an_orphan(tmp_path: Path) -> None:
    assert "line 1" in _refused(tmp_path, "Oslo I-LOC\n\nIvo B-PER\n", strict=True)


@pytest.mark.parametrize(
    ("content", "line", "told"),
    [
        ("a\tO\nb\n", 2, "'b'"),
        ("a\tO\nb\tX\tO\n", 2, "3 columns"),
        ("a x O\n\nb O\n", 3, "2 columns"),
        ("a\tO\n\tO\n", 2, "first column is empty"),
        ("a\tO\nnew york\tB-LOC\n", 2, "space"),
        ("a\tB\n", 1, "unknown tag 'B'"),
        ("a\tB-\n", 1, "unknown tag 'B-'"),
        ("a\tB-X\nb\tPER\n", 2, "unknown tag 'PER'"),
        ("a\tO\n\n\nb\tQ-PER\n", 4, "unknown tag 'Q-PER'"),
        ("a\tO\nb\to\n", 2, "unknown tag 'o'"),
        ("a\tO\nb\0\tO\n", 2, "NUL"),
        ("a\tO\rb\tO\r", 1, "carriage return"),
        (b"a\tO\nb\xff\tO\n", 2, "byte 2 of the line (0xff)"),
        ("a\tO\n".encode("utf-16"), 1, "not UTF-8"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, content: str | bytes, line: int, told: str) -> None:
    message = _refused(tmp_path, content)
    assert f"line {line}:" in message
    assert told in message


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff", "-DOCSTART- O\n", "IMGID:1\n\nIMGID:2\n"])
def test_a_file_without_a_sentence_is_refused(tmp_path: Path, content: str) -> None:
    assert "no sentence" in _refused(tmp_path, content)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.txt", tmp_path):
        with pytest.raises(InputError, match="Cannot read") as caught:
            ConllReader().read(path, domain="d", split="dev")
        assert str(path) in str(caught.value)


def test_a_token_of_a_megabyte_is_kept_and_not_printed(tmp_path: Path) -> None:
    token = "x" * (1 << 20)
    assert _read(tmp_path, f"{token}\tB-PER\n").sentences == (Sentence((token,), (Entity(0, 1, "PER"),)),)
    assert len(_refused(tmp_path, f"{token}\tperson\n")) < 400 + len(str(tmp_path))
    assert len(_refused(tmp_path, f"{token}\n")) < 400 + len(str(tmp_path))


def test_unicode_spaces_and_separators_stay_inside_a_token(tmp_path: Path) -> None:
    tokens = ("10\u00a0000", "a\u2028b", "\u200b", "x\u0085", "\x0b")
    corpus = _read(tmp_path, "".join(f"{token}\tO\n" for token in tokens))
    assert corpus.sentences[0].tokens == tokens
    assert corpus.sentences[0].text.split(" ") == list(tokens)


def test_an_image_header_with_a_tag_is_a_token(tmp_path: Path) -> None:
    assert _read(tmp_path, "IMGID:5\tO\n").sentences[0].tokens == ("IMGID:5",)


def test_the_twitter_files_read(shared_data: Path) -> None:
    sizes = {}
    for split in ("train", "dev", "test"):
        corpus = ConllReader().read(
            shared_data / "twitter2017" / f"{split}.txt", domain="twitter2017", split=split, strict=True
        )
        sizes[split] = len(corpus.sentences)
        assert set(corpus.types) == {"person", "organisation", "location", "misc"}
    assert sizes == {"train": 3373, "dev": 723, "test": 723}


_TOKENS = st.text(
    st.characters(exclude_characters="\t\n\r \0", exclude_categories=("Cs",)), min_size=1, max_size=5
).filter(lambda token: token != "-DOCSTART-" and not token.startswith("\ufeff"))


@st.composite
def _sentences(draw: st.DrawFn) -> Sentence:
    tokens = draw(st.lists(_TOKENS, min_size=1, max_size=9))
    entities, position = [], 0
    while position < len(tokens):
        end = position + draw(st.integers(1, 3))
        if end <= len(tokens) and draw(st.booleans()):
            entities.append(Entity(position, end, draw(st.sampled_from(["PER", "LOC"]))))
        position = end
    return Sentence(tuple(tokens), tuple(entities))


def _bioes(sentence: Sentence) -> list[str]:
    tags = ["O"] * len(sentence.tokens)
    for entity in sentence.entities:
        inner = ["B", *"I" * (entity.end - entity.start - 2), "E"]
        prefixes = "S" if entity.end - entity.start == 1 else inner
        tags[entity.start : entity.end] = [f"{prefix}-{entity.type}" for prefix in prefixes]
    return tags


def _iob1(sentence: Sentence) -> list[str]:
    tags = ["O"] * len(sentence.tokens)
    for entity in sentence.entities:
        tags[entity.start : entity.end] = [f"I-{entity.type}"] * (entity.end - entity.start)
        if entity.start and tags[entity.start - 1][2:] == entity.type:
            tags[entity.start] = f"B-{entity.type}"
    return tags


def _iob2(sentence: Sentence) -> list[str]:
    return entities_to_bio(len(sentence.tokens), sentence.entities)


@pytest.mark.parametrize("scheme", [_iob2, _iob1, _bioes])
@given(sentences=st.lists(_sentences(), min_size=1, max_size=4))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, scheme: object, sentences: list[Sentence]
) -> None:
    assert callable(scheme)
    blocks = [
        "".join(f"{token}\t{tag}\n" for token, tag in zip(sentence.tokens, scheme(sentence), strict=True))
        for sentence in sentences
    ]
    corpus = _read(tmp_path_factory.mktemp("written"), "\n".join(blocks), strict=True)
    assert corpus.sentences == tuple(sentences)
    assert corpus.n_repaired_tags == 0


@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.sampled_from(
                ["a", "\t", " ", "\n", "\r\n", "O", "B-x", "I-x", "E-y", "S-", "IMGID:1", "-DOCSTART-"]
            )
        ).map("".join),
    ),
    strict=st.booleans(),
)
def test_any_content_is_read_or_refused_cleanly(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes, strict: bool
) -> None:
    try:
        corpus = _read(tmp_path_factory.mktemp("fuzz"), content, strict=strict)
    except InputError:
        return
    assert corpus.sentences
    for sentence in corpus.sentences:
        assert sentence.tokens
        assert all(token and not set(token) & set(" \t\n\r\0") for token in sentence.tokens)
        assert entities_to_bio(len(sentence.tokens), sentence.entities)
