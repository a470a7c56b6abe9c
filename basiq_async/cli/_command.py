"""Make a command of a function: its parameters are the command's arguments, and what it returns is shown."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from functools import wraps
from typing import Any, get_type_hints

import attrs

from ._options import Json, Raw, Yes
from ._output import note
from ._results import Output, View
from ._run import confirm, make_client

_GIVEN = ("basiq", "output")
"""The parameters that are no arguments of the command."""


def command(
    view: View[Any] | None = None,
    *,
    details: Callable[[Any], Iterable[tuple[str, Any]]] | None = None,
    empty: str = "",
    ask: Callable[..., str] | None = None,
    raw: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a command of a function. Each parameter is an argument or option of the command, apart from these:

    A parameter ``basiq`` is an open client, and ``output`` writes results. For a parameter of an attrs class, each
    field of the class is an option; its own fields come before those of its base class.

    view: what is shown of the object, or of each object of the list, that the function returns. ``details`` returns the
        lines that a terminal shows of one object in place of the view's fields. ``empty`` is the note for no objects.
    ask: returns the question that the user must confirm first; it is called with the arguments by name.
    raw: whether there is an option ``--raw`` too.

    Without a view, the function returns the exit code, or None for 0.
    """

    def make(function: Callable[..., Any]) -> Callable[..., Any]:
        own = inspect.signature(function).parameters
        # Only what typer reads is looked up: the client's class is not imported for that.
        names = {name: text for name, text in function.__annotations__.items() if name not in (*_GIVEN, "return")}
        function.__annotations__ = names
        hints = get_type_hints(function, include_extras=True)
        classes = {name: kind for name, kind in hints.items() if attrs.has(kind)}
        parameters: list[inspect.Parameter] = []
        for name, hint in hints.items():
            parameters += _fields(hint) if name in classes else [_parameter(name, own[name].default, hint)]
        if ask is not None:
            parameters.append(_parameter("yes", False, Yes))
        if raw:
            parameters.append(_parameter("raw", False, Raw))
        writes = view is not None or "output" in own
        if writes:
            parameters.append(_parameter("json", None, Json))

        def show(output: Output, found: Any) -> Any:
            if view is None:
                return found
            if not isinstance(found, (list, tuple)):
                output.one(found, view, None if details is None else details(found))
                return None
            output.rows(found, view)
            if not found:
                note(empty)
            return None

        async def work(output: Output, given: dict[str, Any]) -> Any:
            async with AsyncExitStack() as stack:
                if "basiq" in own:
                    given["basiq"] = await stack.enter_async_context(make_client())
                found = await function(**given)
            return show(output, found)

        @wraps(function)
        def run(**given: Any) -> Any:
            output = Output(given.pop("json") if writes else None, raw and given.pop("raw"))
            yes = ask is None or given.pop("yes")
            for name, kind in classes.items():
                given[name] = kind(**{field.name: given.pop(field.name) for field in attrs.fields(kind)})
            if ask is not None:
                confirm(ask(**given), yes=yes)
            if "output" in own:
                given["output"] = output
            return work(output, given) if inspect.iscoroutinefunction(function) else show(output, function(**given))

        run.__annotations__ = {each.name: each.annotation for each in parameters}
        vars(run)["__signature__"] = inspect.Signature(parameters)
        return run

    return make


def _fields(kind: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    fields = sorted(attrs.fields(kind), key=lambda field: field.inherited)
    empty = inspect.Parameter.empty
    return [_parameter(e.name, empty if e.default is attrs.NOTHING else e.default, hints[e.name]) for e in fields]


def _parameter(name: str, default: Any, hint: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
