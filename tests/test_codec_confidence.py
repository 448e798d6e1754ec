"""The probabilities of types, from a whole prediction with tiny models, against a plain forward pass for each text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from cdner.augment import model_input
from cdner.codec import TypeScores, wire_for
from cdner.codec.confidence import Counts
from cdner.codec.wire import PLAIN_WIRE
from cdner.config import BackboneChoice, Prediction
from cdner.models import open_backbone
from cdner.steps.text_or_tags import way_of
from cdner.types import Entity, Generation, ModelInput, Sentence

TYPES = ("person", "personage", "per", "place", "club")  # names that begin alike
SENTENCES = (
    Sentence(("Mira", "Olsen", "left", "Mira", "Olsen", "and", "Port", "Vanter")),
    Sentence(("no", "entity")),
    Sentence(("The", '"Lantern"', "Łódź", "<b>", "Society")),
    Sentence(("x",)),
)
# What the models are made to write; repeated mentions, one inside another type's name, quotes, letters T5 lacks.
WRITTEN: tuple[tuple[Entity, ...], ...] = (
    (Entity(0, 2, "person"), Entity(3, 5, "person"), Entity(6, 8, "place")),
    (),
    (Entity(1, 2, "club"), Entity(2, 3, "place"), Entity(3, 5, "per")),
    (Entity(0, 1, "personage"),),
)


@pytest.fixture(scope="module", params=["causal", "seq2seq"])
def backbone(request: pytest.FixtureRequest) -> Any:
    folder: Path = request.getfixturevalue({"causal": "tiny_llama", "seq2seq": "tiny_t5"}[request.param])
    choice = {"family": request.param, "model": str(folder), "dtype": "float32"}
    return open_backbone(BackboneChoice.model_validate(choice))


def judged(backbone: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[int, Any], str]:
    """Predictions of outputs that say ``WRITTEN``, and what is told of them."""
    from cdner.codec import encode_entities

    wire = wire_for(backbone.vocabulary)

    def generate(inputs: Sequence[ModelInput], **_: object) -> Iterator[tuple[int, Generation]]:
        for index in reversed(range(len(inputs))):
            whole = Sentence(SENTENCES[index].tokens, WRITTEN[index])
            ids = backbone.vocabulary.encode(wire.to_wire(encode_entities(whole, TYPES)))
            yield index, Generation(backbone.vocabulary.decode(ids), 1, 0, 1, "stop")

    monkeypatch.setattr(backbone, "generate", generate)
    monkeypatch.setattr("cdner.steps.text_or_tags._JUDGED_TOGETHER", 2)
    way = way_of(backbone, TYPES, settings=Prediction(confidence=True), batch_size=2)
    found = {index: prediction for index, prediction, _ in way.predict(SENTENCES, [None] * len(SENTENCES))}
    return found, way.told


def plain(backbone: Any, index: int, text: str, n_characters: int) -> float:
    """Log-probability of the tokens that end within the first characters: one plain forward pass."""
    wire = wire_for(backbone.vocabulary)
    source = model_input(TYPES, SENTENCES[index], chain=None, wire=wire)
    given = backbone.vocabulary.encode("".join(segment.text for segment in source))
    encoded = backbone.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = [
        token
        for token, (_, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        if end <= n_characters
    ]
    with torch.inference_mode():
        if backbone.choice.family == "causal":
            given += backbone.vocabulary.encode("\n")
            logits = backbone.model(input_ids=torch.tensor([given + ids])).logits[0, len(given) - 1 : -1]
        else:
            shifted = [backbone.model.config.decoder_start_token_id, *ids[:-1]]
            source_ids = torch.tensor([[*given, backbone.vocabulary.end_id]])
            logits = backbone.model(input_ids=source_ids, decoder_input_ids=torch.tensor([shifted])).logits[0]
    log_probs = logits.double().log_softmax(-1)
    return sum(float(log_probs[place, token]) for place, token in enumerate(ids))


def plain_distribution(backbone: Any, index: int, entity: Entity, mass: float) -> dict[str, float]:
    """By the words of the module's docstring."""
    braces = wire_for(backbone.vocabulary).braces
    left, right = ("{", "}") if braces else ("", "")
    mention = " ".join(SENTENCES[index].tokens[entity.start : entity.end])
    mention = mention.replace('"', '\\"' if braces else "'")
    names, whole = {}, {}
    for name in TYPES:
        text = f'{left}"{name}": ["{mention}"]{right}'
        names[name] = plain(backbone, index, f'{left}"{name}": [', len(f'{left}"{name}'))
        whole[name] = plain(backbone, index, text, len(f'{left}"{name}": ["{mention}'))
    total = sum(math.exp(score) for score in names.values())
    kept, held = {entity.type}, 0.0
    for name in sorted(TYPES, key=lambda name: -names[name]):
        if held >= mass:
            break
        kept.add(name)
        held += math.exp(names[name]) / total
    mean = sum(whole[name] - names[name] for name in kept) / len(kept)
    scores = {name: whole[name] if name in kept else names[name] + mean for name in TYPES}
    weights = {name: math.exp(score) for name, score in scores.items()}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


