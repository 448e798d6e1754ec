"""CrossNER's published facts, its checksums, and a download that fails in every way it can."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cdner.corpora import crossner
from cdner.corpora.conll import ConllReader
from cdner.corpora.crossner import DOMAINS, FILES, SPLITS, address, fetch, open_https, read_folder
from cdner.errors import InputError, UsageError
from cdner.files import file_sha256
from cdner.types import Split

# domain: (types, sentences, entities, longest sentence); splits in order train, dev, test
FACTS = {
    "politics": (9, (200, 541, 651), (1304, 3482, 4209), 84),
    "science": (17, (200, 450, 543), (1075, 2538, 3089), 84),
    "music": (13, (100, 380, 465), (648, 2679, 3336), 84),
    "literature": (12, (100, 400, 416), (541, 2130, 2266), 82),
    "ai": (14, (100, 350, 431), (532, 1549, 1809), 84),
    "conll2003": (4, (14041, 3250, 3453), (23429, 5938, 5628), 124),
}
WITHOUT_ENTITY = {"ai": (0, 0, 1), "conll2003": (2909, 645, 697)}
LABELS = {
    "politics": "politician person organisation politicalparty event election country location misc",
    "science": (
        "scientist person university organisation country location discipline enzyme protein chemicalcompound"
        " chemicalelement event astronomicalobject academicjournal award theory misc"
    ),
    "music": (
        "musicgenre song band album musicalartist musicalinstrument award event country location organisation"
        " person misc"
    ),
    "literature": (
        "book writer award poem event magazine person location organisation country misc literarygenre"
    ),
    "ai": (
        "field task product algorithm researcher metrics university country person organisation location misc"
        " conference programlang"
    ),
    "conll2003": "person organisation location misc",
}
RARE_TYPES = [  # domain, split, type, gold entities
    ("politics", "train", "person", 14),
    ("politics", "dev", "person", 286),
    ("politics", "test", "person", 354),
    ("science", "train", "theory", 8),
    ("science", "train", "country", 9),
    ("music", "train", "musicalinstrument", 2),
]
OVERLAPS = {  # pairs not named share no sentence
    ("science", "train", "test"): 1,
    ("music", "train", "test"): 6,
    ("politics", "dev", "test"): 1,
    ("science", "dev", "test"): 11,
    ("music", "dev", "test"): 17,
    ("ai", "dev", "test"): 3,
    ("science", "train", "dev"): 4,
    ("music", "train", "dev"): 1,
}
TARGETS = [domain for domain in DOMAINS if domain != "conll2003"]


class _Counter:
    def __init__(self) -> None:
        self.total: int | None = None
        self.n_done = 0

    def start(self, label: str, total: int | None = None) -> None:
        self.total = total

    def advance(self, n: int = 1, note: str = "") -> None:
        self.n_done += n


def _server(folder: Path, served: list[str]) -> Callable[[str], io.BytesIO]:
    """Answers an address with the file of the same name in a folder."""

    def open_url(url: str) -> io.BytesIO:
        served.append(url)
        domain, name = url.split("/")[-2:]
        return io.BytesIO((folder / domain / name).read_bytes())

    return open_url


# --- the corpus ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", DOMAINS)
def test_counts_and_labels_are_the_published_ones(shared_data: Path, domain: str) -> None:
    n_types, n_sentences, n_entities, longest = FACTS[domain]
    corpora = [read_folder(shared_data / "crossner", domain=domain, split=split) for split in SPLITS]
    sentences = [sentence for corpus in corpora for sentence in corpus.sentences]
    assert tuple(len(corpus.sentences) for corpus in corpora) == n_sentences
    assert tuple(sum(len(s.entities) for s in corpus.sentences) for corpus in corpora) == n_entities
    assert max(len(sentence.tokens) for sentence in sentences) == longest
    assert {label for corpus in corpora for label in corpus.types} == set(LABELS[domain].split())
    assert len(LABELS[domain].split()) == n_types
    assert all(corpus.n_repaired_tags == 0 for corpus in corpora)


@pytest.mark.parametrize("domain", WITHOUT_ENTITY)
def test_sentences_without_entity_are_kept(shared_data: Path, domain: str) -> None:
    empty = tuple(
        sum(
            not s.entities
            for s in read_folder(shared_data / "crossner", domain=domain, split=split).sentences
        )
        for split in SPLITS
    )
    assert empty == WITHOUT_ENTITY[domain]


@pytest.mark.parametrize(("domain", "split", "entity_type", "n"), RARE_TYPES)
def test_rare_types_are_counted(
    shared_data: Path, domain: str, split: Split, entity_type: str, n: int
) -> None:
    corpus = read_folder(shared_data / "crossner", domain=domain, split=split)
    assert sum(entity.type == entity_type for s in corpus.sentences for entity in s.entities) == n


@pytest.mark.parametrize("domain", TARGETS)
def test_the_splits_share_exactly_the_known_sentences(shared_data: Path, domain: str) -> None:
    tokens = {
        split: {s.tokens for s in read_folder(shared_data / "crossner", domain=domain, split=split).sentences}
        for split in SPLITS
    }
    for first, second in (("train", "dev"), ("train", "test"), ("dev", "test")):
        shared = len(tokens[first] & tokens[second])  # type: ignore[index]
        assert shared == OVERLAPS.get((domain, first, second), 0), (first, second)


def test_the_packaged_checksums_are_those_of_the_files(shared_data: Path) -> None:
    assert len(FILES) == 18
    for (domain, split), sha256 in FILES.items():
        assert file_sha256(shared_data / "crossner" / domain / f"{split}.txt") == sha256


def test_every_file_is_named_by_its_pinned_commit() -> None:
    for domain, split in FILES:
        assert address(domain, split).startswith("https://")
        assert address(domain, split).endswith(f"/{crossner.COMMIT}/ner_data/{domain}/{split}.txt")


# --- a folder --------------------------------------------------------------------------------------------


def test_a_changed_file_is_refused_with_both_checksums(shared_data: Path, tmp_path: Path) -> None:
    file = tmp_path / "ai" / "dev.txt"
    file.parent.mkdir()
    original = (shared_data / "crossner" / "ai" / "dev.txt").read_bytes()
    file.write_bytes(original + b"\nmore\tO\n")
    with pytest.raises(InputError) as caught:
        read_folder(tmp_path, domain="ai", split="dev")
    for part in (str(file), FILES["ai", "dev"], file_sha256(file)):
        assert part in str(caught.value)
    assert len(read_folder(tmp_path, domain="ai", split="dev", verify=False).sentences) == 351


def test_a_clone_of_the_repository_is_read_like_its_inner_folder(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "ner_data").symlink_to(shared_data / "crossner", target_is_directory=True)
    direct = ConllReader().read(
        shared_data / "crossner" / "ai" / "train.txt", domain="ai", split="train", strict=True
    )
    assert read_folder(tmp_path, domain="ai", split="train") == direct


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"music/test\.txt"):
        read_folder(tmp_path, domain="music", split="test")


def test_an_unknown_domain_is_answered_with_the_nearest(tmp_path: Path) -> None:
    for call in (
        lambda: read_folder(tmp_path, domain="musik", split="test"),
        lambda: fetch(["musik"], tmp_path, progress=_Counter()),
    ):
        with pytest.raises(UsageError, match="Did you mean 'music'"):
            call()
    assert not list(tmp_path.iterdir())


# --- the download ----------------------------------------------------------------------------------------


def test_fetched_files_are_the_pinned_ones_and_are_not_fetched_twice(
    shared_data: Path, tmp_path: Path
) -> None:
    served: list[str] = []
    progress = _Counter()
    open_url = _server(shared_data / "crossner", served)
    paths = fetch(["ai", "music", "ai"], tmp_path, progress=progress, open_url=open_url)
    assert served == [address(domain, split) for domain in ("ai", "music") for split in SPLITS]
    assert (progress.total, progress.n_done) == (6, 6)
    assert [file_sha256(path) for path in paths] == [
        FILES[d, split] for d in ("ai", "music") for split in SPLITS
    ]
    paths[1].write_bytes(b"spoiled")
    fetch(["ai", "music"], tmp_path, progress=_Counter(), open_url=open_url)
    assert served[6:] == [address("ai", "dev")]
    assert file_sha256(paths[1]) == FILES["ai", "dev"]


def test_a_download_with_a_wrong_checksum_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    old = tmp_path / "ai" / "train.txt"
    old.parent.mkdir()
    old.write_bytes(b"old")
    with pytest.raises(InputError, match=FILES["ai", "train"]):
        fetch(["ai"], tmp_path, progress=_Counter(), open_url=lambda url: io.BytesIO(b"token\tO\n"))
    assert old.read_bytes() == b"old"
    assert list(old.parent.iterdir()) == [old]


class _Breaking(io.BytesIO):
    """A connection that is lost after the first block."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell():
            raise ConnectionResetError("Connection reset by peer")
        return super().read(size)


def test_a_lost_connection_leaves_no_file_and_says_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"reset by peer.*--from DIR"):
        fetch(["ai"], tmp_path, progress=_Counter(), open_url=lambda url: _Breaking(b"token\tO\n" * 20000))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_closed_port_is_an_error_of_the_network(tmp_path: Path) -> None:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(InputError, match="--from DIR"):
        fetch(
            ["ai"],
            tmp_path,
            progress=_Counter(),
            open_url=lambda url: open_https(f"https://127.0.0.1:{port}/train.txt"),
        )


@pytest.mark.parametrize("scheme", ["http", "ftp", "file"])
def test_only_https_is_opened(scheme: str, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("token\tO\n")
    with pytest.raises(OSError, match="unknown url type"):
        open_https(f"{scheme}://127.0.0.1{tmp_path}/train.txt")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "ai").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="Cannot write to"):
        fetch(["ai"], tmp_path, progress=_Counter(), open_url=lambda url: io.BytesIO(b""))
