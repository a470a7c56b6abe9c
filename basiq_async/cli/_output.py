"""Write to standard output and standard error, and hold the session of one invocation.

Standard output holds only data. All else goes to standard error. With ``--json``, a terminal gets JSON
lines too, and standard error has JSON. Only this module writes to the two streams: its functions escape characters
that are not printable, so that no command can forget it. ``json_line`` does this for JSON. rich styles the lines of a
terminal, and draws its status line.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from logging import Formatter, LogRecord, StreamHandler, basicConfig, getLevelNamesMapping, getLogger
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, TextIO

from .._redaction.text import json_line, printable
from ..errors import BasiqError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

DEBUG = "BASIQ_DEBUG"
"""The environment variable that turns on tracebacks and logs."""
_SAY_EVERY = 30.0
"""Seconds between two lines on what a command does, where there is no status line."""


@dataclass(frozen=True)
class Styled:
    """A part of a line that a terminal shows in a style of rich, such as bold or red."""

    text: str
    style: str


Part = str | Styled


class OutputClosedError(Exception):
    """The reader of standard output closed it."""


class OutputError(BasiqError):
    """Standard output cannot be written, for example because the disk is full."""


@dataclass
class Session:
    """The state that all functions share during one invocation of the program."""

    json: bool = False
    """Whether ``--json`` was given: errors and what is said are JSON then."""
    profile: str | None = None
    base_url: str | None = None
    timeout: float | None = None
    """Maximum seconds for a request, from ``--timeout``."""
    status: Live | None = None
    """The status line that the terminal shows now."""
    noted_at: float | None = None
    """When a note last said what the command does, where there is no status line, in monotonic seconds."""
    key: str | None = None
    """Where the API key of the client comes from; None before one is made."""
    hung_up: bool = False
    """Whether SIGHUP said that the terminal is gone."""
    stdout_closed: bool = False
    """Whether the program was started without a standard output."""


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
    """Start the session of an invocation. Sets up the standard streams so that any text can be written."""
    fresh = Session(json=json, stdout_closed=sys.stdout is None)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the parent: `basiq-async ... >&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # it lives as long as the process
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="ascii" if _is_ascii_locale() else None, errors="backslashreplace")
    token = _current.set(fresh)
    try:
        yield fresh
    finally:
        _current.reset(token)


# --- standard output: data ---


def write(*parts: Part) -> None:
    """Write a line to standard output. Raises ``OutputClosedError`` if its reader closed it, or ``OutputError``."""
    _write_data(_render(parts, sys.stdout) + "\n")


def write_lines(lines: Iterable[str]) -> None:
    """Write lines to standard output. Raises the errors of ``write``."""
    text = "".join(printable(line) + "\n" for line in lines)
    if text:
        _write_data(text)


def write_json(*values: Any) -> None:
    """Write a line of JSON for each value to standard output."""
    plain = not takes_unicode(sys.stdout)
    _write_data("".join([json_line(value, ascii=plain) + "\n" for value in values]))


def write_drawing(drawing: RenderableType, below: Sequence[str] | None = None) -> None:
    """Write what rich draws, such as a table, to standard output. Its text must be printable.

    below: a text for each of the last lines of the drawing, which stands in a line of its own below it.
    """
    from rich.console import ConsoleDimensions

    console = _console(sys.stdout)
    console.size = ConsoleDimensions(*get_terminal_size((80, 24)))  # rich takes a dumb terminal to be 80 wide
    with console.capture() as drawn:
        console.print(drawing)
    lines = [line.rstrip() for line in drawn.get().splitlines()]
    if below is not None:
        head = lines[: len(lines) - len(below)]
        rows = zip(lines[len(head) :], below, strict=True)
        lines = [*head, *(each for line, text in rows for each in (line, f"  {text}"))]
    _write_data("".join(f"{line}\n" for line in lines))


def _write_data(text: str) -> None:
    status = session().status
    if status is not None:
        status.stop()
    try:
        sys.stdout.write(text)
    except OSError as exc:
        raise _unwritable(exc) from None
    if is_terminal(sys.stdout):
        flush()
    if status is not None:
        status.start(refresh=True)


def flush() -> None:
    """Flush standard output. Raises the errors of ``write``."""
    try:
        sys.stdout.flush()
    except OSError as exc:
        raise _unwritable(exc) from None


def abandon_stdout() -> None:
    """Redirect standard output to nowhere, so that flushing its buffer at exit cannot fail."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _unwritable(exc: OSError) -> Exception:
    # Windows reports EINVAL if the reader closed the pipe.
    if isinstance(exc, BrokenPipeError) or (os.name == "nt" and exc.errno == 22) or session().hung_up:
        return OutputClosedError()
    return OutputError(f"standard output cannot be written: {exc.strerror}")


# --- standard error: lines, errors and the status line ---


