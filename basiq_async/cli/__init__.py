"""The command ``basiq-async``. Each command reads its arguments, calls the library, and prints the result."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


def main() -> None:
    """Run the command line, and end the process with its exit code; ``basiq-async --help`` lists the codes."""
    if sys.argv[1:] == ["--version"]:
        # Handled before slow imports, because scripts ask for the version.
        from .. import __version__

        try:
            print(f"basiq-async {__version__}", flush=True)
        except OSError as exc:
            from ._output import abandon_stdout

            abandon_stdout()
            if not isinstance(exc, BrokenPipeError):  # a reader that leaves is not a failure
                sys.exit(f"error: OutputError: standard output cannot be written: {exc.strerror}")
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
        import rich  # noqa: F401  # imported only to check for the extra
        import typer  # noqa: F401  # likewise
    except ImportError:
        from .._lazy import missing_extra

        sys.exit(f"basiq-async: {missing_extra('the command line', 'cli')}")
    import gc

    from ._app import run

    gc.set_threshold(50_000)  # a list makes many objects and no circles: looking for circles costs a tenth of its time
    sys.exit(run(sys.argv[1:]))
