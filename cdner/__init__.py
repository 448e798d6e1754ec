"""cdner: cross-domain named entity recognition that measures confusion between types and reasons it away."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdner.api import Recognizer as Recognizer

from cdner.version import __version__ as __version__


def __getattr__(name: str) -> object:
    """``Recognizer``, imported when it is first used: ``import cdner`` stays fast."""
    if name == "Recognizer":
        from cdner.api import Recognizer

        return Recognizer
    raise AttributeError(f"module 'cdner' has no attribute '{name}'")
