"""Probabilities of many beginnings by one pass are those of a plain forward pass for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

from cdner.config import BackboneChoice
from cdner.models import open_backbone
from cdner.models.trees import Forest, TokenTree
from cdner.types import Beginning, ModelInput, Segment

PREFIX = "Find all entities of types person, place, club, society, harbour, weekday in"
SENTENCES = (
    " Mira Olsen left Port Vanter for the Harbour Club and Mira Olsen",
    ' The "Lantern" Society met',
    " x",
)
INPUTS: list[ModelInput] = [(Segment(PREFIX), Segment(sentence), Segment(".")) for sentence in SENTENCES]
TYPES = ("person", "persona", "per", "place", "club")


def beginnings_of(texts: tuple[str, ...]) -> list[Beginning]:
    """Types whose names begin alike, mentions that begin alike and that stand twice, whole texts and none."""
    found: list[Beginning] = [("", 0), ('{"person": ["Mira"]}', 0)]
    for mention in texts:
        for name in TYPES:
            text = f'{{"{name}": ["{mention}"]}}'
            found += [(text, len(text) - 3), (text, len(name) + 2), (text, len(text))]
    return found


BEGINNINGS = [
    beginnings_of(("Mira", "Mira Olsen", "Mira Olsen", "Port Vanter")),
    beginnings_of(("'Lantern'", "Łódź", "<|im_end|>", "</s>")),
    [],
]


def opened(family: str, folder: Path) -> Any:
    return open_backbone(
        BackboneChoice.model_validate({"family": family, "model": str(folder), "dtype": "float32"})
    )


def plain_ids(backbone: Any, text: str, n_characters: int) -> list[int]:
    """Tokens that end within the first characters, found by decoding longer and longer beginnings."""
    ids = backbone.vocabulary.encode(text)
    offsets = backbone.tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    assert offsets["input_ids"] == ids
    return [
        token for token, (_, end) in zip(ids, offsets["offset_mapping"], strict=True) if end <= n_characters
    ]


def plain_log_prob(backbone: Any, source: ModelInput, beginning: Beginning) -> float:
    """One plain forward pass."""
    given = backbone.vocabulary.encode("".join(segment.text for segment in source))
    ids = plain_ids(backbone, *beginning)
    if not ids:
        return 0.0
    with torch.inference_mode():
        if backbone.choice.family == "causal":
            given += backbone.vocabulary.encode("\n")
            logits = backbone.model(input_ids=torch.tensor([given + ids])).logits[0, len(given) - 1 : -1]
        else:
            given += [backbone.vocabulary.end_id]
            shifted = [backbone.model.config.decoder_start_token_id, *ids[:-1]]
            logits = backbone.model(
                input_ids=torch.tensor([given]), decoder_input_ids=torch.tensor([shifted])
            ).logits[0]
    log_probs = logits.double().log_softmax(-1)
    return sum(float(log_probs[place, token]) for place, token in enumerate(ids))


@pytest.fixture(scope="module")
def tiny_bart(tiny_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Counts positions, which a T5 does not; with the T5's tokenizer."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("bart")
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5)
    torch.manual_seed(5)
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=48,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        max_position_embeddings=512,
        init_std=0.3,
        decoder_start_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = BartForConditionalGeneration(config)
    model.final_logits_bias.normal_()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["causal", "t5", "bart"])
def backbone(request: pytest.FixtureRequest) -> Any:
    family, fixture = {
        "causal": ("causal", "tiny_llama"),
        "t5": ("seq2seq", "tiny_t5"),
        "bart": ("seq2seq", "tiny_bart"),
    }[request.param]
    return opened(family, request.getfixturevalue(fixture))


@pytest.mark.parametrize("n_inputs", [1, 3])
@pytest.mark.parametrize("most", [512, 60])
def test_every_beginning_is_as_probable_as_by_a_pass_of_its_own(
    backbone: Any, n_inputs: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdner.models.trees._MAX_TOKENS", most)
    first: dict[int, tuple[float, ...]] = {}

    def then(index: int, said: Sequence[float]) -> list[Beginning]:
        first[index] = tuple(said)
        return BEGINNINGS[index]

    short = [texts[:7] for texts in BEGINNINGS[:n_inputs]]
    found = dict(backbone.log_probs(INPUTS[:n_inputs], short, then, max_new_tokens=24))
    for index in range(n_inputs):
        assert first[index] == pytest.approx(found[index][:7], abs=1e-4)
    assert sorted(found) == list(range(n_inputs))
    for index in range(n_inputs):
        safe = [
            one for one in BEGINNINGS[index] if not any(mark in one[0] for mark in ("<|im_end|>", "</s>"))
        ]
        said = dict(zip(BEGINNINGS[index], found[index], strict=True))
        assert len(found[index]) == len(BEGINNINGS[index])
        for one in safe:
            assert said[one] == pytest.approx(plain_log_prob(backbone, INPUTS[index], one), abs=2e-4), one


def test_a_special_token_in_a_mention_is_text_and_its_end_is_found(backbone: Any) -> None:
    mark = backbone.tokenizer.eos_token
    text = f'{{"person": ["a {mark} b"]}}'
    ids, last = backbone._inputs.encode_located(text)
    assert backbone.vocabulary.end_id not in ids
    assert last == sorted(last)
    assert last[-1] == len(text) - 1
    plain, places = backbone._inputs.encode_located('{"person": ["a"]}')
    assert places[: len(plain)] == [end - 1 for _, end in _offsets(backbone, '{"person": ["a"]}')]


def _offsets(backbone: Any, text: str) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = backbone.tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True
    )["offset_mapping"]
    return found


def test_what_paths_share_is_one_node_and_a_model_reads_no_last_token() -> None:
    tree = TokenTree.of([7, 8], [[1, 2], [1, 3, 4], [1, 2], [], [1, 3, 5]])
    assert (tree.ids, tree.parents) == ([7, 8, 1, 3, 2, 4, 5], [-1, 0, 1, 2, 2, 3, 3])
    assert (tree.depths, tree.paths) == ([0, 1, 2, 3, 3, 4, 4], [[2, 4], [2, 3, 5], [2, 4], [], [2, 3, 6]])
    assert (tree.n_inner, tree.ends(), tree.line(3)) == (4, [3], [0, 1, 2, 3])
    forest = Forest.of([tree, TokenTree.of([7], [])], torch.device("cpu"))
    assert forest.ids.tolist() == [[7, 8, 1, 3], [7, 0, 0, 0]]
    assert forest.sees[0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert forest.sees[1].int().tolist() == torch.eye(4).int().tolist()
    assert forest.asked.tolist() == [[False, True, True, True], [False] * 4]
