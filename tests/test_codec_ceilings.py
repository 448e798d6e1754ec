"""The F1 that a perfect output gets: what the text format and each vocabulary lose on real corpora.

The format itself loses what two equal texts of different spans lose (data.md has the table); the codec may not
lose more, through vocabularies without braces, without backslash and without some letters.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from codec_vocabularies import (
    byte_level_vocabulary,
    declared_types,
    genuine_t5_vocabulary,
    read_sentences,
    unigram_vocabulary,
)

from cdner.codec import PLAIN_WIRE, decode, encode_entities, wire_for
from cdner.types import Prediction, Sentence, Vocabulary

DOMAINS = ("politics", "science", "music", "literature", "ai", "conll2003")


def strict_f1(gold: list[Sentence], predictions: list[Prediction]) -> float:
    """Span and type both right, in per cent, with plain loops."""
    n_right = n_gold = n_predicted = 0
    for sentence, prediction in zip(gold, predictions, strict=True):
        for entity in prediction.entities:
            n_right += entity in sentence.entities
        n_gold += len(sentence.entities)
        n_predicted += len(prediction.entities)
    return 200 * n_right / (n_gold + n_predicted)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("name", ["t5", "unigram", "bytes"])
def test_a_perfect_output_through_a_tokenizer_scores_at_least_99_9(
    name: str, domain: str, shared_data: Path
) -> None:
    vocabulary = _vocabulary(name, shared_data)
    wire = wire_for(vocabulary)
    found = read_sentences(shared_data / "crossner" / domain / "test.txt")
    types = declared_types(found)
    targets = [wire.to_wire(encode_entities(sentence, types)) for sentence in found]
    generated = [vocabulary.decode(vocabulary.encode(target)) for target in targets]
    predictions = [
        decode(text, sentence=sentence, types=types, wire=wire)
        for text, sentence in zip(generated, found, strict=True)
    ]
    assert strict_f1(found, predictions) >= 99.9
    assert [prediction.generated for prediction in predictions if prediction.malformed] == []


@pytest.mark.parametrize("split", ["train", "dev", "test"])
@pytest.mark.parametrize("domain", DOMAINS[:-1])
def test_the_format_itself_loses_almost_nothing_on_any_split(
    domain: str, split: str, shared_data: Path
) -> None:
    found = read_sentences(shared_data / "crossner" / domain / f"{split}.txt")
    types = declared_types(found)
    predictions = [
        decode(encode_entities(sentence, types), sentence=sentence, types=types, wire=PLAIN_WIRE)
        for sentence in found
    ]
    assert strict_f1(found, predictions) >= 99.6  # music dev: an album and its singer share a name


def _vocabulary(name: str, shared_data: Path) -> Vocabulary:
    if name == "t5":
        return genuine_t5_vocabulary(shared_data)
    return unigram_vocabulary() if name == "unigram" else byte_level_vocabulary()
