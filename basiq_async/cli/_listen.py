"""``basiq-async listen``: receive deliveries on this machine, or read new messages from the history."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from .._redaction.tracebacks import hide_arguments
from .._wire.hosts import show_url
from .._wire.urls import quote_segment, read_endpoint
from .._work.failures import failure_text
from ..errors import ConfigurationError
from ._command import command
from ._options import read_secrets
from ._output import OutputClosedError, OutputError, live, say
from ._results import Output, View
from ._showing import POLLED, RECEIVED, ListenOptions, Showing

if TYPE_CHECKING:
    import aiohttp
    from aiohttp import web

    from ..receiver import Delivery, Outcome, WebhookReceiver


@command()
async def listen(output: Output, options: ListenOptions) -> None:
    """Receive deliveries, verify them, and print each one, until SIGINT or SIGTERM. Refused deliveries are printed too.

    With --forward-to, your service gets each genuine delivery unchanged, and Basiq gets its response. With --poll, you
    need no public address: new messages are read from Basiq's history, also those that came while the program was off,
    and with --forward-to posted with a new signature.
    """
    output.expect(RECEIVED if options.poll is None else POLLED)
    if not options.path.startswith("/"):
        raise ConfigurationError(f"--path must begin with a /, not {options.path!r}")
    if options.poll is not None:
        usual = ListenOptions()
        if (options.host, options.port, options.path) != (usual.host, usual.port, usual.path):
            raise ConfigurationError("--host, --port and --path are for deliveries: omit them with --poll")
        quote_segment(options.poll, "webhook id")
        from ._polling import Polling  # a replay is slow to import

        await Polling(output, options, options.poll).run()
        return
    if options.since is not None or options.inbox is not None:
        raise ConfigurationError("--since and --inbox require --poll")
    await Listener(output, options).serve()


_FORWARD_TIMEOUT = 30.0
_SHOW_EVERY = 10.0


_DELIVERY: View[Delivery] = View(
    "delivery_id event_type_id event_id timestamp links",
    delivery_id=lambda delivery: delivery.id,
    links=lambda delivery: dict(delivery.links),
)


class Listener(Showing):
    """Receives and prints deliveries, and forwards them if ``forward_to`` names a service.

    A delivery is acknowledged only after it was printed. After the output's reader closed it, Basiq gets a 503.
    """

    def __init__(self, output: Output, options: ListenOptions) -> None:
        from ..receiver import MemoryInbox
        from ..receiver.protocol import Claim, ClaimStatus

        class PassEverything(MemoryInbox):
            """Refuses no claim, because the service itself knows which deliveries it has handled."""

            async def claim(
                self, key: str, token: str, *, lease: float, quarantined: bool = False, transaction: bool = False
            ) -> Claim:
                return Claim(ClaimStatus.CLAIMED)

        super().__init__(output, options, "accepted", "refused")
        secrets = read_secrets(options.secret_file)
        self._forwarder = None if options.forward_to is None else Forwarder(options.forward_to)
        self._receiver = _make_receiver(secrets, inbox=None if self._forwarder is None else PassEverything())

        @self._receiver.on("*")
        async def handle(delivery: Delivery) -> None:
            """Do nothing: it is printed and forwarded when it has turned out to be genuine."""

        import asyncio

        self._idle = asyncio.Event()
        self._idle.set()
        self._under_way = 0

    async def serve(self) -> None:
        """Serve until SIGINT or SIGTERM, or until the output's reader closes it.

        Deliveries under way are finished. A second signal ends the server at once.
        """
        from aiohttp import web

        from .._web.serving import Address, listening
        from .._work.limits import wait_for_event

        host, port, path = self._options.host, self._options.port, self._options.path
        app = web.Application()
        try:
            app.router.add_post(path, self.handle)
        except ValueError as exc:
            raise ConfigurationError(f"--path cannot be {path!r}: {failure_text(exc)}") from None
        async with AsyncExitStack() as stack:
            if self._forwarder is not None:
                await stack.enter_async_context(self._forwarder)
            try:
                address = await stack.enter_async_context(listening(app, host, port, **_PLAIN))
            except OSError as exc:
                raise ConfigurationError(f"cannot listen on {host} port {port}: {exc.strerror}") from exc
            stack.enter_context(self.until_end(lambda: self._under_way > 0))
            url = f"{Address(host, address.port)}{path}"
            say(f"listening on {url}", url=url)
            while not self._done.is_set():
                live(f"{self.status}; Ctrl-C ends")
                await wait_for_event(self._done, _SHOW_EVERY)
            await self._idle.wait()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Respond to one request, as the receiver or the service does."""
        from aiohttp import web
        from multidict import CIMultiDict

        outcomes: list[Outcome] = []
        _OUTCOMES.set(outcomes)
        response = await self._receiver.aiohttp_handler(request)
        (outcome,) = outcomes
        unavailable = web.Response(status=503, headers={"Retry-After": "5"})
        if self._done.is_set():
            return unavailable
        self._under_way += 1
        self._idle.clear()
        forwarded: Forwarded | None = None
        try:
            if self._forwarder is not None and outcome.result == "handled" and outcome.delivery is not None:
                forwarded = await self._forwarder.post(request.headers, outcome.delivery.body)
                response = web.Response(
                    status=forwarded.status, body=forwarded.body or None, headers=CIMultiDict(forwarded.headers)
                )
            self._print(outcome, forwarded, response.status)
        except (OutputClosedError, OutputError) as exc:
            self.fail(exc)
            return unavailable
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()
        return response

    def _print(self, outcome: Outcome, forwarded: Forwarded | None, status: int) -> None:
        self._counts["accepted" if 200 <= status <= 299 else "refused"] += 1
        delivery = outcome.delivery
        result = "not-accepted" if forwarded is not None and not forwarded.accepted else str(outcome.result)
        row = {"result": result, "status": status, "reason": outcome.reason}
        row |= _DELIVERY.row(delivery) if delivery else dict.fromkeys(_DELIVERY.names)
        if forwarded is not None:
            row["forwarded_status"] = None if forwarded.error else forwarded.status
            row["forward_error"] = forwarded.error
        named = () if delivery is None else (delivery.event_type_id, delivery.id)
        self.show(row, RECEIVED, f"{status} {result}", outcome.reason, *named, forwarded and f"-> {forwarded.text}")
        live(f"{self.status}; Ctrl-C ends")


_OUTCOMES: ContextVar[list[Outcome]] = ContextVar("basiq_async_listen")
"""The outcome of the request that is handled now."""


def _make_receiver(secrets: Sequence[str], **options: Any) -> WebhookReceiver:
    """Return a receiver whose outcomes are kept for the one who handles the request."""
    from ..receiver import WebhookReceiver

    class Kept(WebhookReceiver):
        async def handle(self, *args: Any, **more: Any) -> Outcome:
            return _keep(await super().handle(*args, **more))

        async def handle_stream(self, *args: Any, **more: Any) -> Outcome:
            return _keep(await super().handle_stream(*args, **more))

    return Kept(secrets, **options)


def _keep(outcome: Outcome) -> Outcome:
    _OUTCOMES.get().append(outcome)
    return outcome


_PLAIN: Mapping[str, Any] = {"auto_decompress": False, "lingering_time": 0.0}
"""The options of the server: nothing is decompressed, and the rest of a body that was refused is not read."""


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
