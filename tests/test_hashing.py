"""The identity contract: what is equal, what differs, what has no identity."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdner.files import HASH_HEX_DIGITS, Json, canonical_json, content_hash, file_sha256

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(VALUES)
def test_canonical_json_reads_back_as_the_value(value: Json) -> None:
    assert json.loads(canonical_json(value)) == value


def test_canonical_json_is_these_bytes() -> None:
    value: Json = {"b": [1, 1.5, None, True], "a": {"é": "a b", "Z": ()}}
    assert canonical_json(value) == '{"a":{"Z":[],"é":"a b"},"b":[1,1.5,null,true]}'


def test_hash_is_24_digits_of_sha256_over_the_utf8_bytes() -> None:
    expected = hashlib.sha256('{"a":"é"}'.encode()).hexdigest()[:24]
    assert HASH_HEX_DIGITS == 24
    assert content_hash({"a": "é"}) == expected


def test_hash_is_the_one_that_stores_already_hold() -> None:
    """Pinned: a change here orphans every stored run, so it must be meant and migrated."""
    assert content_hash({"alpha": 0.5, "types": ["PER", "LOC"]}) == "240a2e32e84d3a6828675ed4"


def test_order_of_keys_is_no_difference() -> None:
    assert content_hash({"a": 1, "b": {"c": 2, "d": 3}}) == content_hash({"b": {"d": 3, "c": 2}, "a": 1})


def test_tuple_and_list_are_the_same_array() -> None:
    assert content_hash(("a", ("b",))) == content_hash(["a", ["b"]])


def test_read_only_mapping_is_the_same_object() -> None:
    frozen = MappingProxyType({"b": 1, "a": MappingProxyType({"c": 2})})
    assert canonical_json(frozen) == '{"a":{"c":2},"b":1}'


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["a", "b"], ["b", "a"]),
        (1, 1.0),
        (1, True),
        (0, False),
        (1, "1"),
        (None, "null"),
        ("", None),
        ([], {}),
    ],
)
def test_what_differs_in_json_differs_in_the_hash(one: Json, other: Json) -> None:
    assert content_hash(one) != content_hash(other)


def test_letters_that_only_look_alike_differ() -> None:
    assert content_hash("\u00e9") != content_hash("e\u0301")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_non_finite_numbers_have_no_canonical_form(number: float, depth: int) -> None:
    value: Json = number
    for _ in range(depth):
        value = {"inner": [value]}
    with pytest.raises(ValueError, match=r"[Oo]ut of range"):
        canonical_json(value)


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", Path("x"), object()])
def test_what_is_no_json_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match=f"{type(value).__name__} has no canonical form"):
        canonical_json({"a": value})  # type: ignore[dict-item]


@pytest.mark.parametrize("n_bytes", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_file_hash_is_that_of_all_its_bytes(tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "file"
    content = bytes(range(256)) * (n_bytes // 256 + 1)
    path.write_bytes(content[:n_bytes])
    assert file_sha256(path) == hashlib.sha256(content[:n_bytes]).hexdigest()


def test_line_ends_of_a_file_count(tmp_path: Path) -> None:
    for name, content in (("unix", b"a\n"), ("dos", b"a\r\n")):
        (tmp_path / name).write_bytes(content)
    assert file_sha256(tmp_path / "unix") != file_sha256(tmp_path / "dos")
