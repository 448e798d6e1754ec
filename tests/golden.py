"""What a change of the code must not change: ids and texts, each as the hash in ``fixtures/golden.json``.

Where a change is meant, ``CDNER_WRITE_GOLDEN=1 pytest FILES`` writes the new hashes, and the commit says why.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from cdner.files import Json, content_hash

FILE = Path(__file__).parent / "fixtures" / "golden.json"


def assert_golden(kind: str, values: dict[str, Json]) -> None:
    """Each value has the hash that the file holds under ``kind`` and its name."""
    found = {name: content_hash(value) for name, value in values.items()}
    known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    if os.environ.get("CDNER_WRITE_GOLDEN"):
        known.setdefault(kind, {}).update(found)
        FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return
    expected = known.get(kind, {})
    changed = sorted(name for name, value in found.items() if expected.get(name) != value)
    assert not changed, f"{kind}: not what tests/fixtures/golden.json has: {', '.join(changed)}"
