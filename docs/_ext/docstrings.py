"""Docstrings of this project as reStructuredText.

They are written to be read in an editor: arguments as ``name: what it is``, with the lines that follow indented. Those
are given the markup that Sphinx wants. Code is in directives, which is where the tests look for it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from basiq_async.services.resources import RESOURCES, Resource

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_ARGUMENT = re.compile(r"(\*{0,2}[a-z_][a-z0-9_]*(?:, [a-z_][a-z0-9_]*)*): (\S.*)")  # one, or several that are alike
_SERVICES = ".. services-of-resources::"
_NAMES = re.compile(r"^\.\. (names|errors):: ([\w.]+)$", re.MULTILINE)
_INHERITING = ("FakeBasiq", "SQLInbox")
"""Classes whose methods stand in private bases."""

# What the constructors that attrs writes say in place of a default.
_DEFAULT = re.compile(r"attr_dict\['(\w+)'\]\.default")


def _default(model: Any, attribute: str) -> str:
    return repr(getattr(model.__attrs_attrs__, attribute).default)


def convert(lines: list[str], *, argument: str = ":param {}:") -> list[str]:
    return list(_converted(lines, argument))


def _converted(lines: list[str], argument: str) -> Iterator[str]:
    kind = ""  # of the block that the line is in
    for number, line in enumerate(lines):
        before = lines[number - 1] if number else ""
        if not line.strip():
            yield line
            continue
        indented = line.startswith("    ")
        if indented and not before.strip() and kind != "directive":
            raise ValueError(f"an indented block without a directive, such as '.. code-block:: python': {line.strip()}")
        if not indented and (found := _ARGUMENT.fullmatch(line)):
            if kind != "arguments" and before.strip():
                yield ""
            # In a field's name a space would end a type.
            names = found[1].replace(", ", ",") if argument.startswith(":") else found[1]
            yield f"{argument.format(names)} {found[2]}"
            kind = "arguments"
        else:
            if kind == "arguments" and not indented and before.strip():
                yield ""
            if not indented:
                kind = "directive" if line.startswith((".. ", ":")) or line.endswith("::") else "text"
            yield line


def _service(resource: Resource[Any]) -> str:
    name = resource.name
    return f"basiq_async.services.{name}.{''.join(map(str.capitalize, name.split('_')))}"


def _directive(value: Any, name: str) -> str:
    """Return the directive that documents a public name of a module."""
    if inspect.isroutine(value):
        return f".. autofunction:: {name}"
    if issubclass(value, BaseException):
        return f".. autoexception:: {name}\n   :show-inheritance:"
    return f".. autoclass:: {name}" + ("\n   :inherited-members:" if name in _INHERITING else "")


def _of_module(found: re.Match[str]) -> str:
    """Return directives for each public name of a module; the errors of the whole package have a page of their own."""
    module = import_module(found[2])
    directives = [f".. currentmodule:: {found[2]}"]
    for name in module.__all__:
        value = getattr(module, name)
        is_error = inspect.isclass(value) and issubclass(value, Exception) and found[2] == "basiq_async"
        if callable(value) and is_error == (found[1] == "errors"):
            directives.append(_directive(value, name))
    return "\n\n".join(directives)


def with_names(page: str) -> str:
    """Return a page with a directive for each public name of the modules that it names, and for each service."""
    page = page.replace(_SERVICES, "\n\n".join(f".. autoclass:: {_service(each)}" for each in RESOURCES))
    return _NAMES.sub(_of_module, page)


def setup(app: Sphinx) -> dict[str, Any]:
    def on_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        values = hasattr(obj, "__attrs_attrs__") or what in ("exception", "module")
        lines[:] = convert(lines, argument="- **{}**:" if values else ":param {}:")

    def on_signature(
        app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
    ) -> tuple[str | None, str | None] | None:
        if what != "class":
            return None
        # Services and paginators are made by the client, never by a caller: the arguments are no one's business.
        made = name.endswith(".Paginator") or name in map(_service, RESOURCES)
        if made or getattr(obj, "_is_protocol", False):
            return "", None
        return _DEFAULT.sub(lambda found: _default(obj, found[1]), signature or "").replace("NOTHING", "..."), returns

    def on_bases(app: Sphinx, name: str, obj: Any, options: Any, bases: list[Any]) -> None:
        private = [one for one in bases if "._" in getattr(one, "__module__", "") or one is object]
        bases[:] = [one for one in bases if one not in private] or [object]

    def on_source(app: Sphinx, page: str, source: list[str]) -> None:
        source[0] = with_names(source[0])

    app.connect("source-read", on_source)
    app.connect("autodoc-process-docstring", on_docstring)
    app.connect("autodoc-process-signature", on_signature)
    app.connect("autodoc-process-bases", on_bases)
    return {"parallel_read_safe": True}
