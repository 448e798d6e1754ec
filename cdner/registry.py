"""Names to implementations, resolved late: listing backends must not import torch, vllm or openai.

Each kind maps a name to "module:attribute". Third parties add theirs by the entry-point group ``cdner.<kind>``.
A built-in name keeps its meaning: it is part of stored identities, which an installed package must not change.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import cast

from cdner.errors import UsageError, unknown_name

_BUILT_IN: dict[str, dict[str, str]] = {
    "backend": {
        "openai": "cdner.llm.openai:open_backend",
        "vllm": "cdner.llm.vllm.backend:open_backend",
        "local": "cdner.llm.local:open_backend",
        "scripted": "cdner.llm.scripted:open_backend",
    },
    "backbone": {
        "seq2seq": "cdner.models.seq2seq:FAMILY",
        "causal": "cdner.models.causal:FAMILY",
        "tagger": "cdner.models.tagger:FAMILY",
    },
    "reader": {
        "jsonl": "cdner.formats.readers:read_json_lines",
        "labelstudio": "cdner.formats.readers:read_label_studio",
        "spacy": "cdner.formats.readers:read_doc_bin",
        "brat": "cdner.formats.readers:read_brat",
    },
    "export": {
        "conll": "cdner.formats.conll:write_conll",
        "jsonl": "cdner.formats.json_lines:write_json_lines",
        "spacy": "cdner.formats.spacy_docs:write_doc_bin",
        "labelstudio": "cdner.formats.label_studio:write_label_studio",
        "datasets": "cdner.formats.datasets_folder:write_datasets_folder",
    },
    "engine": {
        "local": "cdner.annotate.worker:annotate_here",
        "ray": "cdner.annotate.ray_engine:annotate_on_ray",
    },
}


def names(kind: str) -> dict[str, str]:
    """Name -> "module:attribute" of one kind, built-in and from entry points."""
    third_party = {point.name: point.value for point in entry_points(group=f"cdner.{kind}")}
    return third_party | _BUILT_IN.get(kind, {})


def resolve(kind: str, name: str) -> object:
    """Import and return the implementation.

    UsageError for an unknown name, with a suggestion, and for one whose package is missing or broken.
    """
    known = names(kind)
    if name not in known:
        raise unknown_name(kind, name, known)
    point = EntryPoint(name, known[name], f"cdner.{kind}")
    try:
        return cast(object, point.load())
    except ModuleNotFoundError as error:
        raise UsageError(f"The {kind} '{name}' needs a package that is not installed: {error}.") from error
    except (ImportError, AttributeError) as error:
        raise UsageError(f"The {kind} '{name}' cannot be loaded from '{point.value}': {error}.") from error
