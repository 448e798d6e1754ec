"""R_H, prefixes and u_hie (eq. 2-4) against plain loops and against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from random_corpora import domain, paired_corpora

from cdner.confusion.hierarchy import hierarchy_ratio, prefixes, u_hie
from cdner.errors import InputError
from cdner.types import Corpus, Entity, Prediction, Sentence

SOURCE = domain("coarse", ("person", "place", "misc"), "source", ("PER", "LOC", "MISC"))
TARGET = domain("random", ("poet", "city", "river"))


def _sentence(n_tokens: int, *entities: Entity) -> Sentence:
    return Sentence(tuple(f"t{i}" for i in range(n_tokens)), entities)


def _hand_made() -> tuple[Corpus, tuple[Prediction, ...]]:
    """poet: 4 gold, 2 seen as person, 1 as place, 1 unseen. city: 2 gold, 1 as place, 1 cut short."""
    corpus = Corpus(
        "random",
        "train",
        (
            _sentence(4, Entity(0, 1, "poet"), Entity(1, 3, "poet"), Entity(3, 4, "city")),
            _sentence(5, Entity(0, 1, "poet"), Entity(1, 2, "poet"), Entity(2, 5, "city")),
        ),
    )
    predictions = (
        Prediction("", (Entity(0, 1, "person"), Entity(1, 3, "person"), Entity(3, 4, "place"))),
        Prediction("", (Entity(0, 1, "place"), Entity(2, 4, "place"))),
    )
    return corpus, predictions


def test_ratio_divides_by_all_gold_entities_of_the_type() -> None:
    found = hierarchy_ratio(*_hand_made(), TARGET, SOURCE)
    assert found.ratio.tolist() == [[0.5, 0.25, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.0]]
    assert found.n_gold.tolist() == [4, 2, 0]
    assert found.counts.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_a_wrong_boundary_is_unrecognised() -> None:
    assert hierarchy_ratio(*_hand_made(), TARGET, SOURCE).unrecognised.tolist() == [0.25, 0.5, 0.0]


@given(paired_corpora(TARGET.types, SOURCE.types, "train"))
def test_ratio_equals_the_paper_in_plain_loops(pair: tuple[Corpus, tuple[Prediction, ...]]) -> None:
    corpus, predictions = pair
    found = hierarchy_ratio(corpus, predictions, TARGET, SOURCE)
    for i, fine in enumerate(TARGET.types):
        n_fine = sum(entity.type == fine for sentence in corpus.sentences for entity in sentence.entities)
        assert found.n_gold[i] == n_fine
        for j, coarse in enumerate(SOURCE.types):
            n_both = 0
            for sentence, prediction in zip(corpus.sentences, predictions, strict=True):
                for gold in sentence.entities:
                    for predicted in prediction.entities:
                        same_span = gold.start == predicted.start and gold.end == predicted.end
                        n_both += same_span and gold.type == fine and predicted.type == coarse
            assert found.ratio[i, j] == (n_both / n_fine if n_fine else 0.0)
        whole = found.ratio[i].sum() + found.unrecognised[i]
        assert whole == pytest.approx(1.0 if n_fine else 0.0)


def test_prefix_is_the_most_frequent_source_type() -> None:
    found = prefixes(np.array([[0.1, 0.7, 0.2]]), SOURCE)
    assert [(p.index, p.name, p.short, p.unrecognised) for p in found] == [(1, "place", "LOC", False)]


def test_prefix_ties_go_to_the_earlier_source_type() -> None:
    assert [p.name for p in prefixes(np.array([[0.0, 0.4, 0.4], [0.3, 0.3, 0.3]]), SOURCE)] == [
        "place",
        "person",
    ]


def test_an_unrecognised_type_gets_misc_and_a_flag() -> None:
    (found,) = prefixes(np.zeros((1, 3)), SOURCE)
    assert (found.short, found.unrecognised) == ("MISC", True)


def test_an_unrecognised_type_gets_misc_wherever_it_stands() -> None:
    source = domain("coarse", ("misc", "person"), "source")
    assert prefixes(np.zeros((1, 2)), source)[0].name == "misc"


def test_without_misc_an_unrecognised_type_gets_the_last_source_type() -> None:
    source = domain("coarse", ("person", "place"), "source")
    assert prefixes(np.zeros((1, 2)), source)[0].name == "place"


def test_u_hie_reads_the_row_of_i_at_the_prefix_of_j() -> None:
    ratio = np.array([[0.6, 0.2, 0.0], [0.5, 0.1, 0.3], [0.1, 0.8, 0.0]])
    found = u_hie(ratio, prefixes(ratio, SOURCE), types=TARGET.types, delta=2.0)
    # prefixes: person, person, place
    assert found.scores.tolist() == [[0.0, 1.2, 0.4], [1.0, 0.0, 0.2], [0.2, 0.2, 0.0]]


@given(paired_corpora(TARGET.types, SOURCE.types, "train"))
def test_dimension_equals_the_paper_in_plain_loops(pair: tuple[Corpus, tuple[Prediction, ...]]) -> None:
    corpus, predictions = pair
    ratio = hierarchy_ratio(corpus, predictions, TARGET, SOURCE).ratio
    found = u_hie(ratio, prefixes(ratio, SOURCE), types=TARGET.types, delta=0.5)
    for i in range(3):
        for j in range(3):
            best = 0
            for s in range(3):
                if ratio[j, s] > ratio[j, best]:
                    best = s
            if max(ratio[j]) == 0:
                best = 2  # misc
            assert found.scores[i, j] == (0.5 * ratio[i, best] if i != j else 0.0)
    assert found.dimension == "u_hie"


def test_a_test_split_is_refused() -> None:
    corpus, predictions = _hand_made()
    with pytest.raises(InputError, match="test split"):
        hierarchy_ratio(Corpus("random", "test", corpus.sentences), predictions, TARGET, SOURCE)


def test_a_type_outside_the_label_sets_is_named() -> None:
    corpus, predictions = _hand_made()
    with pytest.raises(InputError, match="'poet'"):
        hierarchy_ratio(corpus, predictions, domain("random", ("city", "river")), SOURCE)
    with pytest.raises(InputError, match="'place'"):
        hierarchy_ratio(corpus, predictions, TARGET, domain("coarse", ("person",), "source"))
