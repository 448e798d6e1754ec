"""One tree of errors, its exit codes, and the sentence for unknown names."""

from __future__ import annotations

import ast
import builtins
import re
from pathlib import Path

import pytest

from cdner import errors
from cdner.errors import CdnerError, UsageError, unknown_name

PACKAGE = Path(errors.__file__).parent
BUILT_IN = {
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
}


def _tree() -> dict[str, type[CdnerError]]:
    return {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, BaseException)
    }


def _class_bases() -> dict[tuple[str, str], list[str]]:
    """(file, class) -> last name of each base, for every class statement of the package, nested ones too."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
                found[str(path.relative_to(PACKAGE)), node.name] = bases
    return found


def _is_exception(name: str) -> bool:
    return name in BUILT_IN or name in _tree() or name.endswith(("Error", "Exception", "Warning"))


def test_every_exception_class_of_the_package_is_in_the_tree() -> None:
    """Read from the sources, so that no heavy library is imported and no module is forgotten."""
    classes = _class_bases()
    assert ("errors.py", "CdnerError") in classes
    strangers = [
        (file, name, bases)
        for (file, name), bases in classes.items()
        if file != "errors.py"
        if any(_is_exception(base) for base in bases) and not any(base in _tree() for base in bases)
    ]
    assert strangers == []


def test_every_class_of_the_module_derives_from_the_root() -> None:
    assert len(_tree()) == 10
    assert all(issubclass(kind, CdnerError) for kind in _tree().values())


def test_docstring_draws_the_tree_as_it_is() -> None:
    drawn = re.findall(r"^ {4}([│├└─ ]*)(\w+) +(\d) {2}", errors.__doc__ or "", flags=re.MULTILINE)
    assert {name: int(code) for _, name, code in drawn} == {
        name: kind.exit_code for name, kind in _tree().items()
    }
    for marks, name, _ in drawn:
        depth = len(_tree()[name].__mro__) - len(CdnerError.__mro__)
        assert len(marks) == 4 * depth, name


@pytest.mark.parametrize(
    ("name", "exit_code"),
    [
        ("CdnerError", 1),
        ("UsageError", 2),
        ("InputError", 1),
        ("StoreError", 1),
        ("StoreLockedError", 1),
        ("RunBusyError", 1),
        ("BackendError", 1),
        ("ModelError", 1),
        ("PartialError", 3),
    ],
)
def test_exit_codes(name: str, exit_code: int) -> None:
    assert _tree()[name].exit_code == exit_code


def test_no_error_claims_success_or_an_interruption() -> None:
    assert {kind.exit_code for kind in _tree().values()} == {1, 2, 3}


def test_unknown_name_says_what_was_asked_the_nearest_and_all_in_order() -> None:
    error = unknown_name("backend", "opnai", {"replay": 1, "openai": 2, "local": 3})
    assert isinstance(error, UsageError)
    assert str(error) == ("No backend named 'opnai'. Did you mean 'openai'? Known: local, openai, replay.")


def test_unknown_name_far_from_all_gets_no_suggestion() -> None:
    assert str(unknown_name("backend", "zzz", ["openai"])) == "No backend named 'zzz'. Known: openai."


def test_unknown_name_where_nothing_is_known() -> None:
    assert str(unknown_name("corpus", "x", iter(()))) == "No corpus named 'x'. Known: none."
