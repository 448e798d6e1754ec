"""What a model's dimensions say: its parameters, the work (FLOPs) of reading and writing, the memory of training.

Numbers only, computed without torch. A FLOP is an addition or a multiplication of a matrix product; norms, activations
and the softmax are left out. Padding and what several sentences share are not taken into account: every sentence
counts as if it were computed alone. Tests compare the parameters and FLOPs with those of real models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

BACKWARD = 2  # times the forward pass
# Bytes of a parameter in training (cdner.models.training_state): bf16 weight, fp32 master, two moments, fp32 gradient.
TRAINED_BYTES = 2 + 4 + 8 + 4


class Shape(Protocol):
    n_parameters: int

    def flops(self, n_source: float, n_target: float) -> float:
        """FLOPs of one forward pass that reads ``n_source`` tokens and predicts ``n_target``."""
        ...


@dataclass(frozen=True, slots=True)
class T5Shape:
    """A T5 with a gated feed-forward layer and a separate output layer, like Flan-T5."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int  # of the encoder, and as many of the decoder
    num_heads: int

    def config(self) -> dict[str, int]:
        """The keyword arguments of T5Config."""
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def inner(self) -> int:
        return self.d_kv * self.num_heads

    @property
    def n_parameters(self) -> int:
        d = self.d_model
        attention, feed_forward = 4 * d * self.inner, 3 * d * self.d_ff
        encoder = attention + feed_forward + 2 * d
        decoder = 2 * attention + feed_forward + 3 * d
        buckets = 2 * 32 * self.num_heads
        return self.num_layers * (encoder + decoder) + 2 * self.vocab_size * d + 2 * d + buckets

    def flops(self, n_source: float, n_target: float) -> float:
        d, inner, feed_forward = self.d_model, self.inner, 3 * self.d_model * self.d_ff
        encoder = n_source * (4 * d * inner + feed_forward) + 2 * n_source**2 * inner
        decoder = n_target * (4 * d * inner + feed_forward) + 2 * n_target**2 * inner
        across = 2 * (n_target + n_source) * d * inner + 2 * n_target * n_source * inner
        return 2 * (self.num_layers * (encoder + decoder + across) + n_target * d * self.vocab_size)

    def activation_bytes(self, n_rows: int, n_source: int, n_target: int, *, fused: bool = False) -> int:
        """Bytes that a bf16 forward pass keeps for the backward pass; rows of equal length, with dropout.

        Without ``fused`` attention is written out as torch does it on every device, and its scores are kept in
        float32; a fused kernel of a GPU keeps its inputs and the bias.
        """
        d, inner = self.d_model, self.inner
        norm, dropout = 4 * d + 2 * d + 4, 2 * d + d
        feed_forward = norm + dropout + 2 * 5 * self.d_ff + self.d_ff
        attention = norm + dropout + (2 + (2 * 4 if fused else 4 * 5)) * inner
        source, target = n_rows * n_source, n_rows * n_target
        # For every pair of tokens: the bias, or the values before the softmax, after it, and after dropout.
        scores = (2 if fused else 4 + 4 + 4) * n_rows * self.num_heads
        layer = source * (attention + feed_forward) + scores * n_source**2
        layer += target * (2 * attention + feed_forward) + scores * n_target * (n_target + n_source)
        layer += source * (2 if fused else 4) * 2 * inner  # keys and values across
        return self.num_layers * layer + target * self.vocab_size * 4

    def training_bytes(self, n_rows: int, n_source: int, n_target: int, *, fused: bool = False) -> int:
        """Bytes at the peak, when the logits are held in bf16 and in float32."""
        scores = n_rows * n_target * self.vocab_size * (2 + 4)
        kept = self.activation_bytes(n_rows, n_source, n_target, fused=fused)
        return self.n_parameters * TRAINED_BYTES + kept + scores

    def prediction_bytes(self, n_rows: int, n_source: int, n_target: int) -> int:
        """Bytes of bf16 weights, keys and values of input and output, and logits."""
        caches = 4 * self.num_layers * self.inner * n_rows * (n_source + n_target)
        return 2 * self.n_parameters + caches + n_rows * self.vocab_size * (2 + 4)


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """A decoder of the Llama kind whose output layer is its embedding."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int

    def config(self) -> dict[str, int]:
        """The keyword arguments of LlamaConfig."""
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def _layer(self) -> int:
        d, size = self.hidden_size, self.head_dim
        attention = 2 * d * size * (self.num_attention_heads + self.num_key_value_heads)
        return attention + 3 * d * self.intermediate_size

    @property
    def n_parameters(self) -> int:
        d = self.hidden_size
        return self.num_hidden_layers * (self._layer + 2 * d) + self.vocab_size * d + d

    def flops(self, n_source: float, n_target: float) -> float:
        n = n_source + n_target
        scores = 2 * n**2 * self.head_dim * self.num_attention_heads
        layers = self.num_hidden_layers * (n * self._layer + scores)
        return 2 * (layers + n_target * self.hidden_size * self.vocab_size)


FLAN_T5: Mapping[str, T5Shape] = {  # by the configs of google/flan-t5-base and google/flan-t5-large
    "base": T5Shape(32128, d_model=768, d_kv=64, d_ff=2048, num_layers=12, num_heads=12),
    "large": T5Shape(32128, d_model=1024, d_kv=64, d_ff=2816, num_layers=24, num_heads=16),
}
# As SmolLM2-360M.
CAUSAL = LlamaShape(49152, 960, 2560, 32, num_attention_heads=15, num_key_value_heads=5, head_dim=64)
SMALL_T5 = T5Shape(1024, d_model=48, d_kv=16, d_ff=96, num_layers=2, num_heads=3)
SMALL_CAUSAL = LlamaShape(1024, 48, 96, 2, num_attention_heads=6, num_key_value_heads=2, head_dim=8)


def shape_of(config: Any) -> Shape | None:
    """The shape of a transformers config; None for other architectures."""
    if config.model_type == "t5" and "gated" in config.feed_forward_proj:
        return T5Shape(**{name: getattr(config, name) for name in T5Shape.__slots__})
    if config.model_type in {"llama", "qwen2"}:
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        names = [name for name in LlamaShape.__slots__ if name != "head_dim"]
        return LlamaShape(**{name: getattr(config, name) for name in names}, head_dim=size)
    return None
