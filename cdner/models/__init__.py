"""Models that cdner trains and runs: text to text (``seq2seq``, ``causal``) and taggers.

``open_backbone`` opens a model, ``cdner.models.training.fit`` trains it, and ``cdner.models.shelf`` lists the models
that can be fetched by name. Importing this package imports no torch: a family's module and its libraries are imported
when a model is opened. Import ``cdner.models.training`` where it is used.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from cdner.config import BackboneChoice
from cdner.registry import resolve

if TYPE_CHECKING:
    from cdner.models.trainable import Trainable

# On a CPU oneDNN compiles a program for each shape of a matrix product. By default it keeps a thousand of them, half a
# megabyte each, in two caches. These variables limit the caches; torch reads them when it is imported. A value that the
# user has set is kept.
PROGRAM_CACHES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
for _cache in PROGRAM_CACHES:
    os.environ.setdefault(_cache, "128")


class Family(Protocol):
    """What a family registers: how to open one of its models."""

    def open(self, choice: BackboneChoice, *, device: str, checkpoint: Path | None) -> Trainable[Any]: ...


def open_backbone(
    choice: BackboneChoice, *, device: str = "auto", checkpoint: Path | None = None
) -> Trainable[Any]:
    """Load a base model, or a checkpoint that ``fit`` wrote; ``choice`` then gives the family and the dtype.

    Every model can be trained. By its family it is also a ``TextGenerator``, which writes text, or a ``Tagger``, which
    tags words. Raises UsageError for an unknown family or device, ModelError for a model that cannot be loaded.
    """
    family = cast(Family, resolve("backbone", choice.family))
    return family.open(choice, device=device, checkpoint=checkpoint)
