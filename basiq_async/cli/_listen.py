"""``basiq-async listen``: receive deliveries on this machine, or read new messages from the history."""

from __future__ import annotations

import json as json_module
import os
import stat
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import attrs
import typer

from .._redaction.tracebacks import hide_arguments
from .._wire.hosts import show_url
from .._wire.urls import read_endpoint
from ..errors import ConfigurationError
from ._options import (
    SECRET_VARIABLE,
    Json,
    check_known,
    command_of,
    complete_event_type,
    complete_webhook,
    option,
    read_secrets,
)
from ._output import OutputClosedError, OutputError, flush, is_terminal, live, note, session, write, write_lines
from ._results import Output, Row, View
from ._run import stopping

if TYPE_CHECKING:
    import aiohttp
    from aiohttp import web

    from ..receiver import Delivery, Outcome


@attrs.frozen(kw_only=True)
class ListenOptions:
    """What to receive or to poll, and what to do with it."""

    secret: Annotated[
        list[str] | None,
        option(
            "The webhook's signing secret. Prefer the environment variable or --secret-file. May be repeated.",
            "--secret",
            envvar=SECRET_VARIABLE,
        ),
    ] = attrs.field(default=None, repr=False)
    secret_file: Annotated[Path | None, option("A file with the signing secrets, one per line.")] = None
    forward_to: Annotated[
        str | None, option("Forward each genuine delivery to this service.", "--forward-to", metavar="URL")
    ] = None
    event: Annotated[
        list[str] | None,
        option(
            "Only these event types, such as user.created or consent.*; may be repeated.",
            "--event",
            "--events",
            autocompletion=complete_event_type,
        ),
    ] = None
    port: Annotated[int, typer.Option(help="The port to listen on; 0 for any free port.")] = 8080
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all.")] = "127.0.0.1"
    path: Annotated[str, typer.Option(help="The path that deliveries are posted to.")] = "/basiq"
    poll: Annotated[
        str | None,
        option(
            "Read this webhook's new messages from Basiq; needs no public address.",
            metavar="WEBHOOK_ID",
            autocompletion=complete_webhook,
        ),
    ] = None
    poll_all: Annotated[bool, option("Like --poll, for all webhooks.", "--poll-all", "--all")] = False
    since: Annotated[
        str | None, option("With --poll: the first run begins that long ago, such as 10m.", metavar="TIME")
    ] = None
    every: Annotated[float, typer.Option(min=1, help="With --poll: the seconds between two requests.")] = 5.0
    checkpoint: Annotated[
        str | None, option("With --poll: the checkpoint file. By default it is named after the webhook.")
    ] = None
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="End after N genuine deliveries; 0 for no limit.")] = 0
    body: Annotated[bool, option("Also show the bodies of genuine deliveries.", "--body")] = False
    json: Json = None


@command_of(ListenOptions)
async def listen(options: ListenOptions) -> None:
    """Receive deliveries, verify them, and print each one, until SIGINT or SIGTERM. Refused deliveries are printed too.

    With --forward-to, your service gets each genuine delivery unchanged, and Basiq gets your service's response. With
    --poll, you need no tunnel and no public address: new messages are read from Basiq's history, and with --forward-to
    posted with a new signature. Messages that came while the program was off are shown first.
    """
    if options.poll is not None or options.poll_all:
        from ._follow import Polling

        if options.poll is not None and options.poll_all:
            raise ConfigurationError("--poll and --all cannot be used together")
        await Polling(options).run()
        return
    if options.since is not None or options.checkpoint is not None:
        raise ConfigurationError("--since and --checkpoint require --poll or --all")
    if not options.path.startswith("/"):
        raise ConfigurationError(f"--path must begin with a /, not {options.path!r}")
    if not 0 <= options.port <= 65535:
        raise ConfigurationError(f"--port must be from 0 to 65535, not {options.port}")
    check_known(options.event)
    await Listener(options).serve()


_FORWARD_TIMEOUT = 30.0


_DELIVERY: View[Delivery] = View(
    "delivery_id event_type_id event_id timestamp links",
    delivery_id=lambda delivery: delivery.id,
    links=lambda delivery: dict(delivery.links),
)
_RECEIVED: View[Row] = View(
    f"result status reason {' '.join(_DELIVERY.names)} forwarded_status forward_error body",
)


class Showing:
    """What receiving and polling share: each result is shown and counted, until the end.

    The end is a signal, the limit, or a reader of the output that closes it. ``failure`` is then raised.
    """

    def __init__(self, options: ListenOptions, good: str, bad: str) -> None:
        import asyncio

        self._options = options
        self._output = Output(options.json)
        self._done = asyncio.Event()
        self._failure: Exception | None = None
        self._counts = {good: 0, bad: 0}
        if session().stdout_closed and options.forward_to is None:
            raise ConfigurationError("standard output is closed: nobody could see the deliveries")

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
        if row.get("body") is not None:
            write_lines(json_module.dumps(row["body"], indent=2).splitlines())
        flush()

    def stop(self) -> None:
        """Begin the end."""
        self._done.set()

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
                note(self.status, **self._counts)
        if self._failure is not None:
            raise self._failure


