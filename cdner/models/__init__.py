"""Models: load, train, embed, and generate (text to text) or tag. Knows nothing of prompts.

Importing this package imports no torch: a family's module and its libraries load when a backbone is opened.
Training is ``cdner.models.training.fit`` (import it where it is used: it needs torch), the models
that can be fetched by name are in ``cdner.models.shelf``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from cdner.config import BackboneChoice
from cdner.registry import resolve

if TYPE_CHECKING:
    from cdner.models.trainable import Trainable

# On a CPU oneDNN writes a program for each shape of a product and keeps a thousand of them, half a megabyte each, in
# two caches that are as large as these say when torch loads. A user's own number stays.
PROGRAM_CACHES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
for _cache in PROGRAM_CACHES:
    os.environ.setdefault(_cache, "128")


class Family(Protocol):
    """What a backbone family registers: how to open one of its models."""

    def open(self, choice: BackboneChoice, *, device: str, checkpoint: Path | None) -> Trainable[Any]: ...


def open_backbone(
    choice: BackboneChoice, *, device: str = "auto", checkpoint: Path | None = None
) -> Trainable[Any]:
    """Load a base model, or a checkpoint that ``fit`` wrote (``choice`` then says family, dtype and lineage).

    What it can do beside training depends on its family: a ``TextGenerator`` writes text, a ``Tagger`` tags words.
    UsageError for an unknown family or device, ModelError for a model that cannot be loaded.
    """
    family = cast(Family, resolve("backbone", choice.family))
    return family.open(choice, device=device, checkpoint=checkpoint)
