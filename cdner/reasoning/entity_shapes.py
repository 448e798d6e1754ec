"""Entities in the shapes that LLMs give them instead of ``{type: [mention, ...]}``: objects with a text and a type.

Knows no sentence: which mentions and types make sense is for ``cdner.codec``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from cdner.files import Json

# In this order, for "entity" is the text in some shapes and the type in others, beside "word".
_TEXT_KEYS = ("text", "mention", "word", "span", "surface", "name", "entity", "value")
_TYPE_KEYS = ("type", "label", "category", "entity_type", "entity_group", "class", "tag", "entity")


def by_type(text: str) -> str | None:
    """The paper's JSON of what stands at the beginning of ``text``; None if that has none of these shapes.

    Read are a list of objects with text and type, and an object with objects in the place of mentions. An empty list
    is no entity. An object without a text is left out.
    """
    try:
        value, _ = json.JSONDecoder(object_pairs_hook=_without_repetition).raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list):
        pairs = _pairs_of_list(value)
    elif isinstance(value, Mapping):
        pairs = _pairs_of_object(value)
    else:
        return None
    if pairs is None:
        return None
    found: dict[str, list[str]] = {}
    for entity_type, mention in pairs:
        found.setdefault(entity_type, []).append(mention)
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def _without_repetition(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """Raises ValueError for a key that is there twice: one of its values would be lost."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _pairs_of_list(value: Sequence[Json]) -> list[tuple[str, str]] | None:
    pairs = []
    for one in value:
        if not isinstance(one, Mapping):
            return None
        mention, key = _first(one, _TEXT_KEYS)
        entity_type, _ = _first(one, [name for name in _TYPE_KEYS if name != key])
        if mention and entity_type:
            pairs.append((entity_type, mention))
    return pairs if pairs or not value else None


def _pairs_of_object(value: Mapping[str, Json]) -> list[tuple[str, str]] | None:
    pairs, has_objects = [], False
    for entity_type, held in value.items():
        for one in held if isinstance(held, list) else [held]:
            has_objects = has_objects or isinstance(one, Mapping)
            mention = _first(one, _TEXT_KEYS)[0] if isinstance(one, Mapping) else one
            if isinstance(mention, str) and mention:
                pairs.append((entity_type, mention))
    return pairs if has_objects else None


def _first(one: Mapping[str, Json], keys: Sequence[str]) -> tuple[str, str]:
    """The first text under one of the keys, and its key; "" and "" without one."""
    folded = {name.lower(): held for name, held in one.items()}
    for key in keys:
        held = folded.get(key)
        if isinstance(held, str) and held:
            return held, key
    return "", ""
