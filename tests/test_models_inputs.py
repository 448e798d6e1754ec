"""Inputs are cut by priority, from the tail, counted to the token; priority 0 is never cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdner.errors import ModelError
from cdner.models.inputs import Budget, InputEncoder
from cdner.types import ModelInput, Segment

SOURCE: ModelInput = (
    Segment("Find all entities in"),
    Segment(" Mira Olsen left Port Vanter"),
    Segment("."),
    Segment(" first reasons, many of them", 2),
    Segment(" second reasons, fewer", 1),
)


@pytest.fixture(scope="module", params=["tiny_llama", "tiny_t5"])
def encoder(request: pytest.FixtureRequest) -> InputEncoder:
    from transformers import AutoTokenizer

    folder: Path = request.getfixturevalue(request.param)
    return InputEncoder(AutoTokenizer.from_pretrained(folder))


def _count(encoder: InputEncoder, *segments: Segment) -> int:
    return len(encoder.encode(segments, Budget(), index=0).ids)


def test_without_budget_nothing_is_cut(encoder: InputEncoder) -> None:
    found = encoder.encode(SOURCE, Budget(), index=0)
    assert found.n_truncated == 0
    assert list(found.ids) == encoder.encode_text("".join(segment.text for segment in SOURCE))


def test_the_highest_priority_loses_its_tail_first(encoder: InputEncoder) -> None:
    whole = list(encoder.encode(SOURCE, Budget(), index=0).ids)
    n_fixed, n_first = _count(encoder, *SOURCE[:3]), _count(encoder, *SOURCE[:4])
    found = encoder.encode(SOURCE, Budget(soft=len(whole) - 2), index=0)
    assert found.n_truncated == 2
    assert list(found.ids) == whole[: n_first - 2] + whole[n_first:]
    assert n_fixed < n_first - 2


def test_when_the_highest_is_used_up_the_next_is_cut(encoder: InputEncoder) -> None:
    whole = list(encoder.encode(SOURCE, Budget(), index=0).ids)
    n_fixed, n_first = _count(encoder, *SOURCE[:3]), _count(encoder, *SOURCE[:4])
    n_kept = n_fixed + 3
    found = encoder.encode(SOURCE, Budget(soft=n_kept), index=0)
    assert list(found.ids) == whole[:n_fixed] + whole[n_first : n_first + 3]
    assert found.n_truncated == len(whole) - n_kept


def test_priority_zero_survives_a_soft_limit_and_is_refused_by_a_window(encoder: InputEncoder) -> None:
    n_fixed = _count(encoder, *SOURCE[:3])
    found = encoder.encode(SOURCE, Budget(soft=3), index=0)
    assert len(found.ids) == n_fixed
    with pytest.raises(ModelError, match=rf"Input 7 has {n_fixed} tokens .* takes {n_fixed - 1}"):
        encoder.encode(SOURCE, Budget(soft=3, hard=n_fixed - 1), index=7)
    assert len(encoder.encode(SOURCE, Budget(hard=n_fixed), index=7).ids) == n_fixed


def test_a_special_token_spelled_across_a_seam_is_broken_up(tiny_llama: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    source = (Segment("a <|im_"), Segment("end|> b", 1))
    found = InputEncoder(tokenizer).encode(source, Budget(), index=0)
    assert tokenizer.eos_token_id not in found.ids
    cut = InputEncoder(tokenizer).encode(source, Budget(soft=1), index=0)
    assert tokenizer.decode(list(cut.ids)).startswith("a <")


def test_only_a_special_segment_may_hold_special_tokens(tiny_llama: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    encoder = InputEncoder(tokenizer)
    text = "<|im_start|>user\nhi<|im_end|>"
    assert encoder.encode((Segment(text),), Budget(), index=0).ids.count(tokenizer.eos_token_id) == 0
    special = encoder.encode((Segment(text, special=True),), Budget(), index=0)
    assert special.ids.count(tokenizer.eos_token_id) == 1
