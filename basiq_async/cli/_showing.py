"""What ``listen`` shares in both ways: its options, and how results are shown until the end."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import attrs
import typer

from ..errors import ConfigurationError
from ._options import EndpointSecretFile
from ._output import OutputClosedError, flush, is_terminal, live, say, session, write
from ._results import Output, Row, View
from ._run import stopping


@attrs.frozen(kw_only=True)
class ListenOptions:
    """What to receive or to poll, and what to do with it.

    forward_to URL: Forward each genuine delivery to this service.
    port: The port to listen on; 0 for any free port.
    host: The address to listen on; 0.0.0.0 for all.
    path: The path that deliveries are posted to.
    poll WEBHOOK_ID: Read this webhook's new messages from Basiq.
    since TIME: With --poll: the first run begins at this date, or so long ago (10m).
    every: With --poll: the seconds between two requests.
    inbox FILE: With --poll: the file that records what was shown; by default it is named after the webhook.
    """

    forward_to: str | None = None
    secret_file: EndpointSecretFile = None
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8080
    host: str = "127.0.0.1"
    path: str = "/basiq"
    poll: str | None = None
    since: str | None = None
    every: Annotated[float, typer.Option(min=1)] = 5.0
    inbox: str | None = None


RECEIVED: View[Row] = View(
    "result status reason delivery_id event_type_id event_id timestamp links forwarded_status forward_error"
)
POLLED: View[Row] = View("result message_id event_type_id event_id webhook_id error")


class Showing:
    """What receiving and polling share: each result is shown and counted, until the end.

    The end is a signal, or a reader of the output that closes it. ``failure`` is then raised.
    """

    def __init__(self, output: Output, options: ListenOptions, good: str, bad: str) -> None:
        import asyncio

        self._options = options
        self._output = output
        self._done = asyncio.Event()
        self._failure: Exception | None = None
        self._counts = {good: 0, bad: 0}
        if session().stdout_closed and options.forward_to is None:
            raise ConfigurationError("standard output is closed: the deliveries could not be seen")

    @property
    def status(self) -> str:
        """The counts, as the status line shows them."""
        return ", ".join(f"{count:,} {name}" for name, count in self._counts.items())

    def show(self, row: Row, view: View[Row], *words: object) -> None:
        """Show a result: as JSON, or as a line of words. Raises the errors of ``write``."""
        if self._output.as_json:
            self._output.one(row, view)
            return
        write("  ".join(str(word) for word in words if word))
        flush()

    def stop(self) -> bool:
        """Begin the end. Return True: what is under way is finished."""
        self._done.set()
        return True

    def fail(self, exc: Exception) -> None:
        """Begin the end, with an error."""
        self._failure = self._failure or exc
        self.stop()

    @contextmanager
    def until_end(self, busy: Callable[[], bool]) -> Iterator[None]:
        """Stop at a signal, and when the reader of the output closes it; then show the counts."""
        try:
            with stopping(self.stop, busy=busy), watching_reader(lambda: self.fail(OutputClosedError())):
                yield
        finally:
            live(None)
            if is_terminal(sys.stderr):
                say(self.status, **self._counts)
        if self._failure is not None:
            raise self._failure


@contextmanager
def watching_reader(gone: Callable[[], None]) -> Iterator[None]:
    """Call ``gone`` as soon as the reader of standard output closes it, if standard output is a pipe."""
    import asyncio

    loop = asyncio.get_running_loop()
    descriptor = -1

    def left() -> None:
        loop.remove_reader(descriptor)
        gone()

    # A file has no reader, and Windows cannot watch a pipe.
    with suppress(NotImplementedError, OSError, ValueError):
        if stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode):
            descriptor = sys.stdout.fileno()
            # The writing end of a pipe becomes "readable" when its reading end is closed. asyncio relies on it too.
            loop.add_reader(descriptor, left)
    try:
        yield
    finally:
        if descriptor >= 0:
            with suppress(NotImplementedError):
                loop.remove_reader(descriptor)
