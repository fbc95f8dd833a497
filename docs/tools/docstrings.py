"""Docstrings as Markdown: arguments become a list, examples a block of code."""

import re
from typing import Any

import griffe

_FIELD = re.compile(r"[;.]\s+(?=`[^`]+`(?:(?:, | and )`[^`]+`)*:)")
"""Where one field of a result ends and the next begins, as in "`a`: this; `b`: that"."""


class Docstrings(griffe.Extension):
    """Rewrite the package's plain paragraphs before they are rendered."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object that has one."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """Return a docstring as Markdown."""
    return "\n\n".join(map(_paragraph, re.split(r"\n\s*\n(?!\s)", text.strip())))


def _paragraph(text: str) -> str:
    title, _, rest = text.partition(":")
    if title == "Example":
        code = re.sub(r"(?m)^ {4}", "", rest.strip("\n"))
        # What doctest is told is not for the reader.
        return f"**Example**\n\n```pycon\n{re.sub(r'  # doctest: .*', '', code)}\n```"
    if title == "Arguments":
        return f"**Arguments**\n\n{_list(_items(rest))}"
    fields = _FIELD.split(text)
    return _list(fields) if len(fields) > 1 and text.startswith("`") else text


def _list(items: list[str]) -> str:
    return "\n".join(f"- {' '.join(item.split())}" for item in items)


def _items(text: str) -> list[str]:
    """Cut at each semicolon that is followed by a name and stands outside of parentheses."""
    items, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == ";" and not depth and text[place + 1 :].lstrip().startswith("`"):
            items.append(text[start:place])
            start = place + 1
    return [*items, text[start:]]
