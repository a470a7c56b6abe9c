"""Make a command of a function: its parameters are the command's arguments, and what it returns is shown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import AsyncExitStack
from copy import copy
from functools import wraps
from typing import Annotated, Any, get_type_hints

import attrs
import typer

from ._options import JsonOption, RawOption, YesOption
from ._output import say
from ._results import Output, View
from ._run import confirm, make_client

_GIVEN = ("basiq", "output")
"""The parameters that are no arguments of the command."""


def command(
    view: View[Any] | None = None,
    *,
    shows: View[Any] | None = None,
    details: Callable[[Any], Iterable[tuple[str, Any]]] | None = None,
    empty: str = "",
    ask: Callable[..., str] | None = None,
    raw: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a command of a function. Each parameter is an argument or option of the command, apart from these:

    A parameter ``basiq`` is an open client, and ``output`` writes results. For a parameter of an attrs class, each
    field of the class is an option; its own fields come before those of its base class.

    The docstring of the function, or of the class, says what each of them is, at its end::

        to URL: Where to post.
            A text that is longer goes on like this.

    shows: what the function itself writes to ``output``. The names of ``--json`` are checked before the function is
        called; a function without ``shows`` calls ``output.expect`` before it does anything.
    view: what is shown of the object, or of each object of the list, that the function returns. ``details`` returns the
        lines that a terminal shows of one object in place of the view's fields. ``empty`` is said if there are none.
    ask: returns the question that the user must confirm first; it is called with the arguments by name.
    raw: whether there is an option ``--raw`` too.

    Without a view, the function returns the exit code, or None for 0.
    """

    def make(function: Callable[..., Any]) -> Callable[..., Any]:
        own = inspect.signature(function).parameters
        about, texts = _read_docstring(function, own)
        # Only what typer reads is looked up: the client's class is not imported for that.
        names = {name: text for name, text in function.__annotations__.items() if name not in (*_GIVEN, "return")}
        function.__annotations__ = names
        hints = get_type_hints(function, include_extras=True)
        classes = {name: kind for name, kind in hints.items() if attrs.has(kind)}
        parameters: list[inspect.Parameter] = []
        for name, hint in hints.items():
            parameters += _fields(hint) if name in classes else [_parameter(name, own[name].default, hint, texts)]
        if ask is not None:
            parameters.append(_parameter("yes", False, YesOption))
        if raw:
            parameters.append(_parameter("raw", False, RawOption))
        writes = view is not None or "output" in own
        written = view or shows
        if writes:
            parameters.append(_parameter("json", None, JsonOption))

        def show(output: Output, found: Any) -> Any:
            if view is None:
                return found
            if not isinstance(found, (list, tuple)):
                output.one(found, view, None if details is None else details(found))
                return None
            output.rows(found, view)
            if not found:
                say(empty)
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
            if written is not None:
                output.expect(written)
            yes = ask is None or given.pop("yes")
            for name, kind in classes.items():
                given[name] = kind(**{field.name: given.pop(field.name) for field in attrs.fields(kind)})
            if ask is not None:
                confirm(ask(**given), yes=yes)
            if "output" in own:
                given["output"] = output
            return work(output, given) if inspect.iscoroutinefunction(function) else show(output, function(**given))

        run.__doc__ = about
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        vars(run)["__signature__"] = inspect.Signature(parameters)
        return run

    return make


class Group(typer.Typer):
    """A group of commands."""

    def __init__(self, help: str | None = None, **more: Any) -> None:
        about: dict[str, Any] = {} if help is None else {"help": help}  # else that of the group's own function
        super().__init__(no_args_is_help="invoke_without_command" not in more, **about, **more)

    def add(
        self, view: View[Any] | None = None, *, name: str | None = None, cls: Any = None, **more: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Make a command of a function, and add it to the group, by the name of the function or another one."""

        def make(function: Callable[..., Any]) -> Callable[..., Any]:
            return self.command(name, cls=cls)(command(view, **more)(function))

        return make


Texts = Mapping[str, tuple[str | None, str]]
"""The placeholder for a value, and the help, by the names of parameters."""
_PARAMETER = re.compile(r"^(\w+)(?: (\S+))?: (.+(?:\n +.+)*)\n?", re.MULTILINE)


def _read_docstring(found: object, names: Container[str]) -> tuple[str, Texts]:
    """Return a docstring without the texts of these parameters, and those texts."""
    text = inspect.cleandoc(found.__doc__ or "")
    texts = {each[1]: (each[2], " ".join(each[3].split())) for each in _PARAMETER.finditer(text) if each[1] in names}
    return _PARAMETER.sub(lambda each: "" if each[1] in names else each[0], text).rstrip(), texts


def _fields(kind: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    texts: dict[str, tuple[str | None, str]] = {}
    for each in reversed(kind.__mro__):
        texts.update(_read_docstring(each, hints)[1])
    fields = sorted(attrs.fields(kind), key=lambda field: field.inherited)
    empty = inspect.Parameter.empty
    return [
        _parameter(e.name, empty if e.default is attrs.NOTHING else e.default, hints[e.name], texts) for e in fields
    ]


def _parameter(name: str, default: Any, hint: Any, texts: Texts | None = None) -> inspect.Parameter:
    if texts is not None and name in texts:
        metavar, about = texts[name]
        info = next(iter(getattr(hint, "__metadata__", ())), None)
        if info is not None:
            hint, info = hint.__origin__, copy(info)
        elif default is inspect.Parameter.empty:
            info = typer.Argument()
        else:
            names = [f"--{name.replace('_', '-')}"] if default is False else []
            info = typer.Option(*names, show_default=default is not None and not isinstance(default, bool))
        info.help, info.metavar = about, metavar or info.metavar
        hint = Annotated[hint, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
