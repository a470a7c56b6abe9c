"""Load names of a package on first access."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module

from .errors import MissingExtraError


def lazy_names(
    package: str,
    homes: Mapping[str, str],
    *,
    extras: Mapping[str, str] | None = None,
    elsewhere: Mapping[str, Iterable[str]] | None = None,
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package that loads some names of its ``__all__`` on first access.

    homes: maps each such name to the module below the package that defines it.
    extras: maps each optional dependency to the extra that installs it. Without the dependency, access to a name that
        needs it raises ``MissingExtraError``.
    elsewhere: maps a module, such as ``receiver.protocol``, to names that users may look for in the package. Access to
        one raises ``ImportError``, which says where it is.

    Type checkers do not see this ``__getattr__``. The package therefore imports the names under ``TYPE_CHECKING`` too,
    so that a misspelt name is an error.
    """

    def load(name: str) -> object:
        if name not in homes:
            raise _unknown(package, name, elsewhere or {})
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


def _unknown(package: str, name: str, elsewhere: Mapping[str, Iterable[str]]) -> Exception:
    for module, names in elsewhere.items():
        if name in names:
            home = f"{package.partition('.')[0]}.{module}".rstrip(".")
            return ImportError(f"{name} is in {home}: from {home} import {name}")
    return AttributeError(f"module {package!r} has no attribute {name!r}")
