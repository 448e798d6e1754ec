"""HTML as values instead of text: whatever is no element is escaped, so that no corpus can write markup.

Three nouns and one function that writes them. Knows nothing of what a page says. There is no way to put text into an
element unescaped but ``Verbatim``, which is for our own style sheet and script.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass

from cdner.text import visible

Attribute = str | int | float | bool | None
_VOID = frozenset({"meta", "br", "input"})


@dataclass(frozen=True, slots=True)
class Element:
    tag: str
    attributes: Mapping[str, Attribute]
    children: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Verbatim:
    """The content of ``style`` or ``script``, which HTML does not unescape."""

    text: str


Node = Element | Verbatim | str | int | None


def element(tag: str, *children: Node, **attributes: Attribute) -> Element:
    """``element("td", "a < b", class_="number", data_type=None)``: underscores become dashes, a last one is dropped.

    An attribute that is None or False is left out, True is written without a value.
    """
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    return Element(tag, named, children)


def write(node: Node) -> str:
    """The node as HTML. ValueError for a verbatim text that could end its element."""
    if node is None:
        return ""
    if isinstance(node, Verbatim):
        if "</" in node.text or "<!--" in node.text:
            raise ValueError("a verbatim text may not hold '</' or '<!--'")
        return node.text
    if isinstance(node, Element):
        opening = f"<{node.tag}{''.join(_attribute(*pair) for pair in node.attributes.items())}>"
        if node.tag in _VOID:
            return opening
        return opening + "".join(write(child) for child in node.children) + f"</{node.tag}>"
    return html.escape(visible(str(node)))


def _attribute(name: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    return f' {name}="{html.escape(visible(str(value)))}"'
