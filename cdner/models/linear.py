"""Linear layers in oneDNN's own memory layout while a model predicts on a CPU.

A decoding step multiplies a few rows with all weights, and the usual layout is slow for that. With the weights in
oneDNN's layout, which is made once per ``generate``, products of 4 to 16 rows are 1.4 to 2.3 times as fast in float32
and bf16. It needs a second copy of the weights meanwhile.

oneDNN compiles and keeps a program for each number of rows; ``cdner.models`` limits how many it keeps.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor

MIN_ROWS = 4  # fewer rows gain little in float32; a single short answer is slower with the new layout


class LaidOut:
    """A context that can be entered repeatedly; the weights must not change as long as the object is used.

    Outside the context the model is unchanged. It does nothing on other devices, for fewer than ``MIN_ROWS`` rows, and
    if torch was built without oneDNN.
    """

    def __init__(self, model: Any, *, n_rows: int) -> None:
        self._layers: list[tuple[torch.nn.Linear, _Linear]] = []
        if n_rows < MIN_ROWS or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return
        for module in model.modules():
            if type(module) is torch.nn.Linear and module.weight.device.type == "cpu":
                self._layers.append((module, _Linear(module)))

    def __enter__(self) -> None:
        for module, linear in self._layers:
            module.forward = linear  # type: ignore[method-assign, assignment]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for module, _ in self._layers:
            module.__dict__.pop("forward", None)


class _Linear:
    """x W' + b; like ``torch.nn.functional.linear``, with sums in another order."""

    def __init__(self, module: torch.nn.Linear) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach())
        self._bias = None if module.bias is None else module.bias.detach()

    def __call__(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return product