def say(text: str, **more: Any) -> None:
    """Write a line to standard error. With ``--json`` it is a JSON object, which also has the fields ``more``."""
    if session().json:
        _put(json_line({"note": text, **more}, ascii=not takes_unicode(sys.stderr)) + "\n")
    else:
        write_line(text)


def prompt(text: str) -> None:
    """Write a question to standard error, without a new line, so that the reply is typed after it."""
    live(None)
    _put(printable(text))


def write_line(*parts: Part) -> None:
    """Write a line of text to standard error, even with ``--json``."""
    _put(_render(parts, sys.stderr) + "\n")


def write_help(text: str) -> None:
    """Write the help of a command to standard error, with its styles."""
    _put(text.rstrip("\n") + "\n")


class PrintableLog(StreamHandler[TextIO]):
    """Writes log records to standard error, with characters that are not printable escaped.

    A record begins at the left edge, and its further lines are indented: no text in it can look like another record.
    """

    def __init__(self, form: str) -> None:
        super().__init__()
        self.setFormatter(Formatter(form))

    def emit(self, record: LogRecord) -> None:
        """Write the lines of a record."""
        try:
            first, *others = self.format(record).splitlines() or [""]
            write_line(first)
            for line in others:
                write_line(f"    {line}")
        except Exception:
            self.handleError(record)


def show_logs(level: str, form: str, *, others: str = "INFO") -> None:
    """Show log records of this package from ``level`` on, and of other libraries from the level ``others`` on.

    At DEBUG, some drivers of databases print the values of statements, and so whole deliveries.
    """
    numbers = getLevelNamesMapping()
    basicConfig(level=max(numbers[level], numbers[others]), handlers=[PrintableLog(form)])
    getLogger("basiq_async").setLevel(level)


def show_error(text: str, *, kind: str, exit_code: int, **more: Any) -> None:
    """Write an error to standard error: one line, or one JSON object with ``--json``."""
    if session().json:
        evidence = {"type": kind, "message": text, "exit_code": exit_code, **more}
        _put(json_line({"error": evidence}, ascii=not takes_unicode(sys.stderr)) + "\n")
    else:
        write_line(Styled("error:", "red"), f" {text}")


def live(text: str | None) -> None:
    """Show what the command is doing, in place of what was shown before; None removes it.

    A terminal has a status line. Without a terminal, or if it cannot erase a line (``TERM=dumb``), the text is written
    every 30 s, as a line.
    """
    state = session()
    if text is None:
        if state.status is not None:
            state.status.stop()
            state.status = None
        return
    if state.json or not is_terminal(sys.stderr) or is_dumb():
        now = time.monotonic()
        if state.noted_at is None:
            state.noted_at = now
        elif now - state.noted_at >= _SAY_EVERY:
            state.noted_at = now
            say(text[:500])
        return
    from rich.live import Live
    from rich.text import Text

    if state.status is None:
        state.status = Live(
            console=_console(sys.stderr), auto_refresh=False, transient=True, redirect_stdout=False,
            redirect_stderr=False,
        )  # fmt: skip
        state.status.start()
    with contextlib.suppress(OSError, ValueError):
        state.status.update(Text(printable(text[:500]), no_wrap=True, overflow="crop"), refresh=True)


def _put(text: str) -> None:
    # If standard error is closed, there is no place to report that.
    status = session().status
    with contextlib.suppress(OSError, ValueError):
        if status is not None:
            status.stop()
        sys.stderr.write(text)
        sys.stderr.flush()
        if status is not None:
            status.start(refresh=True)


# --- terminals ---


def is_terminal(stream: TextIO) -> bool:
    """Return whether a stream is a terminal."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def is_dumb() -> bool:
    """Return whether the terminal cannot handle escape sequences."""
    return os.environ.get("TERM") in ("dumb", "unknown")


def takes_unicode(stream: TextIO) -> bool:
    """Return whether a stream can encode any character."""
    return (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(file=stream, force_terminal=is_terminal(stream), markup=False, emoji=False, highlight=False)


def _render(parts: Sequence[Part], stream: TextIO) -> str:
    if not is_terminal(stream) or all(isinstance(part, str) for part in parts):
        return "".join(printable(part if isinstance(part, str) else part.text) for part in parts)
    from rich.text import Text

    console = _console(stream)
    pieces = [(printable(part), "") if isinstance(part, str) else (printable(part.text), part.style) for part in parts]
    with console.capture() as drawn:
        console.print(Text.assemble(*pieces), soft_wrap=True, end="")
    return drawn.get()


def _is_ascii_locale() -> bool:
    """Whether the environment sets ``LC_ALL=C``, which means ASCII, though Python then uses UTF-8."""
    asked = os.environ.get("PYTHONIOENCODING") or os.environ.get("PYTHONUTF8")
    return not asked and os.environ.get("LC_ALL") in ("C", "POSIX")
