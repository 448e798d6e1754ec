"""Jinja templates as files with an identity, and the one environment that runs them.

Templates are trusted less than code: they run in Jinja's sandbox with strict undefined names. Text of corpora
is only ever a value. Nothing here knows what a template says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from cdner.errors import InputError, unknown_name
from cdner.files import content_hash
from cdner.prompts.files import checked_name, prompt_roots, read_text

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment


@dataclass(frozen=True, slots=True)
class Template:
    """One published wording. ``hash`` covers its own text and that of every template it refers to."""

    name: str  # "pbrc.v1" is the file pbrc/pbrc.v1.jinja
    text: str
    hash: str
    parts: tuple[tuple[str, str], ...]  # (name, text) of this template and of all it refers to


def load_template(name: str, extra: Path | None = None) -> Template:
    """UsageError for an unknown or unsafe name, InputError for a template Jinja cannot read."""
    from jinja2 import TemplateSyntaxError, meta

    parts: dict[str, str] = {}
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in parts:
            continue
        path = _find(current, extra)
        parts[current] = read_text(path)
        try:
            referred = list(meta.find_referenced_templates(_environment(()).parse(parts[current])))
        except TemplateSyntaxError as error:
            raise InputError(f"{path}, line {error.lineno}: {error.message}") from error
        waiting += [other for other in referred if other is not None]
    return Template(name=name, text=parts[name], hash=content_hash(parts), parts=tuple(parts.items()))


def template_names(extra: Path | None = None) -> tuple[str, ...]:
    """Every name ``load_template`` knows, sorted."""
    paths = [path for root in prompt_roots(extra) for path in root.glob("*/*.jinja")]
    return tuple(sorted({path.stem for path in paths}))


def call_macro(template: Template, macro: str, context: Mapping[str, object], *arguments: object) -> str:
    """Run one macro of a template with ``context`` as its names; InputError names template and problem."""
    from jinja2 import TemplateError

    try:
        module = _environment(template.parts).get_template(template.name).make_module(dict(context))
        rendered = getattr(module, macro)(*arguments)
    except AttributeError as error:
        raise InputError(f"Template '{template.name}' has no macro '{macro}'.") from error
    except TemplateError as error:
        raise InputError(f"Template '{template.name}', macro '{macro}': {error}.") from error
    return str(rendered)


def _find(name: str, extra: Path | None) -> Path:
    checked_name("template", name)
    folder = name.partition(".")[0]
    for root in prompt_roots(extra):
        path = root / folder / f"{name}.jinja"
        if path.is_file():
            return path
    raise unknown_name("template", name, template_names(extra))


@lru_cache(maxsize=32)
def _environment(parts: tuple[tuple[str, str], ...]) -> SandboxedEnvironment:
    """One environment per template, so that it is compiled once and not for every sentence."""
    from jinja2 import DictLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        loader=DictLoader(dict(parts)),
        undefined=StrictUndefined,
        autoescape=False,  # the reader is a language model, not a browser
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    # Jinja's own tojson escapes < > & ' for HTML; a model would learn to write the escapes.
    environment.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment
