"""The command ``basiq-async``. Arguments come in, one call of the library is made, its result is printed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


def main() -> None:
    """Run the command line. Ends the process with 0, or with 1 for an error and 2 for a wrong use."""
    if sys.argv[1:] == ["--version"]:
        # Before anything heavy is imported: scripts ask for it.
        from .._version import __version__

        print(f"basiq-async {__version__}")
        return
    try:
        _run_app()
    except KeyboardInterrupt:  # while the program is still being loaded
        sys.exit(130)


def build_app() -> typer.Typer:
    """Return the whole program, with every command. Needs the extra ``cli``."""
    from ._app import build

    return build()


def _run_app() -> None:
    try:
        import rich  # noqa: F401  # only whether the extra is there
        import typer  # noqa: F401  # the same
    except ImportError:
        sys.exit("basiq-async: the command line needs the extra 'cli': pip install 'basiq-async[cli]'")
    from ._app import build
    from ._completion import prepare, typed_words

    prepare()
    build(typed_words())()
