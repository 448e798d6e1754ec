"""Finds and reads prompt files: where they may lie, which names are safe, and errors that name the file.

Knows nothing of what the files mean.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cdner.errors import InputError, UsageError
from cdner.files import resource_root

ROOT_VARIABLE = "CDNER_PROMPTS"
_LONGEST_NAME = 100  # characters; file systems take 255 bytes
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")


class FileModel(BaseModel):
    """Base of every file's shape: unknown keys and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


FileShape = TypeVar("FileShape", bound=FileModel)


def prompt_roots(extra: Path | None = None) -> tuple[Path, ...]:
    """Directories shaped like ``prompts/``, the first wins: ``extra``, $CDNER_PROMPTS, the shipped one."""
    environment = os.environ.get(ROOT_VARIABLE)
    own = [extra] if extra is not None else []
    if environment:
        own.append(Path(environment))
    for root in own:
        if not root.is_dir():
            raise UsageError(
                f"No directory of prompts at {root}. Give a folder with types/ and examples/ in it."
            )
    return (*own, resource_root("prompts"))


def checked_name(kind: str, name: str) -> str:
    """``name`` if it can only ever be a file name inside its folder; UsageError otherwise."""
    if len(name) > _LONGEST_NAME or not _SAFE_NAME.fullmatch(name):
        raise UsageError(
            f"{name[:_LONGEST_NAME]!r} is no name of a {kind}. Use letters, digits, '_', '-' and single dots inside, "
            f"at most {_LONGEST_NAME} characters."
        )
    return name


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {path}: {error}.") from error


def read_toml(path: Path, shape: type[FileShape]) -> FileShape:
    """The file as ``shape``; InputError with the file and the key or line that is wrong."""
    try:
        return shape.model_validate(tomllib.loads(read_text(path)))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}.") from error
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise InputError(f"{path}: '{key}': {problem['msg']}.") from error
