"""Kinds of column files that people have, each with its right reading; most were refused or misread once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cdner.corpora.conll import Columns, ConllReader
from cdner.errors import CdnerError, InputError

# kind -> (file, what is said of it, sentences with entities)
Read = tuple[str, str, list[tuple[str, list[str]]]]
KINDS: dict[str, Read] = {
    "nested tags, the outer ones first": (
        "New\tB-ORG\tB-LOC\nYork\tI-ORG\tI-LOC\nTimes\tI-ORG\tO\n\nOslo\tB-LOC\tO\n",
        "column 2 was read",
        [("New York Times", ["ORG New York Times"]), ("Oslo", ["LOC Oslo"])],
    ),
    "nested tags, the outer ones last": (
        "New\tB-LOC\tB-ORG\nYork\tI-LOC\tI-ORG\nTimes\tO\tI-ORG\n\nOslo\tO\tB-LOC\n",
        "column 3 was read",
        [("New York Times", ["ORG New York Times"]), ("Oslo", ["LOC Oslo"])],
    ),
    "phrase chunks beside the tags": (
        "EU NNP I-NP I-ORG\nrejects VBZ I-VP O\n\nBonn NNP I-NP I-LOC\n",
        "",
        [("EU rejects", ["ORG EU"]), ("Bonn", ["LOC Bonn"])],
    ),
    "comments before sentences": (
        "# id 1\tdomain=x\na _ O\nb _ B-X\n\n# text = c\nc _ O\n",
        "2 comment lines were left out",
        [("a b", ["X b"]), ("c", [])],
    ),
    "a hash that is a token": (
        "# O\nOslo B-LOC\n\n#Oslo B-LOC\n",
        "",
        [("# Oslo", ["LOC Oslo"]), ("#Oslo", ["LOC #Oslo"])],
    ),
    "CoNLL-U with ranges and empty nodes": (
        "# text = vámonos al mar\n1-2\tvámonos"
        + "\t_" * 8
        + "\n1\tvamos"
        + "\t_" * 8
        + "\n2\tnos"
        + "\t_" * 8
        + "\n2.1\tella"
        + "\t_" * 8
        + "\n3\tMar"
        + "\t_" * 7
        + "\tSpaceAfter=No|NER=B-LOC\n",
        "the tag the key NER of column 10",
        [("vamos nos Mar", ["LOC Mar"])],
    ),
    "BILOU": (
        "Eva B-P\nvan I-P\nDijk L-P\nGent U-L\n",
        "",
        [("Eva van Dijk Gent", ["P Eva van Dijk", "L Gent"])],
    ),
    "BMES": ("a B-N\nb M-N\nc E-N\nd O\ne S-N\n", "", [("a b c d e", ["N a b c", "N e"])]),
    "BMEWO": ("a B-N\nb E-N\nc W-N\nd O\n", "", [("a b c d", ["N a b", "N c"])]),
    "bare types": (
        "Eva\tart-film\nBerg\tart-film\nin\tO\nGent\tloc\n",
        "neighbouring tokens of the same type are one entity",
        [("Eva Berg in Gent", ["art-film Eva Berg", "loc Gent"])],
    ),
    "types before prefixes": (
        "Eva PER-B\nBerg PER-I\nin O\n",
        "tags are written TYPE-B",
        [("Eva Berg in", ["PER Eva Berg"])],
    ),
    "underscores": ("Eva B_PER\nBerg I_PER\nin O\n", "", [("Eva Berg in", ["PER Eva Berg"])]),
    "a byte order mark inside": (
        "Eva B-PER\n\n\ufeffOslo B-LOC\n",
        "1 byte order marks",
        [("Eva", ["PER Eva"]), ("Oslo", ["LOC Oslo"])],
    ),
}
REFUSED = {
    "two tags in one cell": ("Eva B-PER\nOslo B-LOC|B-ORG\n", "line 2: unknown tag 'B-LOC|B-ORG'"),
    "a first column that counts": ("1\tEva\tB-PER\n2\tsings\tO\n\n1\tOslo\tB-LOC\n", "--token-column 2"),
    "CoNLL-U without entities": (
        "1\ta" + "\t_" * 8 + "\n2\tb" + "\t_" * 8 + "\n",
        "no key of the last column",
    ),
    "a comment inside a sentence": ("a _ B-X\n# text b\nc _ O\n", "line 2"),
    "bare types and prefixes mixed": ("Eva B-PER\nOslo LOC\nin O\n", "line 2: unknown tag 'LOC'"),
}


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_file_is_read_right(kind: str, tmp_path: Path) -> None:
    text, said, expected = KINDS[kind]
    path = written(tmp_path / "f.txt", text)
    corpus = ConllReader().read(path, domain="d", split="train")
    assert [
        (s.text, [f"{e.type} {' '.join(s.tokens[e.start : e.end])}" for e in s.entities])
        for s in corpus.sentences
    ] == expected
    assert list(ConllReader().stream(path)) == list(corpus.sentences)
    notes = "; ".join(ConllReader().survey(path).notes())
    assert said in notes if said else not notes


@pytest.mark.parametrize("kind", REFUSED)
def test_a_kind_of_file_is_refused_with_a_way_out(kind: str, tmp_path: Path) -> None:
    text, said = REFUSED[kind]
    with pytest.raises(InputError) as refused:
        ConllReader().read(written(tmp_path / "f.txt", text), domain="d", split="train")
    assert said in str(refused.value)


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = written(tmp_path / "f.txt", "1\tEva\tB-PER\tB-X\n2\tsings\tO\tO\n\n1\tOslo\tB-LOC\tO\n")
    corpus = ConllReader(Columns(token=1, tag=2)).read(path, domain="d", split="train")
    assert [(s.text, [e.type for e in s.entities]) for s in corpus.sentences] == [
        ("Eva sings", ["PER"]),
        ("Oslo", ["LOC"]),
    ]
    with pytest.raises(InputError, match="no column 9"):
        ConllReader(Columns(token=8)).read(path, domain="d", split="train")
    with pytest.raises(InputError, match="line 1"):
        ConllReader(Columns(comments=False)).read(
            written(path, "# text x\na _ O\n"), domain="d", split="train"
        )


def test_files_of_mixed_kinds_raise_no_other_error_and_lose_no_token(tmp_path: Path) -> None:
    """Lines of all kinds, shuffled: each file is read or refused; what is read stands in the file."""
    chosen, path = random.Random(0), tmp_path / "f.txt"
    lines = [line for text, *_ in [*KINDS.values(), *REFUSED.values()] for line in text.split("\n")]
    n_read = 0
    for _ in range(400):
        one = chosen.choice(list(KINDS.values()))[0].split("\n")
        mixed = (
            one * 3 if chosen.random() < 0.5 else [*one, *chosen.choices(lines, k=chosen.randrange(1, 30))]
        )
        if chosen.random() < 0.5:
            chosen.shuffle(mixed)
        text = written(path, "\n".join(mixed)).read_text(encoding="utf-8")
        try:
            corpus = ConllReader().read(path, domain="d", split="train")
        except CdnerError:
            continue
        n_read += 1
        cells = {
            cell.replace("\ufeff", "")
            for line in text.split("\n")
            for cell in line.replace("\t", " ").split(" ")
        }
        assert all(token in cells for sentence in corpus.sentences for token in sentence.tokens)
    assert n_read > 50