@pytest.mark.parametrize("mass", [0.5, 0.98, 1.1])
def test_probabilities_are_those_of_plain_forward_passes(backbone, monkeypatch, mass) -> None:
    monkeypatch.setattr("cdner.codec.confidence.KEPT_MASS", mass)
    found, told = judged(backbone, monkeypatch)
    assert sorted(found) == list(range(len(SENTENCES)))
    n_mentions = 0
    for index, prediction in found.items():
        assert prediction.entities == WRITTEN[index]
        assert len(prediction.type_probabilities) == len(prediction.entities)
        for entity, said in zip(prediction.entities, prediction.type_probabilities, strict=True):
            expected = plain_distribution(backbone, index, entity, mass)
            assert list(said) == list(TYPES)
            assert sum(said.values()) == pytest.approx(1)
            assert said == pytest.approx(expected, rel=2e-3, abs=1e-6)
            n_mentions += 1
    assert told.startswith(f"how sure of {n_mentions} mentions: ")
    n_all = n_mentions * len(TYPES)
    assert (f"{n_all} of {n_all} types" in told) == (mass > 1)


def test_without_confidence_nothing_is_said(backbone, monkeypatch) -> None:
    monkeypatch.setattr(backbone, "log_probs", None)
    way = way_of(backbone, TYPES, settings=Prediction(max_new_tokens=4), batch_size=2)
    found = list(way.predict(SENTENCES, [None] * len(SENTENCES)))
    assert all(prediction.type_probabilities == () for _, prediction, _ in found)
    assert way.told == ""


def test_only_types_that_the_names_leave_are_scored_and_the_predicted_one() -> None:
    scores = TypeScores(
        Sentence(("a", "b")), (Entity(0, 1, "club"), Entity(1, 2, "person")), types=TYPES, wire=PLAIN_WIRE
    )
    assert scores.first()[0] == ('{"person": [', len('{"person'))
    names = [math.log(p) for p in (0.6, 0.39, 0.004, 0.004, 0.002)]
    asked = scores.second(names)
    assert [text[:n] for text, n in asked] == [
        *('{"person": ["a', '{"personage": ["a', '{"club": ["a'),
        *('{"person": ["b', '{"personage": ["b'),
    ]
    counts = Counts()
    scores.count(counts)
    assert (counts.n_mentions, counts.n_types, counts.n_scored) == (2, 10, 5)
    first, second = scores.distributions([-1.0, -2.0, -8.0, -1000.0, -1002.0])
    conditional = [-1.0 - names[0], -2.0 - names[1], -8.0 - names[4]]
    estimated = names[2] + sum(conditional) / 3
    assert first["per"] / first["person"] == pytest.approx(math.exp(estimated + 1.0))
    assert second["personage"] / second["person"] == pytest.approx(math.exp(-2))
    assert sum(second.values()) == pytest.approx(1)


def test_a_type_of_no_probability_at_all_is_no_obstacle() -> None:
    scores = TypeScores(Sentence(("a",)), (Entity(0, 1, "club"),), types=TYPES, wire=PLAIN_WIRE)
    asked = scores.second([-2000.0, 0.0, -2000.0, -2000.0, -2000.0])
    (said,) = scores.distributions([-5.0, -3000.0][: len(asked)])
    assert said["personage"] == pytest.approx(1)
    assert sum(said.values()) == pytest.approx(1)
