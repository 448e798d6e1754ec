"""The shipped corpora keep what the main job and its documentation promise of them."""

from __future__ import annotations

import tomllib
from collections import Counter
from itertools import combinations

import pytest

from cdner.corpora.demo import FILES, ROLES, read_demo
from cdner.errors import UsageError
from cdner.files import resource_root
from cdner.types import Corpus, Split

SPLITS: dict[str, tuple[Split, ...]] = {"newsdesk": ("train", "dev"), "film": ("train", "dev", "test")}
FILM_TYPES = {
    "actor",
    "director",
    "character",
    "film",
    "series",
    "studio",
    "broadcaster",
    "festival",
    "award",
    "city",
    "country",
}


def _type_counts(corpus: Corpus) -> Counter[str]:
    return Counter(entity.type for sentence in corpus.sentences for entity in sentence.entities)


def test_exactly_the_promised_splits_are_shipped() -> None:
    assert set(FILES) == {(domain, split) for domain, splits in SPLITS.items() for split in splits}
    assert ROLES == {"newsdesk": "source", "film": "target"}
    assert all(len(sha256) == 64 for sha256 in FILES.values())


def test_sizes_are_the_promised_ones() -> None:
    sizes = {key: len(read_demo(*key).sentences) for key in FILES}
    assert [sizes["film", split] for split in SPLITS["film"]] == [60, 40, 60]
    assert sizes["newsdesk", "train"] >= 160
    assert sizes["newsdesk", "dev"] >= 40


@pytest.mark.parametrize("split", SPLITS["film"])
def test_every_film_type_has_support(split: Split) -> None:
    counts = _type_counts(read_demo("film", split))
    assert set(counts) == FILM_TYPES
    assert min(counts.values()) >= {"train": 8, "dev": 7, "test": 10}[split]


def test_the_source_has_the_four_coarse_types_and_sentences_without_entity() -> None:
    for split in SPLITS["newsdesk"]:
        corpus = read_demo("newsdesk", split)
        assert set(corpus.types) == {"person", "organisation", "location", "misc"}
        assert sum(not sentence.entities for sentence in corpus.sentences) >= len(corpus.sentences) // 10


def test_sentences_have_the_promised_lengths_and_numbers_of_entities() -> None:
    for domain, split in FILES:
        shortest, longest = {"newsdesk": (8, 18), "film": (10, 24)}[domain]
        for sentence in read_demo(domain, split).sentences:
            assert shortest <= len(sentence.tokens) <= longest, sentence.text
            assert sentence.tokens[-1] == ".", sentence.text
            if domain == "film":
                assert 2 <= len(sentence.entities) <= 5, sentence.text


def test_no_sentence_occurs_twice_in_any_split_or_prompt_example() -> None:
    texts = {key: [sentence.text for sentence in read_demo(*key).sentences] for key in FILES}
    table = tomllib.loads((resource_root("prompts") / "examples" / "film.toml").read_text(encoding="utf-8"))
    texts["film", "train"] += [example["text"] for example in table["example"]]
    assert all(len(set(found)) == len(found) for found in texts.values())
    for first, second in combinations(texts, 2):
        assert not set(texts[first]) & set(texts[second]), (first, second)


def test_a_surface_has_one_type_unless_it_is_a_known_namesake() -> None:
    """Labels are coherent: across all splits only a title that is also a character's name has two types."""
    types: dict[str, set[str]] = {}
    for split in SPLITS["film"]:
        for sentence in read_demo("film", split).sentences:
            for entity in sentence.entities:
                types.setdefault(" ".join(sentence.tokens[entity.start : entity.end]), set()).add(entity.type)
    assert {surface: found for surface, found in types.items() if len(found) > 1} == {
        "Amélie": {"film", "character"}
    }


def test_unknown_corpora_and_splits_are_refused() -> None:
    with pytest.raises(UsageError, match="Did you mean 'film'"):
        read_demo("filn", "train")
    with pytest.raises(UsageError, match="No split of newsdesk named 'test'"):
        read_demo("newsdesk", "test")
