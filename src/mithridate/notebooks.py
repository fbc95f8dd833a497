"""What a notebook shows of an object and of a function: a short table, and the names of all parameters."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[Any]], said: Iterable[str] = ()) -> str:
    """Return a title, a table and sentences as HTML in which all that is given is text."""
    cells = ["".join(f"<th>{escape(name)}</th>" for name in head)]
    cells += ["".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows]
    told = "".join(f"<li>{escape(sentence)}</li>" for sentence in said)
    lines = "".join(f"<tr>{line}</tr>" for line in cells)
    return f"<p><b>{escape(title)}</b></p><table>{lines}</table>" + (f"<ul>{told}</ul>" if told else "")


def with_parameters(more: Mapping[str, inspect.Parameter]) -> Callable[[Function], Function]:
    """Give a function that takes `**options` a signature in which these keyword parameters stand by name."""

    def signed(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        taken = {one.name for one in own}
        added = [one.replace(kind=one.KEYWORD_ONLY) for name, one in more.items() if name not in taken]
        function.__signature__ = signature.replace(parameters=[*own, *added])
        return function

    return signed
