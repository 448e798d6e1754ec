"""Every part of an answer that a schema asks for has an upper bound: an unbounded one is filled until it is cut off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from cdner.config import Reasoning
from cdner.prompts import load_domain, load_examples, load_template
from cdner.reasoning import reasoning_requests


def schemas_within(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    for part in [*schema.get("properties", {}).values(), *filter(None, [schema.get("items")])]:
        yield from schemas_within(part)


@pytest.mark.parametrize("template", ["pbrc.v1", "ner.v1"])
def test_every_string_and_every_list_is_bounded(template: str) -> None:
    source, target = load_domain("conll2003"), load_domain("ai")
    (request,) = reasoning_requests(
        ["One ."],
        load_template(template),
        setting="full",
        source=source,
        target=target,
        prefixes=dict.fromkeys(target.types, source.entries[0].short),
        rivals={},
        examples=load_examples("ai"),
        settings=Reasoning(max_tokens=700),
    )
    bounds = {"string": "maxLength", "array": "maxItems", "object": "additionalProperties"}
    parts = list(schemas_within(json.loads(request.schema or "")))
    assert len(parts) > 2
    assert [part for part in parts if bounds[part["type"]] not in part] == []
