"""The public interface as text: every public name, with its signature, members and bases.

``python -m tests.support.api`` writes it to tests/api.txt, so that a change of the interface shows in that file.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module

from basiq_async.services.resources import RESOURCES

from .environment import ROOT

SNAPSHOT = ROOT / "tests" / "api.txt"
MODULES = [
    "basiq_async", "basiq_async.receiver", "basiq_async.receiver.protocol", "basiq_async.replay",
    "basiq_async.distributed", "basiq_async.otel", "basiq_async.testing",
]  # fmt: skip
MADE = {
    *("Paginator", "Diagnosis", "EndpointCheck", "Problem", "Recovery", "RecoveryRun", "Report", "Plan"),
    *("Emission", "DeliveredAttempt", "Misuse", *(each.name for each in RESOURCES)),
}
"""Only the library makes these, so that their constructors are not public (docs/versioning.md)."""
SPECIAL = {"__aenter__", "__aiter__", "__call__", "__and__", "__or__", "__invert__"}


def render() -> str:
    lines = [line for name in MODULES for line in _module(name)]
    return "\n".join([*lines, *_services()]) + "\n"


def _services() -> Iterator[str]:
    """The services, which are attributes of a client and cannot be imported."""
    from basiq_async import BasiqClient, InMemoryTransport

    client = BasiqClient("key", transport=InMemoryTransport())
    yield "[BasiqClient(...)]"
    for name in (each.name for each in RESOURCES):
        yield from _class(name, type(getattr(client, name)))


def _module(name: str) -> Iterator[str]:
    module = import_module(name)
    yield f"[{name}]"
    for public in module.__all__:
        value = getattr(module, public)
        if inspect.isclass(value):
            yield from _class(public, value)
        elif callable(value):
            yield f"{'async ' if inspect.iscoroutinefunction(value) else ''}def {public}{_signature(value)}"
        else:
            yield f"{public}: {type(value).__name__}"
    yield ""


def _class(name: str, value: type) -> Iterator[str]:
    bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
    yield f"class {name}({bases})" if bases else f"class {name}"
    is_made = name not in MADE and not getattr(value, "_is_protocol", False)
    if is_made and ("__init__" in vars(value) or hasattr(value, "__attrs_attrs__")):
        yield f"    def __init__{_signature(value.__init__)}"
    shown = [getattr(module, each) for module in map(import_module, MODULES) for each in module.__all__]
    # What attrs makes of a field is in the class only where it has slots.
    members: dict[str, tuple[type, object]] = {
        field.name: (owner, field)
        for owner in reversed(value.__mro__)
        for field in getattr(owner, "__attrs_attrs__", ())
        if not field.inherited and not field.name.startswith("_")
    }
    members |= {
        member: (owner, vars(owner)[member])
        for owner in reversed(value.__mro__)
        if owner.__module__.startswith("basiq_async")
        for member in vars(owner)
        if not member.startswith("_") or member in SPECIAL
    }
    bases = [base for base in value.__mro__[1:] if base in shown]
    for member in sorted(members):
        owner, held = members[member]
        line = _member(member, held)
        said = any(_member(member, vars(base)[member]) == line for base in bases if member in vars(base))
        if (owner is value or owner not in shown) and not said:
            yield f"    {line}"


def _member(name: str, held: object) -> str:
    kind = {staticmethod: "static ", classmethod: "class "}.get(type(held), "")
    function = getattr(held, "__func__", held)
    if inspect.isfunction(function):
        prefix = "async " if inspect.iscoroutinefunction(function) else ""
        return f"{kind}{prefix}def {name}{_signature(function)}"
    if isinstance(held, property) or type(held).__name__ == "cached_property":
        getter = held.fget if isinstance(held, property) else held.func  # type: ignore[attr-defined]
        kind = getattr(getter, "__annotations__", {}).get("return", "")
        return f"{name}: {kind}" if getattr(held, "fset", None) else f"{name}: {kind} (read only)"
    return name


def _signature(value: object) -> str:
    try:
        text = str(inspect.signature(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return "(...)"
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)
    text = re.sub(r"<(?:function|class|object|factory|built-in)[^<>]*>", "...", text)
    return re.sub(r" at 0x[0-9a-f]+", "", text)


if __name__ == "__main__":
    SNAPSHOT.write_text(render())
    print(f"{SNAPSHOT.relative_to(ROOT)}: {len(SNAPSHOT.read_text().splitlines())} lines")
