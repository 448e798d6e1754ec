"""What each built-in LLM backend needs, and whether it is here. Opens no backend and asks no server."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from cdner.config import Execution
from cdner.errors import BackendError
from cdner.llm.openai import KEY_VARIABLE, URL_VARIABLE
from cdner.llm.vllm import find_vllm
from cdner.models.shelf import is_fetched, shelf


def readiness(backend: str) -> tuple[str, str]:
    """(what it needs, whether that is here in a word); ("", "unknown") for a third party's."""
    needs, ready = _NEEDS.get(backend, ("", lambda: "unknown"))
    return needs, ready()


def _openai() -> str:
    if os.environ.get(KEY_VARIABLE, "").strip():
        return "yes"
    return "yes, without a key" if os.environ.get(URL_VARIABLE) else "no key"


def _vllm() -> str:
    try:
        return f"yes, {find_vllm(Execution()).version}"
    except BackendError:
        return "not found"


def _local() -> str:
    here = [model.called for model in shelf() if "LLM" in model.purposes and is_fetched(model)]
    return f"yes, {', '.join(here)}" if here else "with a folder"


_NEEDS: Mapping[str, tuple[str, Callable[[], str]]] = {
    "openai": (f"{KEY_VARIABLE}, or --base-url of a server", _openai),
    "vllm": ("vLLM in some environment, or --base-url", _vllm),
    "local": ("a model of 'cdner models' fetched, or a folder", _local),
    "scripted": ("a JSON Lines file of answers as --model", lambda: "yes"),
}
