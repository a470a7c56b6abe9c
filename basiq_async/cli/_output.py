"""The two streams, and the session of one invocation.

Standard output holds data only; notes, progress and errors go to standard error. With ``--json`` a terminal gets JSON
lines too, and errors and notes are JSON. Nothing else writes to the two streams: ``write``, ``note`` and their kind
make every line printable, so that a new command cannot forget it; JSON is made printable by ``json_line``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from logging import Formatter, LogRecord, StreamHandler
from typing import Any, TextIO

from .._redaction.text import json_line, printable
from ..errors import BasiqError

DEBUG = "BASIQ_DEBUG"
"""The environment variable that asks for tracebacks and logs."""
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


@dataclass(frozen=True)
class Styled:
    """A part of a line that a terminal shows in a style: bold, dim, red or green."""

    text: str
    style: str


Part = str | Styled


class OutputClosedError(Exception):
    """Nobody reads standard output any more."""


class OutputError(BasiqError):
    """Standard output cannot be written: a full disk, a closed descriptor."""


@dataclass
class Session:
    """What one invocation of the program shares."""

    json: bool = False
    """Whether ``--json`` was given: errors and notes are JSON then."""
    profile: str | None = None
    live: str = ""
    """The status line that stands in the terminal at this moment."""
    stdout_closed: bool = False
    """Whether the parent gave no standard output."""


_current: ContextVar[Session | None] = ContextVar("basiq_async_cli", default=None)


def session() -> Session:
    """Return the session of this invocation."""
    found = _current.get()
    if found is None:
        found = Session()
        _current.set(found)
    return found


@contextlib.contextmanager
def new_session(*, json: bool) -> Iterator[Session]:
    """Begin an invocation: make the standard streams able to take any text."""
    fresh = Session(json=json, stdout_closed=sys.stdout is None)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the parent: `basiq-async ... >&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # it lives as long as the process
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="ascii" if _is_ascii_locale() else None, errors="backslashreplace")
    token = _current.set(fresh)
    try:
        yield session()
    finally:
        _current.reset(token)


# --- standard output: data ---


def write(*parts: Part) -> None:
    """Write a line to standard output. Raises ``OutputClosedError`` where nobody reads it."""
    _write_data(_render(parts, sys.stdout) + "\n")


def write_lines(lines: Iterable[str]) -> None:
    """Write lines to standard output, as ``write`` does."""
    text = "".join(printable(line) + "\n" for line in lines)
    if text:
        _write_data(text)


def write_json(value: Any) -> None:
    """Write one line of JSON to standard output."""
    _write_data(json_line(value, ascii=not _takes_unicode(sys.stdout)) + "\n")


def _write_data(text: str) -> None:
    _erase_live()
    try:
        sys.stdout.write(text)
    except OSError as exc:
        raise _unwritable(exc) from None
    if is_terminal(sys.stdout):
        flush()
        _draw_live()


def flush() -> None:
    """Hand what was written to the reader now. Raises as ``write`` does."""
    try:
        sys.stdout.flush()
    except OSError as exc:
        raise _unwritable(exc) from None


def abandon_stdout() -> None:
    """Point standard output nowhere, so that the end of the process does not fail on what is left in its buffer."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _unwritable(exc: OSError) -> Exception:
    # Windows reports a reader that is gone as EINVAL.
    if isinstance(exc, BrokenPipeError) or (os.name == "nt" and exc.errno == 22):
        return OutputClosedError()
    return OutputError(f"standard output cannot be written: {exc.strerror}")


# --- standard error: notes, errors and the status line ---


def note(text: str, **more: Any) -> None:
    """Tell a person something that is not data; ``more`` goes with it where notes are JSON."""
    if session().json:
        _put_line(json_line({"note": text, **more}, ascii=not _takes_unicode(sys.stderr)))
    else:
        write_note(text)


def prompt(text: str) -> None:
    """Ask something on standard error; the reply is typed on the same line."""
    _erase_live()
    _put(printable(text))


def write_note(*parts: Part) -> None:
    """Write a line to standard error, in JSON mode too."""
    _put_line(_render(parts, sys.stderr))


def write_help(text: str) -> None:
    """Write the help of a command, the program's own text with its styles, to standard error."""
    _put_line(text.rstrip("\n"))


class PrintableLog(StreamHandler[TextIO]):
    """Writes log records to standard error, each line of them printable."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.setFormatter(Formatter(form))

    def emit(self, record: LogRecord) -> None:
        """Write a record."""
        try:
            for line in self.format(record).splitlines():
                write_note(line)
        except Exception:
            self.handleError(record)


def show_error(text: str, *, kind: str, exit_code: int, **more: Any) -> None:
    """Show why a command fails: one line, or one JSON object with ``--json``."""
    if session().json:
        evidence = {"type": kind, "message": text, "exit_code": exit_code, **more}
        _put_line(json_line({"error": evidence}, ascii=not _takes_unicode(sys.stderr)))
    else:
        write_note(Styled("error:", "red"), f" {text}")


def live(text: str) -> None:
    """Show the status line of a terminal, in place of the one before; an empty text takes it away.

    A terminal that cannot take a line away (``TERM=dumb``) has none.
    """
    if not is_terminal(sys.stderr) or session().json or is_dumb():
        return
    _erase_live()
    session().live = printable(text)[: max(10, terminal_width() - 1)]
    _draw_live()


def _erase_live() -> None:
    if session().live:
        _put("\r\x1b[K")


def _draw_live() -> None:
    if session().live:
        _put(session().live)


def _put_line(text: str) -> None:
    _erase_live()
    _put(text + "\n")
    _draw_live()


def _put(text: str) -> None:
    # Standard error is gone: nobody can be told.
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


# --- terminals ---


def is_terminal(stream: TextIO) -> bool:
    """Return whether a person reads the stream."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def is_dumb() -> bool:
    """Return whether the terminal understands no escape sequences."""
    return os.environ.get("TERM") in ("dumb", "unknown")


def terminal_width() -> int:
    """Return the columns of the terminal."""
    return shutil.get_terminal_size((80, 24)).columns


def _render(parts: Iterable[Part], stream: TextIO) -> str:
    styled = is_terminal(stream) and not os.environ.get("NO_COLOR") and not is_dumb()
    return "".join(
        printable(part)
        if isinstance(part, str)
        else f"\x1b[{_STYLES[part.style]}m{printable(part.text)}\x1b[0m"
        if styled
        else printable(part.text)
        for part in parts
    )


def _takes_unicode(stream: TextIO) -> bool:
    return (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")


def _is_ascii_locale() -> bool:
    """Whether the environment asks for ASCII with ``LC_ALL=C``, where Python takes it for UTF-8."""
    asked = os.environ.get("PYTHONIOENCODING") or os.environ.get("PYTHONUTF8")
    return not asked and os.environ.get("LC_ALL") in ("C", "POSIX")


def ellipsis() -> str:
    """Return the mark of a text that was cut."""
    return "\u2026" if _takes_unicode(sys.stdout) else "..."
