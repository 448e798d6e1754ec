"""A GGUF file becomes the same weights, tokenizer and configuration as with transformers, in far less memory."""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import pytest
import torch
from fixtures.tiny_gguf import HIDDEN, write_tiny_gguf
from safetensors.torch import load_file

from cdner.errors import ModelError
from cdner.models import gguf_conversion
from cdner.models.gguf_conversion import convert_gguf


def by_transformers(file: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    return model, AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


@pytest.mark.parametrize("architecture", gguf_conversion.ARCHITECTURES)
@pytest.mark.parametrize(("output", "stored"), [("absent", "tied"), ("equal", "tied"), ("other", "apart")])
def test_weights_and_logits_equal_those_of_transformers(
    architecture: str, output: str, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setattr(gguf_conversion, "AT_ONCE", 10 * HIDDEN)  # blocks of ten rows, the last one shorter
    file = write_tiny_gguf(tmp_path / "model.gguf", architecture, output=output)
    written: list[int] = []
    found = convert_gguf(file, tmp_path / "ours", written.append)
    theirs, their_tokenizer = by_transformers(file)
    weights = load_file(tmp_path / "ours" / "model.safetensors")
    wanted = {
        name: value
        for name, value in theirs.state_dict().items()
        if stored == "apart" or name != "lm_head.weight"
    }
    assert weights.keys() == wanted.keys()
    assert all(torch.equal(weights[name], wanted[name]) for name in weights)
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    assert found.output_matrix == stored and found.n_tensors == len(weights)
    assert sum(written) == sum(2 * value.numel() for value in weights.values())
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.bfloat16)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    assert torch.equal(ours(ids).logits, theirs(ids).logits)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    chat = [{"role": "user", "content": "ab cd"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "<|im_start|>ab cd<|im_end|>"
    assert tokenizer("abcd e").input_ids == their_tokenizer("abcd e").input_ids
    assert ours.config.eos_token_id == ours.generation_config.eos_token_id == tokenizer.eos_token_id


def test_never_more_values_at_once_than_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    dequantize = gguf.dequantize

    def measured(values, kind):
        found = dequantize(values, kind)
        sizes.append(found.size)
        return found

    monkeypatch.setattr(gguf, "dequantize", measured)
    monkeypatch.setattr(gguf_conversion, "AT_ONCE", 5 * HIDDEN)
    file = write_tiny_gguf(tmp_path / "model.gguf", "qwen2", output="equal")
    convert_gguf(file, tmp_path / "ours")
    assert max(sizes) == 5 * HIDDEN


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"left_out": "blk.1.ffn_up.weight"}, "has no tensor 'blk.1.ffn_up.weight'"),
        ({"extra": "rope_freqs.weight"}, "a tensor 'rope_freqs.weight' that has no place"),
    ],
)
def test_a_tensor_too_few_or_too_many_is_an_error(
    settings: dict[str, str], complaint: str, tmp_path: Path
) -> None:
    file = write_tiny_gguf(tmp_path / "model.gguf", "llama", **settings)
    with pytest.raises(ModelError, match=complaint):
        convert_gguf(file, tmp_path / "ours")


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    file = write_tiny_gguf(tmp_path / "model.gguf", "qwen3")
    with pytest.raises(ModelError, match=r"architecture 'qwen3'\. cdner converts llama, qwen2"):
        convert_gguf(file, tmp_path / "ours")


def test_without_the_package_gguf_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match=r"pip install 'cdner\[embedded\]'"):
        convert_gguf(tmp_path / "model.gguf", tmp_path / "ours")
