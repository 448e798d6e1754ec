"""A model of Flan-T5-base's shape (248 M parameters) with random weights, for machines without the hub.

Its tokenizer is trained on the corpus it will read and lacks braces and newline, as T5's does; in-domain pieces make
up for the smaller vocabulary, so that inputs and targets have about as many tokens as with the genuine one (CrossNER
ai, train: 90 and 52 with the genuine one on average). The output layer has T5's width of 32,128 all the same: it is
the costliest. Knows nothing of what is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from cdner.models.loading import quiet

_BASE = {"vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12}
_SMALL = {"vocab_size": 8192, "d_model": 48, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 3}
_PAD, _END, _UNKNOWN = "<pad>", "</s>", "<unk>"
_ABSENT = set("{}<>~^\\=")
_ALPHABET = [chr(code) for code in range(33, 127) if chr(code) not in _ABSENT]


def write_t5_base(folder: Path, texts: Iterable[str], *, n_layers: int = 12) -> Path:
    """Write the float32 model and a tokenizer for ``texts`` to ``folder``; no dropout: its chance is not shared."""
    return _write(folder, texts, {**_BASE, "num_layers": n_layers})


def write_small_t5(folder: Path, texts: Iterable[str]) -> Path:
    """The same in 0.8 M parameters, for what costs time around a model."""
    return _write(folder, texts, _SMALL)


def _write(folder: Path, texts: Iterable[str], shape: Mapping[str, int]) -> Path:
    return write_random_t5(folder, shape, _tokenizer(texts))


def write_random_t5(
    folder: Path, shape: Mapping[str, int], tokenizer: PreTrainedTokenizerFast, *, dropout: float = 0.0
) -> Path:
    """A T5 of these dimensions; ``shape`` holds arguments of T5Config."""
    config = T5Config(
        **shape,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        dropout_rate=dropout,
        decoder_start_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():  # as initialised, its first losses are in the hundreds
        model.lm_head.weight.mul_(config.d_model**-0.5)
    with quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Replace("\n", " ")
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=8000,
        special_tokens=[_PAD, _END, _UNKNOWN],
        unk_token=_UNKNOWN,
        initial_alphabet=_ALPHABET,
        show_progress=False,
    )
    without = str.maketrans(dict.fromkeys(_ABSENT, " "))
    backend.train_from_iterator((text.translate(without) for text in texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token=_UNKNOWN, eos_token=_END, pad_token=_PAD
    )
