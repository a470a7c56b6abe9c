"""Docstrings of this project as reStructuredText.

They are written to be read in an editor: arguments as ``name: what it is``, with the lines that follow indented. Those
are given the markup that Sphinx wants. Code is in directives, which is where the tests look for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from basiq_async.services.resources import RESOURCES, Resource

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_ARGUMENT = re.compile(r"(\*{0,2}[a-z_][a-z0-9_]*(?:, [a-z_][a-z0-9_]*)*): (\S.*)")  # one, or several that are alike
# Of the table of the API's resources follow what the pages of the reference have here.
_SERVICES, _MODELS = ".. services-of-resources::", ".. models-of-resources::"


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


def with_resources(page: str) -> str:
    """Return a page with a directive for each service and each model of the table of resources."""
    for mark, names in (
        (_SERVICES, map(_service, RESOURCES)),
        (_MODELS, (f"basiq_async.{resource.model.__name__}" for resource in RESOURCES)),
    ):
        page = page.replace(mark, "\n\n".join(f".. autoclass:: {name}" for name in names))
    return page


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
        source[0] = with_resources(source[0])

    app.connect("source-read", on_source)
    app.connect("autodoc-process-docstring", on_docstring)
    app.connect("autodoc-process-signature", on_signature)
    app.connect("autodoc-process-bases", on_bases)
    return {"parallel_read_safe": True}
