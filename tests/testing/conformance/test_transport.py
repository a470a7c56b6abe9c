"""The conformance suite for transports: it passes the good, and each of its promises can be broken."""

from __future__ import annotations

import asyncio
import inspect
import runpy
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import attrs
import pytest

from basiq_async import (
    AiohttpTransport,
    ConnectionFailedError,
    InMemoryTransport,
    Request,
    RequestTimeoutError,
    Response,
    TransportError,
)
from basiq_async.testing import BrokenPromisesError, FakeBasiq, check_transport
from basiq_async.testing.conformance import _transport  # private: all promises of each broken one take a minute
from basiq_async.testing.conformance._runner import keep, promises_of  # private: promises that no suite of ours has
from tests.support.environment import EXAMPLES

EXAMPLE = EXAMPLES / "httpx_transport.py"


async def test_a_transport_on_httpx_in_under_60_lines_keeps_every_promise() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 60
    make = runpy.run_path(str(EXAMPLE))["HttpxTransport"]
    await check_transport(make, make_impatient=lambda: make(timeout=0.05))


async def test_a_transport_can_be_made_by_a_coroutine() -> None:
    async def make() -> AiohttpTransport:
        return AiohttpTransport()

    await check_transport(make)


class Broken:
    """A good transport, and what it does in place of ``send``. It gets what is right, and the request."""

    def __init__(self, do: Callable[..., Awaitable[Any]], inner: Any = None) -> None:
        self.inner = inner or AiohttpTransport()
        self.do = do
        self.seen: list[Any] = []

    async def send(self, request: Request, /) -> Any:
        return await self.do(self, request)

    async def aclose(self) -> None:
        await self.inner.aclose()


Do = Callable[[Broken, Request], Awaitable[Any]]


def sends(edit: Callable[[Request], Request]) -> Do:
    """Send another request."""

    async def do(broken: Broken, request: Request) -> Response:
        return await broken.inner.send(edit(request))

    return do


def returns(edit: Callable[[Response], Any]) -> Do:
    """Return another response."""

    async def do(broken: Broken, request: Request) -> Any:
        return edit(await broken.inner.send(request))

    return do


def instead_of(kind: type[BaseException], answer: Callable[[Any], Response | BaseException]) -> Do:
    """Return or raise something in place of an error."""

    async def do(broken: Broken, request: Request) -> Response:
        try:
            return await broken.inner.send(request)
        except kind as error:
            found = answer(error)
            if isinstance(found, BaseException):
                raise found from None
            return found

    return do


def raise_for_status(response: Response) -> Response:
    if response.status >= 400:
        raise ConnectionFailedError("an error status")
    return response


def follow(status: int) -> Do:
    async def do(broken: Broken, request: Request) -> Response:
        response = await broken.inner.send(request)
        if response.status == status and "location" in response.headers:
            return await broken.inner.send(Request("GET", response.headers["location"]))
        return response

    return do


async def keep_cookies(broken: Broken, request: Request) -> Response:
    headers = {**request.headers, **({"cookie": broken.seen[-1]} if broken.seen else {})}
    response = await broken.inner.send(attrs.evolve(request, headers=headers))
    broken.seen += [response.headers[name] for name in response.headers if name == "set-cookie"]
    return response


async def return_the_latest(broken: Broken, request: Request) -> Response:
    broken.seen.append(await broken.inner.send(request))
    await asyncio.sleep(0.005)
    return broken.seen[-1]


def said(error: ConnectionFailedError, sent: bool) -> ConnectionFailedError:
    error.sent = sent
    return error


async def leave_tasks(broken: Broken, request: Request) -> Response:
    broken.seen.append(asyncio.create_task(broken.inner.send(request), name="left behind"))
    return await asyncio.shield(broken.seen[-1])


def break_after(kind: type[BaseException], times: int = 1) -> Do:
    """Respond wrongly to each send without a deadline once so many have failed."""

    async def do(broken: Broken, request: Request) -> Response:
        if len(broken.seen) >= times and request.deadline is None:
            return Response(500)
        try:
            return await broken.inner.send(request)
        except kind as error:
            broken.seen.append(error)
            raise

    return do