class Listener(Showing):
    """Receives and prints deliveries, and forwards them if ``forward_to`` names a service.

    A delivery is acknowledged only after it was printed. After the output's reader closed it, Basiq gets a 503.
    """

    def __init__(self, options: ListenOptions) -> None:
        from ..receiver import MemoryInbox, WebhookReceiver
        from ..receiver.protocol import Claim, ClaimStatus

        class PassEverything(MemoryInbox):
            """Refuses no claim, because the service itself knows which deliveries it has handled."""

            async def claim(self, key: str, token: str, *, lease: float) -> Claim:
                return Claim(ClaimStatus.CLAIMED)

        super().__init__(options, "accepted", "refused")
        secrets = read_secrets(options.secret_file, options.secret)
        self._forwarder = None if options.forward_to is None else Forwarder(options.forward_to)
        self._receiver = WebhookReceiver(secrets, inbox=None if self._forwarder is None else PassEverything())

        @self._receiver.on(*(options.event or ["*"]))
        async def handle(delivery: Delivery) -> None:
            """Do nothing: it is printed and forwarded when it has turned out to be genuine."""

        import asyncio

        self._idle = asyncio.Event()
        self._idle.set()
        self._shown = self._under_way = 0

    async def serve(self) -> None:
        """Serve until SIGINT or SIGTERM, until the limit is reached, or until the output's reader closes it.

        Deliveries under way are finished. A second signal ends the server at once.
        """
        from aiohttp import web

        from .._web.serving import Address, listening

        host, port, path = self._options.host, self._options.port, self._options.path
        app = web.Application()
        try:
            app.router.add_post(path, self.handle)
        except ValueError as exc:
            raise ConfigurationError(f"--path cannot be {path!r}: {exc}") from None
        async with AsyncExitStack() as stack:
            if self._forwarder is not None:
                await stack.enter_async_context(self._forwarder)
            try:
                address = await stack.enter_async_context(listening(app, host, port, **_PLAIN))
            except OSError as exc:
                raise ConfigurationError(f"cannot listen on {host} port {port}: {exc.strerror}") from exc
            stack.enter_context(self.until_end(lambda: self._under_way > 0))
            url = f"{Address(host, address.port)}{path}"
            note(f"listening on {url}", url=url)
            live(f"{self.status}; Ctrl-C ends")
            await self._done.wait()
            await self._idle.wait()

    async def handle(self, request: web.Request) -> web.Response:
        """Respond to one request. Its body is read only if its headers are those of a fresh delivery."""
        from aiohttp import web
        from multidict import CIMultiDict

        counted = False

        async def chunks() -> AsyncGenerator[bytes]:
            nonlocal counted
            async for chunk in _read_body(request):
                yield chunk
            counted = self._count()
            if not counted:
                raise _FullError

        forwarded: Forwarded | None = None
        unavailable = web.Response(status=503, headers={"Retry-After": "5"})
        try:
            outcome = await self._receiver.handle_stream(
                request.headers,
                chunks(),
                content_length=request.content_length,
                content_encoding=",".join(request.headers.getall("Content-Encoding", ())) or None,
            )
            response = web.Response(status=outcome.status, headers=outcome.headers)
            if self._forwarder is not None and outcome.result == "handled" and outcome.delivery is not None:
                forwarded = await self._forwarder.post(request.headers, outcome.delivery.body)
                response = web.Response(
                    status=forwarded.status, body=forwarded.body or None, headers=CIMultiDict(forwarded.headers)
                )
            self._print(outcome, forwarded, response.status)
        except _FullError:
            return unavailable
        except (OutputClosedError, OutputError) as exc:
            self.fail(exc)
            return unavailable
        finally:
            self._under_way -= counted
            if not self._under_way:
                self._idle.set()
        if counted and outcome.result != "rejected":  # a forged request must not end the program
            self._shown += 1
            if self._shown == self._options.limit:
                self.stop()
        return response

    def _count(self) -> bool:
        """Count a delivery that has arrived as under way. Return False if the program ends or the limit is reached."""
        limit = self._options.limit
        if self._done.is_set() or (limit and self._shown + self._under_way >= limit):
            return False
        self._under_way += 1
        self._idle.clear()
        return True

    def _print(self, outcome: Outcome, forwarded: Forwarded | None, status: int) -> None:
        self._counts["accepted" if 200 <= status <= 299 else "refused"] += 1
        delivery = outcome.delivery
        result = "not-accepted" if forwarded is not None and not forwarded.accepted else str(outcome.result)
        row = {"result": result, "status": status, "reason": outcome.reason}
        row |= _DELIVERY.row(delivery) if delivery else dict.fromkeys(_DELIVERY.names)
        if forwarded is not None:
            row["forwarded_status"] = None if forwarded.error else forwarded.status
            row["forward_error"] = forwarded.error
        if self._options.body:
            row["body"] = dict(delivery.raw) if delivery else None
        named = () if delivery is None else (delivery.event_type_id, delivery.id)
        self.show(row, _RECEIVED, f"{status} {result}", outcome.reason, *named, forwarded and f"-> {forwarded.text}")
        live(f"{self.status}; Ctrl-C ends")


