"""The protocol of Label Studio's ML backends: tasks in, regions out.

Offsets are code points, as in what ``cdner export --to labelstudio`` writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from cdner.api import FoundEntity
from cdner.errors import InputError
from cdner.files import Json

_MOST_CONFIG = 100_000  # characters of a labelling interface


@dataclass(frozen=True, slots=True)
class Interface:
    """Names in a project's labelling interface: of its labels, of its text, and where the text stands in a task."""

    labels: str = "label"
    text: str = "text"
    key: str = "text"


def read_interface(config: str) -> Interface:
    """The first ``Labels`` of a ``Text`` in a labelling interface (XML). Raises InputError if there is none."""
    if not config.strip():
        return Interface()
    if len(config) > _MOST_CONFIG or "<!" in config:
        raise InputError("label_config is too long, or declares entities.")
    try:
        root = ElementTree.fromstring(config)  # noqa: S314  without declarations nothing can be expanded
    except ElementTree.ParseError as error:
        raise InputError(f"label_config is not XML: {error}.") from error
    texts = {text.get("name"): text.get("value", "$text").removeprefix("$") for text in root.iter("Text")}
    for labels in root.iter("Labels"):
        name, of = labels.get("name"), labels.get("toName")
        if name and of in texts:
            return Interface(name, str(of), texts[of])
    raise InputError(
        "label_config has no <Labels> of a <Text>: entities of texts are all this model can mark."
    )


def text_of(task: Mapping[str, Any], interface: Interface) -> str:
    """The text of a task. Raises InputError, naming the task, if there is none."""
    data = task.get("data")
    text = data.get(interface.key) if isinstance(data, Mapping) else None
    if not isinstance(text, str):
        raise InputError(f"task {str(task.get('id', '?'))[:40]}: data has no text under '{interface.key}'.")
    return text


def prediction(entities: Sequence[FoundEntity], interface: Interface, version: str) -> dict[str, Json]:
    """One task's prediction. Its score is the lowest of its regions: Label Studio sorts tasks by it."""
    scores = [entity.score for entity in entities if entity.score is not None]
    return {
        "model_version": version,
        "score": min(scores, default=0.0),
        "result": [_region(entity, interface) for entity in entities],
    }


def _region(entity: FoundEntity, interface: Interface) -> Json:
    return {
        "id": f"cdner-{entity.start}-{entity.end}",
        "from_name": interface.labels,
        "to_name": interface.text,
        "type": "labels",
        "value": {"start": entity.start, "end": entity.end, "text": entity.text, "labels": [entity.type]},
        **({"score": entity.score} if entity.score is not None else {}),
    }
