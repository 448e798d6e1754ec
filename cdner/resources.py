"""Finds the files that lie outside the package in a checkout and inside it in a wheel: prompts, store SQL, experiments."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
_CHECKOUT = {"prompts": "prompts", "store": "store", "experiments": "scripts/experiments"}


def resource_root(name: str) -> Path:
    """Directory of ``prompts``, ``store`` or ``experiments``."""
    inside = _PACKAGE / f"_{name}"
    return inside if inside.is_dir() else _PACKAGE.parent / _CHECKOUT[name]
