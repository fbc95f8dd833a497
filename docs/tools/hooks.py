"""What the site's build adds to the pages: options of the command line, and formulas as MathML.

A comment `<!-- options of COMMAND -->` in a page becomes the table of that command's options, from the command line
itself. Formulas between dollars become MathML, which browsers draw without a script.
"""

import html
import inspect
import re
import types
import typing
from pathlib import Path
from typing import Any

import typer
from latex2mathml.converter import convert
from typer.models import ArgumentInfo

from mithridate import cli

_OPTIONS = re.compile(r"<!-- options of ([a-z]+) -->")
_FORMULA = re.compile(r'<(div|span) class="arithmatex">\\[\[(](.*?)\\[\])]</\1>', re.DOTALL)
_KINDS = {str: "text", int: "whole number", float: "number", Path: "path"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put each command's table where the page asks for it."""
    return _OPTIONS.sub(lambda found: table_of(found[1]), markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Turn formulas into MathML."""
    return _FORMULA.sub(lambda found: _formula(found[1] == "div", html.unescape(found[2])), content)


def table_of(command: str) -> str:
    """Return the options of a command as a Markdown table, those that its help hides left out."""
    rows = ["| option | values | what it sets |", "|---|---|---|"]
    flags = {option.name: option for option in typer.main.get_group(cli.app).commands[command].params}
    functions = {info.callback.__name__: info.callback for info in cli.app.registered_commands if info.callback}
    found = inspect.signature(functions[command]).parameters
    options = [(name, *typing.get_args(parameter.annotation)) for name, parameter in found.items()]
    for name, kind, option in sorted(options, key=lambda item: not isinstance(item[2], ArgumentInfo)):
        if option.hidden:
            continue
        names = [*flags[name].opts, *flags[name].secondary_opts]
        if isinstance(option, ArgumentInfo):
            names = [option.metavar or name.upper()]
        values = f"`{option.metavar}`" if option.metavar else _values(kind)
        text = (option.help or "").replace("|", "\\|")
        shown = "<br>".join(f"`{flag}`" for flag in names)
        rows.append(f"| {shown} | {values} | {text[:1].upper()}{text[1:]} |")
    return "\n".join(rows)


def _values(kind: Any) -> str:
    """Say what an option of this type takes."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        (kind,) = (part for part in typing.get_args(kind) if part is not type(None))
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in parts)
    return " ".join(map(_values, parts)) if parts else _KINDS.get(kind, "")


def _formula(block: bool, source: str) -> str:
    tag = re.search(r"\\tag\{(.*?)\}", source)
    math = convert(source.replace(tag[0], "") if tag else source, display="block" if block else "inline")
    if "\\" in math:  # what the converter does not know, it passes on as it stands
        raise ValueError(f"a formula that cannot be drawn: {source}")
    if not block:
        return math
    number = f'<span class="number">({tag[1]})</span>' if tag else ""
    return f'<div class="formula">{math}{number}</div>'
