"""Linear layers are laid out for prediction on a CPU, and nothing of it is left behind or out of date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cdner.backbone import open_backbone
from cdner.backbone.linear import MIN_ROWS, MOST_ROWS, LaidOut
from cdner.config import BackboneChoice
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


@pytest.mark.parametrize(("n_rows", "n_expected"), [(1, 1), (MOST_ROWS, 1), (MOST_ROWS + 1, 0)])
def test_of_many_rows_no_program_is_kept(n_rows: int, n_expected: int) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(24, 10))
    with (
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile,
        torch.inference_mode(),
        LaidOut(model, n_rows=MIN_ROWS),
    ):
        model(torch.zeros(1, n_rows, 24))
    assert sum(event.count for event in profile.key_averages() if event.key == PRODUCT) == n_expected


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