async def send_after_closing(broken: Broken, request: Request) -> Response:
    broken.inner._closed = False
    if broken.inner._session is not None and broken.inner._session.closed:
        broken.inner._session = None
    return await broken.inner.send(request)


async def send_after_closing_and_fail(broken: Broken, request: Request) -> Response:
    closed = broken.inner._closed
    response = await send_after_closing(broken, request)
    if closed:
        raise ConnectionFailedError("closed")
    return response


async def send_late(broken: Broken, request: Request) -> Response:
    try:
        return await broken.inner.send(request)
    except RequestTimeoutError as error:
        if not error.sent:
            await broken.inner.send(attrs.evolve(request, deadline=None))
        raise


class ClosesOnce(AiohttpTransport):
    async def aclose(self) -> None:
        if self._closed and self._session is not None:  # it was used
            raise RuntimeError("closed already")
        await super().aclose()


def text(body: bytes | None) -> bytes | None:
    return None if body is None else body.decode(errors="replace").encode()


def take_the_last(response: Response) -> Response:
    headers = {name: value.rpartition(", ")[2] for name, value in response.headers.items()}
    return attrs.evolve(response, headers=headers)


def still_packed(response: Response) -> Response:
    packed = response.headers.get("content-encoding") == "gzip"
    return attrs.evolve(response, body=b"\x1f\x8b" + response.body) if packed else response


decode_urls = sends(lambda it: attrs.evolve(it, url=it.url.replace("%27", "'")))
let_foreign_errors_out = instead_of(TransportError, lambda _: OSError("foreign"))
ignore_deadlines = sends(lambda it: attrs.evolve(it, deadline=None))
STATUS = "every HTTP status is a Response"
DROPPED = "a dropped connection is a ConnectionFailedError"
UNCHANGED = "method, headers and body are sent unchanged"
CANCELLED = "a send can be cancelled, and the transport is usable after"
DEADLINE = "a send ends at its deadline, and none is sent after it"
FAULTS: Sequence[tuple[str, Do | Callable[[], AiohttpTransport]]] = [
    ("send and aclose are all it needs", returns(lambda it: it.status)),
    (STATUS, returns(raise_for_status)),
    (STATUS, returns(lambda it: attrs.evolve(it, status=200) if it.status == 201 else it)),
    (STATUS, returns(lambda it: attrs.evolve(it, status=500) if it.status == 599 else it)),
    *(("redirects are not followed", follow(status)) for status in (301, 302, 303, 307, 308)),
    ("the URL is sent byte for byte", decode_urls),
    (UNCHANGED, sends(lambda it: attrs.evolve(it, method=it.method.replace("DELETE", "POST")))),
    (UNCHANGED, sends(lambda it: attrs.evolve(it, headers={}))),
    (UNCHANGED, sends(lambda it: attrs.evolve(it, body=text(it.body)))),
    (
        "the response's headers and body are returned unchanged",
        returns(lambda it: attrs.evolve(it, body=text(it.body))),
    ),
    (
        "the response's headers and body are returned unchanged",
        returns(lambda it: attrs.evolve(it, headers={name.title(): value for name, value in it.headers.items()})),
    ),
    ("no cookie is kept", keep_cookies),
    ("concurrent sends each get the right response", return_the_latest),
    (DROPPED, let_foreign_errors_out),
    (DROPPED, instead_of(ConnectionFailedError, lambda error: said(error, False))),
    (DROPPED, instead_of(TransportError, lambda _: Response(503))),
    ("a body that breaks off is a ConnectionFailedError", let_foreign_errors_out),
    ("a response that is not HTTP is a TransportError", let_foreign_errors_out),
    (
        "a refused connection is a ConnectionFailedError with sent=False",
        instead_of(ConnectionFailedError, lambda error: said(error, True)),
    ),
    (CANCELLED, instead_of(asyncio.CancelledError, lambda _: Response(499))),
    (CANCELLED, leave_tasks),
    (CANCELLED, break_after(asyncio.CancelledError)),
    (DROPPED, break_after(ConnectionFailedError, 2)),
    (DEADLINE, break_after(RequestTimeoutError)),
    ("aclose may be called twice", ClosesOnce),
    ("a send after aclose is a ConnectionFailedError", send_after_closing),
    ("a send after aclose is a ConnectionFailedError", send_after_closing_and_fail),
    ("a compressed body is returned decompressed", returns(still_packed)),
    ("the values of a repeated header are joined", returns(take_the_last)),
    (DEADLINE, ignore_deadlines),
    (DEADLINE, send_late),
    ("a body that drips ends at the deadline", ignore_deadlines),
    ("a body that inflates beyond a limit is a TransportError", partial(AiohttpTransport, max_body_size=2**40)),
]


@pytest.mark.parametrize(("promise", "fault"), FAULTS)
async def test_a_broken_transport_is_told_which_promise_it_breaks(
    monkeypatch: pytest.MonkeyPatch, promise: str, fault: Any
) -> None:
    async def keep_this(subject: str, checks: Any, *, seconds: float) -> None:
        await keep(subject, {promise: checks[promise]}, seconds=seconds)

    monkeypatch.setattr(_transport, "keep", keep_this)
    with pytest.raises(BrokenPromisesError) as caught:
        await check_transport(partial(Broken, fault) if inspect.iscoroutinefunction(fault) else fault, seconds=5)
    assert set(caught.value.broken) == {promise}


def test_every_promise_is_broken_by_some_of_these() -> None:
    promises = {*promises_of(_transport.TransportPromises), *promises_of(_transport.NetworkPromises)}
    assert {promise for promise, _ in FAULTS} == promises


def test_each_promise_is_checked_where_python_keeps_no_docstrings() -> None:
    class Promises:
        async def first(self) -> None: ...

        async def second(self) -> None: ...

    assert list(promises_of(Promises)) == ["first", "second"]


async def test_each_break_is_told_by_itself() -> None:
    def make() -> Broken:
        return Broken(decode_urls)

    with pytest.raises(BrokenPromisesError) as caught:
        await check_transport(make, seconds=5)
    assert str(caught.value).startswith("make breaks 1 of its promises:\n- the URL is sent byte for byte: ")


async def test_a_transport_whose_timeout_is_another_error_is_reported() -> None:
    late = instead_of(RequestTimeoutError, lambda _: ConnectionFailedError("it took too long"))
    with pytest.raises(BrokenPromisesError) as caught:
        await check_transport(AiohttpTransport, make_impatient=lambda: Broken(late, AiohttpTransport(timeout=0.05)))
    assert list(caught.value.broken) == ["a missing response is a RequestTimeoutError"]


async def test_a_transport_that_hangs_is_told_in_bounded_time() -> None:
    async def hang(*_: object) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(BrokenPromisesError, match="nothing happened for"):
        await check_transport(lambda: Broken(hang), seconds=0.02)


async def test_a_transport_that_sends_nothing_is_reported() -> None:
    async def make_up(*_: object) -> Response:
        return Response(200)

    with pytest.raises(BrokenPromisesError) as caught:
        await check_transport(lambda: Broken(make_up), seconds=1)
    assert caught.value.broken["the URL is sent byte for byte"] == "no request arrived"
    assert caught.value.broken["no cookie is kept"] == "no request arrived"


async def test_a_broken_transport_in_this_process_is_told_too() -> None:
    def make(fake: FakeBasiq) -> Broken:
        return Broken(returns(raise_for_status), InMemoryTransport(fake))

    with pytest.raises(BrokenPromisesError, match="every HTTP status is a Response: 400 raised ConnectionFailedError"):
        await check_transport(make, in_process=True)


async def test_a_promise_without_words_is_still_named() -> None:
    async def silent() -> None:
        raise AssertionError

    async def late() -> None:
        raise TimeoutError("too late")

    with pytest.raises(BrokenPromisesError) as caught:
        await keep("it", {"one": silent, "two": late}, seconds=1)
    assert caught.value.broken == {"one": "an assertion failed", "two": "too late"}
