"""Devices and number formats: what "auto" chooses, and names that are not devices."""

from __future__ import annotations

import pytest
import torch

from cdner.errors import UsageError
from cdner.models.devices import choose_device, choose_dtype


def test_fp16_is_never_chosen_and_devices_are_checked() -> None:
    cpu = choose_device("cpu")
    assert choose_dtype("float32", cpu) == torch.float32
    assert choose_dtype("bfloat16", cpu) == torch.bfloat16
    assert choose_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    assert choose_dtype("auto", torch.device("cuda")) == torch.bfloat16
    with pytest.raises(UsageError, match="No device named 'gpu'"):
        choose_device("gpu")


def test_auto_is_fp32_on_a_processor_without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdner.models.devices._cpu_has_bf16", lambda: False)
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
