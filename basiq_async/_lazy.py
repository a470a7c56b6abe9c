"""Names of a package that it loads when they are first asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module

from .errors import ConfigurationError


def lazy_names(
    package: str,
    homes: Mapping[str, str],
    *,
    extras: Mapping[str, str] | None = None,
    elsewhere: Mapping[str, Iterable[str]] | None = None,
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and the ``__dir__`` of a package whose ``__all__`` has more names than it loads at once.

    homes: from each name to the module below the package that defines it.
    extras: from a package that may not be installed to the extra that installs it. Asking for a name that needs it
        then raises ``ConfigurationError``.
    elsewhere: from a module below the package to the names that users may look for in the package itself. Asking for
        one raises ``ImportError``, which says where it is.

    Type checkers do not see this ``__getattr__``: the package imports the names under ``TYPE_CHECKING`` as well, so
    that a misspelt one is an error.
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
            raise ConfigurationError(f"{name} needs the extra {extra!r}: pip install 'basiq-async[{extra}]'") from exc
        setattr(sys.modules[package], name, value)
        return value

    def list_names() -> list[str]:
        module = sys.modules[package]
        return sorted({*vars(module), *module.__all__})

    return load, list_names


def _unknown(package: str, name: str, elsewhere: Mapping[str, Iterable[str]]) -> Exception:
    for module, names in elsewhere.items():
        if name in names:
            return ImportError(f"{name} is in {package}.{module}: from {package}.{module} import {name}")
    return AttributeError(f"module {package!r} has no attribute {name!r}")
