"""What a second model makes of a sentence is told by span."""

from __future__ import annotations

from cdner.explain.explanation import changes
from cdner.types import Entity, Sentence

OWN = Sentence(("Mara", "Holt", "filmed", "Quiet", "Harbour", "in", "Oslo", "."))


def test_changes_are_told_by_span() -> None:
    before = (Entity(0, 2, "actor"), Entity(3, 5, "film"), Entity(6, 7, "city"))
    after = (Entity(0, 2, "director"), Entity(4, 5, "film"), Entity(6, 7, "city"))
    rows = [(row.kind, row.mention, row.before, row.after) for row in changes(OWN, before, after)]
    assert rows == [
        ("type changed", "Mara Holt", "actor", "director"),
        ("lost", "Quiet Harbour", "film", None),
        ("found", "Harbour", None, "film"),
        ("same", "Oslo", "city", "city"),
    ]
