"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The corpora beside the project. Absent on a user's machine: those tests skip; in CI that is a failure."""
    if not _SHARED.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail("the shared corpora must be present in CI")
        pytest.skip("the shared corpora are not on this machine")
    return _SHARED
