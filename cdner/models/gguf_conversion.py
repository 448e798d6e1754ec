"""Converts a quantised GGUF file to a folder of bfloat16 safetensors with configuration, tokenizer and chat template.

Works tensor by tensor, and by blocks of rows within a large tensor, so that a file of several gigabytes needs little
memory; transformers' own conversion holds the whole model in memory twice. Both give the same weights.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cdner.errors import ModelError

WEIGHTS = "model.safetensors"
OUTPUT = "output.weight"  # GGUF's name of the output matrix; absent if it is the embedding
EMBEDDING = "token_embd.weight"
AT_ONCE = 1 << 23  # values dequantised at a time: 32 MiB as float32
# For this architecture only, llama.cpp stores the rows of query and key in the order of its rotary embedding:
# https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py (LlamaModel.permute)
_PERMUTED = {"llama": ("attn_q.", "attn_k.")}
ARCHITECTURES = ("llama", "qwen2")  # tests compare each of them with transformers


@dataclass(frozen=True, slots=True)
class Conversion:
    n_tensors: int
    n_bytes: int  # of the safetensors file
    output_matrix: str  # "tied": equal to the embedding, stored once; "apart": stored separately


def convert_gguf(gguf: Path, folder: Path, advance: Callable[[int], None] = lambda _: None) -> Conversion:
    """Write ``folder``. ``advance`` is called with numbers of bytes written.

    Raises ModelError if the package ``gguf`` is not installed, for an architecture that is not in ``ARCHITECTURES``,
    and if a tensor is missing or has no place in the model.
    """
    need_gguf()
    from transformers import AutoTokenizer

    config = _configuration(gguf)
    folder.mkdir(parents=True)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    tensors = _tensors(gguf)
    tied = OUTPUT not in tensors or _equal(tensors[OUTPUT], tensors[EMBEDDING])
    config.tie_word_embeddings = tied
    model = _empty(config)
    places = _places(model, config.model_type, tensors, tied=tied)
    shapes = {place: tuple(int(n) for n in reversed(tensors[name].shape)) for place, name in places.items()}
    blocks = (
        block for name in places.values() for block in _blocks(tensors[name], _n_heads_to_order(config, name))
    )
    n_bytes = _write(folder / WEIGHTS, shapes, blocks, advance)
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    return Conversion(len(places), n_bytes, "tied" if tied else "apart")


def need_gguf() -> None:
    """ModelError if the package ``gguf`` is not installed."""
    try:
        import gguf  # noqa: F401  transformers reports its absence less clearly
    except ImportError as error:
        raise ModelError("Converting a GGUF file needs 'gguf': pip install 'cdner[embedded]'.") from error


def _configuration(gguf: Path) -> Any:
    from transformers import AutoConfig

    known = ", ".join(ARCHITECTURES)
    try:
        config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{gguf.name} cannot be read as a GGUF file of {known}: {reason}") from error
    if config.model_type not in ARCHITECTURES:
        raise ModelError(
            f"{gguf.name} has the architecture '{config.model_type}'. cdner converts {known}: take safetensors."
        )
    config.dtype = "bfloat16"
    return config


def _tensors(gguf: Path) -> dict[str, Any]:
    """Tensors by name; their values stay in the file until they are read."""
    from gguf import GGUFReader

    reader = GGUFReader(gguf)
    reader.fields.clear()  # an array object for every token of the vocabulary: 350 MB at 150,000
    return {tensor.name: tensor for tensor in reader.tensors}


def _empty(config: Any) -> Any:
    """The model without values. Adds its class to the configuration, as ``save_pretrained`` does."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    return model


def _places(model: Any, architecture: str, tensors: dict[str, Any], *, tied: bool) -> dict[str, str]:
    """The model's name of each tensor -> GGUF's name. ModelError unless both have the same tensors."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    kind = next(key for key, value in MODEL_ARCH_NAMES.items() if value == architecture)
    names = get_tensor_name_map(kind, model.config.num_hidden_layers)
    places = {}
    for name in sorted(model.state_dict()):
        stem, _, suffix = name.rpartition(".")
        if tied and name == "lm_head.weight":
            continue
        found = f"{names.get_name(stem)}.{suffix}"
        if found not in tensors:
            raise ModelError(f"The GGUF file has no tensor '{found}', which the model needs as '{name}'.")
        places[name] = found
    if left := sorted(set(tensors) - set(places.values()) - ({OUTPUT} if tied else set())):
        raise ModelError(f"The GGUF file has a tensor '{left[0]}' that has no place in the model.")
    return places


def _n_heads_to_order(config: Any, name: str) -> int:
    """Number of heads whose rows must be put back into order; 0 if they are in order."""
    heads = {"attn_q.": config.num_attention_heads, "attn_k.": config.num_key_value_heads}
    permuted = _PERMUTED.get(config.model_type, ())
    return next((int(heads[part]) for part in permuted if f".{part}" in name), 0)


def _blocks(tensor: Any, n_heads: int) -> Iterator[Any]:
    """The tensor's values as bfloat16, in blocks of whole rows, in order."""
    import torch

    if not n_heads:
        yield from _dequantised(tensor)
        return
    rows = torch.cat([block.reshape(-1, int(tensor.shape[0])) for block in _dequantised(tensor)])
    per_head = rows.shape[0] // n_heads // 2
    yield rows.reshape(n_heads, per_head, 2, -1).transpose(1, 2).reshape(rows.shape).contiguous()


def _dequantised(tensor: Any) -> Iterator[Any]:
    import torch
    from gguf import dequantize

    stored = tensor.data
    n_rows = max(1, AT_ONCE // int(tensor.shape[0])) if stored.ndim > 1 else len(stored)
    for start in range(0, len(stored), n_rows):
        values = dequantize(stored[start : start + n_rows], tensor.tensor_type)
        yield torch.from_numpy(np.array(values, dtype=np.float32)).to(torch.bfloat16)


def _equal(one: Any, other: Any) -> bool:
    """Whether two tensors have the same bfloat16 values."""
    if tuple(one.shape) != tuple(other.shape):
        return False
    pairs = zip(_dequantised(one), _dequantised(other), strict=True)
    return all(bool((a == b).all()) for a, b in pairs)


def _write(
    file: Path, shapes: dict[str, tuple[int, ...]], blocks: Iterator[Any], advance: Callable[[int], None]
) -> int:
    """Write a safetensors file: length of the header (8 bytes), header (JSON, padded to 8 bytes), values in order.

    https://huggingface.co/docs/safetensors/index#format
    """
    import torch

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    n_written = 0
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for block in blocks:
            values = block.contiguous().view(torch.int16).numpy()
            out.write(values.data)
            n_written += values.nbytes
            advance(values.nbytes)
    if n_written != end:
        raise ModelError(
            f"The GGUF file's tensors have {n_written} bytes as bfloat16; their shapes say {end}."
        )
    return len(text) + 8 + end
