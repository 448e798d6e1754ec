"""Linear layers are laid out for prediction on a CPU, and nothing of it is left behind or out of date."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cdner.config import BackboneChoice
from cdner.models import PROGRAM_CACHES, open_backbone
from cdner.models.linear import MIN_ROWS, LaidOut
from cdner.types import ModelInput, Segment, TrainingExample

SENTENCES = ("Mira Olsen left.", "no", "Tomas Reyl never saw Port Vanter again.", "a b c d", "The club met.")
INPUTS: list[ModelInput] = [(Segment(sentence),) for sentence in SENTENCES]
PRODUCT = "mkldnn::_linear_pointwise"


@pytest.fixture(params=["causal", "seq2seq"])
def backbone(request: pytest.FixtureRequest, tiny_llama: Path, tiny_t5: Path) -> Any:
    folder = {"causal": tiny_llama, "seq2seq": tiny_t5}[request.param]
    choice = {"family": request.param, "model": str(folder), "dtype": "float32"}
    return open_backbone(BackboneChoice.model_validate(choice))


def _texts(backbone: Any, inputs: list[ModelInput], batch_size: int) -> list[str]:
    found = dict(backbone.generate(inputs, max_new_tokens=12, batch_size=batch_size))
    return [found[index].text for index in range(len(inputs))]


def _products(backbone: Any, inputs: list[ModelInput], batch_size: int) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        _texts(backbone, inputs, batch_size)
    return sum(event.count for event in profile.key_averages() if event.key == PRODUCT)


def test_every_linear_layer_of_a_batch_is_laid_out_and_of_few_rows_none(backbone: Any) -> None:
    layers = [module for module in backbone.model.modules() if isinstance(module, torch.nn.Linear)]
    assert _products(backbone, INPUTS, batch_size=5) >= len(layers)
    assert _products(backbone, INPUTS[: MIN_ROWS - 1], batch_size=5) == 0
    assert _products(backbone, INPUTS, batch_size=MIN_ROWS - 1) == 0


_MANY_LENGTHS = """
from cdner.models.linear import LaidOut
import torch

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

layer = torch.nn.Linear(48, 96)
with torch.inference_mode(), LaidOut(torch.nn.Sequential(layer), n_rows=8):
    layer(torch.zeros(1, 48))
    before = resident()
    for n_rows in range(1, 1500):
        layer(torch.zeros(n_rows, 48))
print((resident() - before) >> 20)
"""


def _growth(environment: dict[str, str]) -> int:
    """Megabytes that a process of its own keeps of products of 1 to 1,500 rows."""
    inherited = {name: value for name, value in os.environ.items() if name not in PROGRAM_CACHES}
    command = [sys.executable, "-c", _MANY_LENGTHS]
    ended = subprocess.run(command, env=inherited | environment, capture_output=True, check=True, timeout=300)
    return int(ended.stdout)


def test_of_many_lengths_few_programs_are_kept_and_a_user_may_say_how_many() -> None:
    fewer, more = (_growth(dict.fromkeys(PROGRAM_CACHES, n)) for n in ("32", "1024"))
    assert fewer * 2 < _growth({}) < more / 3


def test_weights_that_changed_between_two_calls_are_the_ones_used(backbone: Any) -> None:
    before = _texts(backbone, INPUTS, batch_size=5)
    with torch.no_grad():
        for name, weight in backbone.model.named_parameters():
            if "proj" in name or "wi" in name or "lm_head" in name:
                weight.neg_()
    after = _texts(backbone, INPUTS, batch_size=5)
    assert after != before
    assert after == _texts(backbone, INPUTS, batch_size=1)  # few rows: the layers themselves


def test_the_model_is_as_it_was_between_two_outputs(backbone: Any) -> None:
    outputs = backbone.generate(INPUTS, max_new_tokens=12, batch_size=5)
    next(outputs)
    assert not any("forward" in vars(module) for module in backbone.model.modules())
    example = TrainingExample(INPUTS[0], "Mira Olsen is a person")
    encoded = backbone.encode_example(example, max_input_tokens=64, max_target_tokens=16, index=0)
    backbone.loss_sum([encoded]).backward()
    assert all(weight.grad is not None for weight in backbone.model.parameters())


def test_an_error_in_a_step_leaves_the_model_as_it_was(backbone: Any) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("in the output layer")

    hook = backbone.model.get_output_embeddings().register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the output layer"):
        _texts(backbone, INPUTS, batch_size=5)
    hook.remove()
    assert not any("forward" in vars(module) for module in backbone.model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("n_rows", [1, 5, 70])
def test_a_product_is_that_of_plain_loops(dtype: torch.dtype, bias: bool, n_rows: int) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(24, 10, bias=bias).to(dtype)
    x = torch.randn(2, n_rows, 24, dtype=dtype)
    weight = layer.weight.tolist()
    with torch.inference_mode(), LaidOut(torch.nn.Sequential(layer), n_rows=MIN_ROWS):
        found = layer(x)
    expected = torch.zeros(2, n_rows, 10, dtype=torch.float64)
    for part in range(2):
        for row in range(n_rows):
            for out in range(10):
                total = layer.bias[out].item() if bias else 0.0
                for column in range(24):
                    total += float(x[part, row, column]) * weight[out][column]
                expected[part, row, out] = total
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)
