"""The questions that come with cdner: one SQL file each under ``store/queries``, read here and run by ``sealed_sql``.

A file says in its first comment line what it answers, and in one line a parameter what can be chosen:
``-- $limit integer = 20: rows at most``; a parameter without a default is NULL until it is given. Knows no query.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from cdner.errors import UsageError, unknown_name
from cdner.resources import resource_root
from cdner.store.sealed_sql import Value

_PARAMETER = re.compile(
    r"-- \$(?P<name>[a-z_]+) (?P<kind>text|integer|number)(?: = (?P<default>[^:]+))?: (?P<meaning>.+)"
)
_READ: Mapping[str, Callable[[str | int | float], Value]] = {"text": str, "integer": int, "number": float}


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    kind: str  # text, integer or number
    default: Value  # None: no restriction
    meaning: str


@dataclass(frozen=True, slots=True)
class NamedQuery:
    name: str
    answers: str  # one sentence
    parameters: tuple[Parameter, ...]
    sql: str  # the whole file

    def values(self, given: Mapping[str, Value]) -> dict[str, Value]:
        """Every parameter with what was given for it, or its default. UsageError for others and wrong kinds."""
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in given:
            if name not in known:
                raise unknown_name(f"parameter of @{self.name}", name, known)
        return {
            name: _read(parameter, given[name]) if name in given else parameter.default
            for name, parameter in known.items()
        }


@cache
def named_queries() -> Mapping[str, NamedQuery]:
    """All of them, by name."""
    files = sorted((resource_root("store") / "queries").glob("*.sql"))
    return {file.stem: parse_query(file.stem, file.read_text(encoding="utf-8")) for file in files}


def find_query(name: str) -> NamedQuery:
    """The query of this name, with or without its @. UsageError for an unknown one."""
    queries = named_queries()
    plain = name.removeprefix("@")
    if plain not in queries:
        raise unknown_name("query", plain, queries)
    return queries[plain]


def parse_query(name: str, text: str) -> NamedQuery:
    """ValueError for a file that does not begin as the module says."""
    first, *others = text.splitlines()
    if not first.startswith("-- "):
        raise ValueError(f"{name}.sql does not begin with what it answers")
    parameters = []
    for line in others:
        if not line.startswith("--"):
            break
        found = _PARAMETER.fullmatch(line)
        if found is None:
            raise ValueError(f"{name}.sql: no parameter: {line}")
        undefined = Parameter(found["name"], found["kind"], None, found["meaning"])
        default = None if found["default"] is None else _read(undefined, found["default"])
        parameters.append(Parameter(found["name"], found["kind"], default, found["meaning"]))
    return NamedQuery(name, first.removeprefix("-- "), tuple(parameters), text)


def _read(parameter: Parameter, value: Value) -> Value:
    if value is None:
        return None
    try:
        return _READ[parameter.kind](value)
    except ValueError as error:
        raise UsageError(f"${parameter.name} must be of kind {parameter.kind}, not '{value}'.") from error
