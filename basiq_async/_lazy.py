"""Load names of a package on first access."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec

from .errors import MissingExtraError

_PUBLIC = ("", ".receiver", ".receiver.protocol", ".replay", ".testing", ".distributed", ".otel")
"""The modules that users import from, in which a name is searched for that they sought in another one."""


def lazy_names(
    package: str,
    homes: Mapping[str, str],
    *,
    extras: Mapping[str, str] | None = None,
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package that loads some names of its ``__all__`` on first access.

    homes: maps each such name to the module below the package that defines it.
    extras: maps each optional dependency to the extra that installs it. Without the dependency, access to a name that
        needs it raises ``MissingExtraError``.

    Access to a name that another public module has raises ``ImportError``, which says where it is.

    Type checkers do not see this ``__getattr__``. The package therefore imports the names under ``TYPE_CHECKING`` too,
    so that a misspelt name is an error.
    """

    def load(name: str) -> object:
        if name not in homes:
            raise _unknown(package, name)
        try:
            value: object = getattr(import_module(f"{package}.{homes[name]}"), name)
        except ModuleNotFoundError as exc:
            extra = (extras or {}).get((exc.name or "").partition(".")[0])
            if extra is None:
                raise
            raise missing_extra(name, extra) from exc
        setattr(sys.modules[package], name, value)
        return value

    def list_names() -> list[str]:
        module = sys.modules[package]
        return sorted({*vars(module), *module.__all__})

    return load, list_names


def missing_extra(what: str, extra: str) -> MissingExtraError:
    """Return the error of something that needs an extra, with the command that installs it."""
    # A path, not the name alone: the package is on no index, so anyone could register its name there.
    return MissingExtraError(f"{what} needs the extra {extra!r}: pip install '/path/to/the/clone[{extra}]'")


def _unknown(package: str, name: str) -> Exception:
    root = package.partition(".")[0]
    # Python asks for a module of the package too, before it imports the module.
    is_sought = not name.startswith("_") and find_spec(f"{package}.{name}") is None
    for home in [root + module for module in _PUBLIC if is_sought and root + module != package]:
        with suppress(ImportError):  # its extra is not installed
            if name in import_module(home).__all__:
                return ImportError(f"{name} is in {home}: from {home} import {name}")
    return AttributeError(f"module {package!r} has no attribute {name!r}")
