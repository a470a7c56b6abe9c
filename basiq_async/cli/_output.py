"""Where the output goes. One rule for every command: a terminal gets text, a pipe gets JSON lines.

Standard output holds data only; notes, progress and errors go to standard error. With ``--json`` a terminal gets JSON
lines too, and errors and notes are JSON. All text from elsewhere passes ``printable`` or ``json_line`` here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TextIO, TypeVar

from .._text import json_line, printable
from ..errors import BasiqError, ConfigurationError
from ._table import Column, cards, table

T = TypeVar("T")
DEBUG = "BASIQ_DEBUG"
"""The environment variable that asks for tracebacks and logs."""
_BATCH = 200
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


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
            stream.reconfigure(errors="backslashreplace")
    token = _current.set(fresh)
    try:
        yield session()
    finally:
        _current.reset(token)


# --- standard output: data ---


@dataclass(frozen=True)
class Shape(Generic[T]):
    """How one kind of result is shown.

    row: the object as a mapping, which JSON shows. fields: the names in it, for ``--json FIELDS``.
    columns: what a table shows, most important first; the first holds the id, which is never cut.
    details: name and value pairs, for a single object in a terminal; None shows the row.
    """

    fields: tuple[str, ...]
    row: Callable[[T], Mapping[str, Any]]
    columns: Sequence[Column[T]] = ()
    details: Callable[[T], Iterable[tuple[str, Any]]] | None = None


@dataclass
class Output:
    """The results of one command, in the form that ``--json`` and the kind of stream ask for."""

    json: str | None = None
    """The value of ``--json``: None without it, else field names separated by commas, empty for all."""
    json_only: bool = False
    _header_shown: bool = field(default=False, init=False)

    @property
    def as_json(self) -> bool:
        """Whether results are JSON lines."""
        return self.json is not None or self.json_only or not is_terminal(sys.stdout)

    def rows(self, items: Iterable[T], shape: Shape[T]) -> None:
        """Write any number of results, in constant memory."""
        if self.as_json:
            pick = self._picker(shape.fields)
            for item in items:
                write_json(pick(shape.row(item)))
            flush()
            return
        rest = iter(items)
        while batch := list(islice(rest, _BATCH)):
            width = terminal_width()
            lines = table(batch, shape.columns, width, header=not self._header_shown)
            if lines is None:
                lines = cards(batch, shape.columns, width)
            elif not self._header_shown:
                lines[0] = apply_style(lines[0], "bold")
            write("\n".join(lines))
            self._header_shown = True

    def one(self, item: T, shape: Shape[T]) -> None:
        """Write a single result: in a terminal a line for each of its values."""
        if self.as_json:
            write_json(self._picker(shape.fields)(shape.row(item)))
            flush()
            return
        pairs = shape.row(item).items() if shape.details is None else shape.details(item)
        write("\n".join(vertical(pairs, terminal_width())))

    def _picker(self, fields: Sequence[str]) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
        names = [name for name in (self.json or "").split(",") if name]
        unknown = [name for name in names if name not in fields]
        if unknown:
            raise ConfigurationError(
                f"--json does not know the field {unknown[0]!r} here; the fields are {', '.join(fields)}"
            )
        return (lambda row: {name: row.get(name) for name in names}) if names else (lambda row: row)


def write(text: str, *, flushed: bool = False) -> None:
    """Write lines to standard output. Raises ``OutputClosedError`` where nobody reads them."""
    _erase_live()
    try:
        sys.stdout.write(text + "\n")
    except OSError as exc:
        raise _unwritable(exc) from None
    if flushed or is_terminal(sys.stdout):
        flush()
        _draw_live()


def write_json(value: Any) -> None:
    """Write one line of JSON to standard output."""
    write(json_line(value, ascii=not _takes_unicode(sys.stdout)))


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
    """Tell a person something that is no data; ``more`` goes with it where notes are JSON."""
    if session().json:
        _write_error(json_line({"note": text, **more}, ascii=not _takes_unicode(sys.stderr)))
    else:
        _write_error(printable(text))


def prompt(text: str) -> None:
    """Ask something on standard error, on a line that the answer goes on."""
    _erase_live()
    _put(printable(text))


def write_note(line: str) -> None:
    """Write a line of a log to standard error."""
    _write_error(line)


def show_error(text: str, *, kind: str, exit_code: int, **more: Any) -> None:
    """Show why a command fails: one line, or one JSON object with ``--json``."""
    if session().json:
        evidence = {"type": kind, "message": text, "exit_code": exit_code, **more}
        _write_error(json_line({"error": evidence}, ascii=not _takes_unicode(sys.stderr)))
    else:
        _write_error(f"{apply_style('error:', 'red', stream=sys.stderr)} {printable(text)}")


def live(text: str) -> None:
    """Show the status line of a terminal, in place of the one before; an empty text takes it away."""
    if not is_terminal(sys.stderr) or session().json:
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


def _write_error(text: str) -> None:
    _erase_live()
    _put(text + "\n")
    _draw_live()


def _put(text: str) -> None:
    # Nobody is left to be told that standard error is gone.
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


def terminal_width() -> int:
    """Return the columns of the terminal."""
    return shutil.get_terminal_size((80, 24)).columns


def apply_style(text: str, style: str, *, stream: TextIO | None = None) -> str:
    """Return text in a style where a person reads it and wants colours (no ``NO_COLOR``)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not is_terminal(stream or sys.stdout):
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def vertical(pairs: Iterable[tuple[str, Any]], width: int) -> list[str]:
    """Return a line for each name and value, the names in a column; long values go on below."""
    known = [(printable(name), printable(cell_text(value))) for name, value in pairs]
    longest = max((len(name) for name, _ in known), default=0)
    lines: list[str] = []
    for name, value in known:
        if longest + 2 + len(value) <= width or not name:
            lines.append(f"{apply_style(name.ljust(longest), 'dim')}  {value}")
        else:
            lines += [apply_style(name, "dim"), f"  {value}"]
    return lines


def cell_text(value: Any) -> str:
    """Return a value as a person reads it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(cell_text(each) for each in value) or "-"
    if hasattr(value, "strftime"):
        return moment_text(value)
    return str(value)


def moment_text(value: Any) -> str:
    """Return a point in time in UTC, to the second."""
    from datetime import UTC

    return str(value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ"))


def _takes_unicode(stream: TextIO) -> bool:
    return (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")
