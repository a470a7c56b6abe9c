"""The conformance suite for transports: it passes the good, and each of its promises can be broken."""

from __future__ import annotations

import asyncio
import importlib.util
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
from basiq_async.testing.conformance._runner import keep  # private: promises that no suite of ours has
from tests.support.environment import EXAMPLES

EXAMPLE = EXAMPLES / "httpx_transport.py"


def httpx_transport() -> Any:
    spec = importlib.util.spec_from_file_location("httpx_transport", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.HttpxTransport


async def test_a_transport_on_httpx_in_under_60_lines_keeps_every_promise() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 60
    make = httpx_transport()
    await check_transport(make, make_impatient=lambda: make(timeout=0.05))


async def test_a_transport_can_be_made_by_a_coroutine() -> None:
    async def make() -> AiohttpTransport:
        return AiohttpTransport()

    await check_transport(make)


class Wrapped:
    """A good transport, to be broken in one way by what is made of it."""

    def __init__(self, inner: Any = None) -> None:
        self.inner = inner or AiohttpTransport()

    async def send(self, request: Request, /) -> Response:
        return await self.inner.send(request)

    async def aclose(self) -> None:
        await self.inner.aclose()


class RaisesForStatus(Wrapped):
    async def send(self, request: Request, /) -> Response:
        response = await super().send(request)
        if response.status >= 400:
            raise ConnectionFailedError("an error status")
        return response


class ChangesStatus(Wrapped):
    async def send(self, request: Request, /) -> Response:
        response = await super().send(request)
        return attrs.evolve(response, status=200) if response.status == 201 else response


class FollowsRedirects(Wrapped):
    async def send(self, request: Request, /) -> Response:
        response = await super().send(request)
        if response.status in (301, 302, 303, 307, 308) and "location" in response.headers:
            return await super().send(Request("GET", response.headers["location"]))
        return response


class DecodesUrls(Wrapped):
    async def send(self, request: Request, /) -> Response:
        return await super().send(attrs.evolve(request, url=request.url.replace("%27", "'")))


class SwapsMethods(Wrapped):
    async def send(self, request: Request, /) -> Response:
        return await super().send(
            attrs.evolve(request, method="POST" if request.method == "DELETE" else request.method)
        )


class DropsHeaders(Wrapped):
    async def send(self, request: Request, /) -> Response:
        return await super().send(attrs.evolve(request, headers={}))


class DecodesBodies(Wrapped):
    async def send(self, request: Request, /) -> Response:
        response = await super().send(request)
        return attrs.evolve(response, body=response.body.decode(errors="replace").encode())


class SendsTextBodies(Wrapped):
    async def send(self, request: Request, /) -> Response:
        body = None if request.body is None else request.body.decode(errors="replace").encode()
        return await super().send(attrs.evolve(request, body=body))


class KeepsCookies(Wrapped):
    cookie = ""

    async def send(self, request: Request, /) -> Response:
        headers = {**request.headers, **({"cookie": self.cookie} if self.cookie else {})}
        response = await super().send(attrs.evolve(request, headers=headers))
        self.cookie = response.headers.get("set-cookie", self.cookie)
        return response


class MixesResponsesUp(Wrapped):
    """Returns the latest response to every caller that waits."""

    latest: Response | None = None

    async def send(self, request: Request, /) -> Response:
        self.latest = await super().send(request)
        await asyncio.sleep(0.005)
        return self.latest


class LetsForeignErrorsOut(Wrapped):
    async def send(self, request: Request, /) -> Response:
        try:
            return await super().send(request)
        except TransportError as error:
            raise OSError("a foreign error") from error


class SaysNothingWasSent(Wrapped):
    async def send(self, request: Request, /) -> Response:
        try:
            return await super().send(request)
        except ConnectionFailedError as error:
            error.sent = False
            raise


class SaysAllWasSent(Wrapped):
    async def send(self, request: Request, /) -> Response:
        try:
            return await super().send(request)
        except ConnectionFailedError as error:
            error.sent = True
            raise


class AnswersWhatWasDropped(Wrapped):
    async def send(self, request: Request, /) -> Response:
        try:
            return await super().send(request)
        except TransportError:
            return Response(503)


class SwallowsCancellation(Wrapped):
    async def send(self, request: Request, /) -> Response:
        try:
            return await super().send(request)
        except asyncio.CancelledError:
            return Response(499)


class LeavesTasksBehind(Wrapped):
    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[asyncio.Task[Response]] = []

    async def send(self, request: Request, /) -> Response:
        self.tasks.append(asyncio.create_task(super().send(request), name="left behind"))
        return await asyncio.shield(self.tasks[-1])

    async def aclose(self) -> None:
        await super().aclose()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class BreaksWhenCancelled(Wrapped):
    broken = False

    async def send(self, request: Request, /) -> Response:
        if self.broken:
            return Response(500)
        try:
            return await super().send(request)
        except asyncio.CancelledError:
            self.broken = True
            raise


class ClosesOnce(Wrapped):
    closed = False

    async def aclose(self) -> None:
        await super().aclose()
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True


class SendsAfterClosing(Wrapped):
    async def send(self, request: Request, /) -> Response:
        self.inner._closed = False
        if self.inner._session is not None and self.inner._session.closed:
            self.inner._session = None
        return await super().send(request)


class LeavesCompression(Wrapped):
    async def send(self, request: Request, /) -> Response:
        response = await super().send(request)
        packed = response.headers.get("content-encoding") == "gzip"
        return attrs.evolve(response, body=b"\x1f\x8b" + response.body) if packed else response


class TakesTheLastHeader(Wrapped):
    async def send(self, request: Request, /) -> Response:
        response = await super().send(request)
        return attrs.evolve(response, headers={k: v.rpartition(", ")[2] for k, v in response.headers.items()})


class IsNeverImpatient(Wrapped):
    async def send(self, request: Request, /) -> Response:
        try:
            return await super().send(request)
        except RequestTimeoutError as error:
            raise ConnectionFailedError("it took too long") from error


class IgnoresDeadlines(Wrapped):
    async def send(self, request: Request, /) -> Response:
        return await super().send(attrs.evolve(request, deadline=None))


class SendsLate(Wrapped):
    async def send(self, request: Request, /) -> Response:
        try:
            return await super().send(request)
        except RequestTimeoutError as error:
            if not error.sent:
                await super().send(attrs.evolve(request, deadline=None))
            raise


class Inflates(Wrapped):
    def __init__(self) -> None:
        super().__init__(AiohttpTransport(max_body_size=2**40))


class GivesNoResponse(Wrapped):
    async def send(self, request: Request, /) -> Any:
        return (await super().send(request)).status


DROPPED = "a dropped connection is a ConnectionFailedError"
UNCHANGED = "method, headers and body are sent unchanged"
CANCELLED = "a send can be cancelled, and the transport is usable after"
DEADLINE = "a send ends at its deadline, and none is sent after it"
BROKEN: dict[type[Wrapped], set[str]] = {
    RaisesForStatus: {"every HTTP status is a Response"},
    ChangesStatus: {"every HTTP status is a Response"},
    FollowsRedirects: {"redirects are not followed"},
    DecodesUrls: {"the URL is sent byte for byte"},
    SwapsMethods: {UNCHANGED},
    DropsHeaders: {UNCHANGED},
    SendsTextBodies: {UNCHANGED},
    DecodesBodies: {"the response's headers and body are returned unchanged"},
    KeepsCookies: {"no cookie is kept"},
    MixesResponsesUp: {"concurrent sends each get the right response"},
    LetsForeignErrorsOut: {
        DROPPED, "a body that breaks off is a ConnectionFailedError", "a response that is not HTTP is a TransportError",
    },
    SaysNothingWasSent: {DROPPED},
    AnswersWhatWasDropped: {DROPPED},
    SaysAllWasSent: {"a refused connection is a ConnectionFailedError with sent=False"},
    SwallowsCancellation: {CANCELLED},
    LeavesTasksBehind: {CANCELLED},
    BreaksWhenCancelled: {CANCELLED},
    ClosesOnce: {"aclose may be called twice"},
    SendsAfterClosing: {"a send after aclose is a ConnectionFailedError"},
    LeavesCompression: {"a compressed body is returned decompressed"},
    TakesTheLastHeader: {"the values of a repeated header are joined"},
    IgnoresDeadlines: {DEADLINE, "a body that drips ends at the deadline"},
    SendsLate: {DEADLINE},
    Inflates: {"a body that inflates beyond a limit is a TransportError"},
    GivesNoResponse: {"send and aclose are all it needs"},
}  # fmt: skip


@pytest.mark.parametrize(("broken", "promises"), BROKEN.items(), ids=lambda each: getattr(each, "__name__", ""))
async def test_a_broken_transport_is_told_which_promise_it_breaks(broken: type[Wrapped], promises: set[str]) -> None:
    with pytest.raises(BrokenPromisesError) as caught:
        await check_transport(broken, seconds=5)
    assert promises <= set(caught.value.broken)
    assert all(f"- {promise}: " in str(caught.value) for promise in promises)
    assert str(caught.value).startswith(f"{broken.__name__} breaks ")
    if broken is DecodesUrls:
        assert set(caught.value.broken) == promises, "each break is told by itself"


async def test_a_transport_whose_timeout_is_another_error_is_told() -> None:
    with pytest.raises(BrokenPromisesError) as caught:
        await check_transport(AiohttpTransport, make_impatient=lambda: IsNeverImpatient(AiohttpTransport(timeout=0.05)))
    assert list(caught.value.broken) == ["a missing response is a RequestTimeoutError"]


async def test_a_transport_that_hangs_is_told_in_bounded_time() -> None:
    class Hangs(Wrapped):
        async def send(self, request: Request, /) -> Response:
            await asyncio.Event().wait()
            raise AssertionError

    with pytest.raises(BrokenPromisesError, match="nothing happened for"):
        await check_transport(Hangs, seconds=0.02)


async def test_a_transport_that_sends_nothing_is_told() -> None:
    class MakesAnswersUp(Wrapped):
        async def send(self, request: Request, /) -> Response:
            return Response(200)

    with pytest.raises(BrokenPromisesError) as caught:
        await check_transport(MakesAnswersUp, seconds=1)
    assert caught.value.broken["the URL is sent byte for byte"] == "no request arrived"
    assert caught.value.broken["no cookie is kept"] == "no request arrived"


async def test_a_broken_transport_in_this_process_is_told_too() -> None:
    def make(fake: FakeBasiq) -> Wrapped:
        return RaisesForStatus(InMemoryTransport(fake))

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
