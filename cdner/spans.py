"""BIO tags to token spans and back, and the pairing of gold with predicted entities.

Knows nothing of files, models or scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cdner.types import Entity

_PREFIXES = frozenset("BIES")


def entities_to_bio(n_tokens: int, entities: Iterable[Entity]) -> list[str]:
    """BIO (IOB2) tags of disjoint entities. ValueError when one overlaps another or leaves the sentence."""
    tags = ["O"] * n_tokens
    for entity in entities:
        if not 0 <= entity.start < entity.end <= n_tokens:
            raise ValueError(f"{entity} does not fit {n_tokens} tokens")
        if any(tag != "O" for tag in tags[entity.start : entity.end]):
            raise ValueError(f"{entity} overlaps another entity")
        tags[entity.start] = f"B-{entity.type}"
        for position in range(entity.start + 1, entity.end):
            tags[position] = f"I-{entity.type}"
    return tags


def bio_to_entities(tags: Sequence[str]) -> tuple[tuple[Entity, ...], int]:
    """Entities of BIO, IOB1, IOB2 or BIOES tags, and the number of orphan I-/E- tags that were read as a start.

    A tag continues an entity when it is I- or E- of the type just before it; everything else starts a new one.
    An orphan is an I-/E- tag whose predecessor is not an open entity of the same type; in IOB1 data it is legal.
    ValueError for any other tag, BILOU's L- and U- too; readers of files refuse them earlier, with the line.
    """
    entities: list[Entity] = []
    n_orphans = 0
    open_start, open_type = -1, ""
    for position, tag in enumerate([*tags, "O"]):
        prefix, _, entity_type = tag.partition("-")
        if tag != "O" and not (prefix in _PREFIXES and entity_type):
            raise ValueError(
                f"tag {tag!r} at position {position} is neither O nor B-, I-, E- or S- and a type"
            )
        continues = open_start >= 0 and prefix in "IE" and entity_type == open_type
        if open_start >= 0 and not continues:
            entities.append(Entity(open_start, position, open_type))
            open_start = -1
        if prefix == "O":
            continue
        if not continues:
            n_orphans += prefix in "IE"
            open_start, open_type = position, entity_type
        if prefix in "ES":
            entities.append(Entity(open_start, position + 1, open_type))
            open_start = -1
    return tuple(entities), n_orphans


def index_by_span(entities: Iterable[Entity]) -> dict[tuple[int, int], str]:
    """(start, end) -> type. Spans are unique because entities are disjoint."""
    return {(entity.start, entity.end): entity.type for entity in entities}
