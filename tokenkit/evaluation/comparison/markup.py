"""HTML and SVG from Python, with everything escaped that was not made here."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

VOID = frozenset({"meta", "line", "circle", "rect", "path", "polyline", "wbr"})


# Control characters, which no document may hold, as pictures of themselves
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {127: 0x2421}


class Safe(str):
    """Text that is markup already."""


Child = str | None | Iterable["Child"]


def markup(child: Child) -> str:
    """Markup of a child: text is escaped, None is nothing, lists are joined."""
    if child is None:
        return ""
    if isinstance(child, Safe):
        return child
    if isinstance(child, str):
        return escape(child.translate(_PICTURES))
    return "".join(map(markup, child))


def tag(name: str, /, *children: Child, **attributes: object) -> Safe:
    """An element; attributes that are None are left out.

    Args:
        attributes: with "_" for "-" in their names, and ``class_`` for ``class``.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value).translate(_PICTURES))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Safe(f"<{name}{given}/>")
    return Safe(f"<{name}{given}>{markup(children)}</{name}>")