class _FullError(Exception):
    """A delivery arrived that is not to be handled any more."""


_PLAIN: Mapping[str, Any] = {"auto_decompress": False, "lingering_time": 0.0}
"""The options of the server: nothing is decompressed, and the rest of a body that was refused is not read."""


async def _read_body(request: web.Request) -> AsyncGenerator[bytes]:
    """Yield the body as it arrives. Raises ``ConnectionError`` if it breaks off."""
    import aiohttp

    try:
        async for chunk in request.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, aiohttp.http.HttpProcessingError) as exc:
        raise ConnectionError("the body broke off") from exc


@contextmanager
def watching_reader(gone: Callable[[], None]) -> Iterator[None]:
    """Call ``gone`` as soon as the reader of standard output closes it, if standard output is a pipe."""
    import asyncio

    loop = asyncio.get_running_loop()
    descriptor = _pipe_of_stdout()
    if descriptor is None:
        yield
        return

    def left() -> None:
        loop.remove_reader(descriptor)
        gone()

    try:
        # The writing end of a pipe becomes "readable" when its reading end is closed. asyncio relies on it too.
        loop.add_reader(descriptor, left)
    except (NotImplementedError, OSError):
        yield
        return
    try:
        yield
    finally:
        loop.remove_reader(descriptor)


def _pipe_of_stdout() -> int | None:
    try:
        descriptor = sys.stdout.fileno()
        return descriptor if stat.S_ISFIFO(os.fstat(descriptor).st_mode) else None
    except (OSError, ValueError):
        return None


_MOST_RETURNED = 1_048_576
_OF_THE_CONNECTION = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "te", "trailer", "transfer-encoding", "upgrade"}
)
_OF_THE_BODY = frozenset({"content-type", "content-encoding", "content-length"})
_PASSED_ON = ("accept", "content-type", "user-agent", "webhook-")
_OF_AIOHTTP = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
"""Headers that aiohttp adds to a request by itself: a service could compress what Basiq did not ask for."""


@dataclass(frozen=True)
class Forwarded:
    """A service's response to a delivery, or the error if there is none.

    A body of more than 1 MiB is left out, with the headers that describe it.
    """

    status: int
    duration: float
    error: str | None = None
    body: bytes = b""
    headers: Sequence[tuple[str, str]] = ()

    @property
    def accepted(self) -> bool:
        """Whether the response has a 2xx status."""
        return 200 <= self.status <= 299

    @property
    def text(self) -> str:
        """The status and the duration, or the error, as text for people."""
        return self.error or f"{self.status} in {self.duration * 1000:.0f} ms"


class Forwarder:
    """Posts bodies unchanged to one URL. It follows no redirects, keeps no cookies and uses no proxy."""

    @hide_arguments
    def __init__(self, url: str) -> None:
        self._url = read_endpoint(url)
        self._session: aiohttp.ClientSession

    def __repr__(self) -> str:
        return f"Forwarder({show_url(self._url)!r})"

    async def post(self, headers: Mapping[str, str], body: bytes) -> Forwarded:
        """Post a body with the headers of a delivery. If there is no response, the result's status is 502 or 504."""
        import aiohttp

        passed_on = {name: value for name, value in headers.items() if name.lower().startswith(_PASSED_ON)}
        began = time.perf_counter()
        try:
            async with self._session.post(self._url, data=body, headers=passed_on, allow_redirects=False) as response:
                content = bytearray()
                async for chunk in response.content.iter_any():
                    content += chunk
                    if len(content) > _MOST_RETURNED:
                        break
                named = response.headers.get("Connection", "").lower().replace(" ", "").split(",")
                left_out = {"content-length", *_OF_THE_CONNECTION, *named}
                if len(content) > _MOST_RETURNED:
                    content.clear()
                    left_out |= _OF_THE_BODY
                returned = [each for each in response.headers.items() if each[0].lower() not in left_out]
                return Forwarded(response.status, time.perf_counter() - began, None, bytes(content), returned)
        except TimeoutError:
            return Forwarded(504, time.perf_counter() - began, f"no response within {_FORWARD_TIMEOUT:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            return Forwarded(502, time.perf_counter() - began, f"no response: {type(exc).__name__}")

    async def __aenter__(self) -> Self:
        import aiohttp

        self._session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=_FORWARD_TIMEOUT),
            trust_env=False,
            auto_decompress=False,
            skip_auto_headers=_OF_AIOHTTP,
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._session.close()
