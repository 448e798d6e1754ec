"""Finds files that lie outside the package in a checkout and inside it in a wheel: prompts, SQL, experiments.

Also the folder for what is fetched once per machine.
"""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).parent
_CHECKOUT = {"prompts": "prompts", "store": "store", "experiments": "scripts/experiments"}


def resource_root(name: str) -> Path:
    """Directory of ``prompts``, ``store`` or ``experiments``."""
    inside = _PACKAGE / f"_{name}"
    return inside if inside.is_dir() else _PACKAGE.parent / _CHECKOUT[name]


def cache_root() -> Path:
    """``CDNER_CACHE``, else ``XDG_CACHE_HOME/cdner``, else ``~/.cache/cdner``: fetched models and WordNet."""
    if own := os.environ.get("CDNER_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "cdner"
    return Path.home() / ".cache" / "cdner"
