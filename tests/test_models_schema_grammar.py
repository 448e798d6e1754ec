"""JSON by schema token by token: what is finished validates (jsonschema is the oracle), and nothing else is allowed."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from tiny_shelf import fetched_folder

from cdner.config import BackboneChoice
from cdner.errors import ModelError
from cdner.models import open_backbone
from cdner.models.schema_grammar import SchemaGrammar
from cdner.models.vocabulary import special_strings
from cdner.types import Segment

STRING = {"type": "string", "maxLength": 12}


def an_object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


MENTIONS = {"type": "array", "items": STRING, "maxItems": 3}
# The kinds that cdner.reasoning.requests asks for: reasoning, description, reasoning with entities.
SCHEMAS = [
    an_object(initial=STRING, bidirectional=STRING),
    an_object(description=STRING),
    an_object(reasoning=STRING, entities=an_object(person=MENTIONS, place=MENTIONS)),
]


@pytest.fixture(scope="module")
def causal(tiny_llama: Path) -> Any:
    return open_backbone(
        BackboneChoice(family="causal", model=str(tiny_llama), dtype="float32"), device="cpu"
    )


def random_answer(grammar: SchemaGrammar, schema: str, end: int, rng: random.Random) -> list[int]:
    """Ids chosen at random among the allowed ones, up to the end token."""
    constraint, ids = grammar.constraint(schema), []
    while not ids or ids[-1] != end:
        ids.append(rng.choice(constraint.allowed().tolist()))
        if ids[-1] != end:
            constraint.advance(ids[-1])
    return ids


def check_random_answers(tokenizer: Any, *, n: int) -> None:
    end = tokenizer.eos_token_id
    grammar = SchemaGrammar(tokenizer, [end])
    for schema in SCHEMAS:
        for seed in range(n):
            ids = random_answer(grammar, json.dumps(schema), end, random.Random(seed))
            text = tokenizer.decode(ids[:-1], clean_up_tokenization_spaces=False)
            answer = json.loads(text)
            jsonschema.validate(answer, schema)
            assert list(answer) == schema["required"], "in the schema's order"
            assert len(text) <= len(json.dumps(answer, separators=(",", ":"))), "no whitespace between parts"


def test_random_answers_with_the_tiny_models_tokenizer_validate(causal: Any) -> None:
    check_random_answers(causal.tokenizer, n=20)


@pytest.mark.slow
def test_random_answers_with_the_embedded_models_tokenizer_validate() -> None:
    from transformers import AutoTokenizer

    folder = fetched_folder("embedded")
    assert folder is not None, "the embedded model is not on this machine: scripts/test fetches it"
    check_random_answers(AutoTokenizer.from_pretrained(folder), n=20)


def test_what_a_model_finishes_validates_and_what_is_cut_off_is_length(causal: Any) -> None:
    sources = [(Segment(text),) for text in ("Mira Olsen left.", "no", "The Harbour Club .", "x")]
    for schema in SCHEMAS:
        constraints = [causal.schema_constraint(json.dumps(schema)) for _ in sources]
        found = dict(causal.generate(sources, max_new_tokens=160, batch_size=3, constraints=constraints))
        assert {generation.finish_reason for generation in found.values()} == {"stop"}
        for generation in found.values():
            jsonschema.validate(json.loads(generation.text), schema)
    ((_, cut),) = causal.generate(
        sources[:1],
        max_new_tokens=9,
        batch_size=1,
        constraints=[causal.schema_constraint(json.dumps(schema))],
    )
    assert (cut.finish_reason, cut.n_output_tokens) == ("length", 9)
    assert cut.text.startswith('{"')


def test_an_answer_follows_the_models_wish_where_the_schema_leaves_a_choice(causal: Any) -> None:
    """Twin: at every step the most probable of the tokens that lead to a valid text, found by trying them all."""
    import torch

    schema = {"enum": ["person", "place", "club"]}
    source = (Segment("Mira Olsen left."),)
    ((_, found),) = causal.generate(
        [source], max_new_tokens=40, batch_size=1, constraints=[causal.schema_constraint(json.dumps(schema))]
    )
    wanted = [json.dumps(word) for word in schema["enum"]]
    pieces, written = causal.vocabulary.pieces, b""
    ids = [*causal.vocabulary.encode("Mira Olsen left."), *causal.vocabulary.encode("\n")]
    while written.decode() not in wanted:
        with torch.inference_mode():
            logits = causal.model(torch.tensor([ids])).logits[0, -1]
        possible = [
            index
            for index, piece in enumerate(pieces)
            if piece and any(text.encode().startswith(written + piece) for text in wanted)
        ]
        best = max(possible, key=lambda index: float(logits[index]))
        ids.append(best)
        written += pieces[best]
    assert found.text == written.decode()


def test_special_tokens_are_in_no_text_and_every_end_token_ends_it(causal: Any) -> None:
    tokenizer = causal.tokenizer
    specials = {tokenizer.convert_tokens_to_ids(text) for text in special_strings(tokenizer)}
    ends = sorted(specials)[:2]
    constraint = SchemaGrammar(tokenizer, ends).constraint(json.dumps({"type": "string"}))
    constraint.advance(tokenizer.convert_tokens_to_ids('"'))
    inside = constraint.allowed()
    assert len(inside) > 100 and specials.isdisjoint(inside.tolist())
    constraint.advance(tokenizer.convert_tokens_to_ids('"'))
    np.testing.assert_array_equal(constraint.allowed(), ends)


def test_outputs_of_one_schema_do_not_share_their_state(causal: Any) -> None:
    schema = json.dumps(SCHEMAS[1])
    first, second = causal.schema_constraint(schema), causal.schema_constraint(schema)
    start = first.allowed()
    first.advance(int(start[0]))
    np.testing.assert_array_equal(second.allowed(), start)
    with pytest.raises(ValueError, match="was not allowed"):
        second.advance(causal.tokenizer.convert_tokens_to_ids("x"))


@pytest.mark.parametrize("schema", ['{"type": "thing"}', "{", '{"type": "string", "format": "no-such"}'])
def test_a_schema_that_cannot_be_followed_is_an_error(causal: Any, schema: str) -> None:
    with pytest.raises(ModelError, match="JSON schema"):
        causal.schema_constraint(schema)
