"""``check_transport`` passes what keeps the protocol's promises, and each of its checks fails for what does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import aiohttp
import attrs
import pytest
import yarl

from basiq_async import AiohttpTransport, InMemoryTransport, Request, RequestTimeoutError, Response
from basiq_async.errors import ConnectionFailedError
from basiq_async.testing import BrokenPromisesError, FakeBasiq, check_transport
from basiq_async.testing._promises import hold, keep


async def test_the_transport_over_aiohttp_keeps_every_promise() -> None:
    await check_transport(AiohttpTransport, make_impatient=lambda: AiohttpTransport(timeout=0.05))


async def test_the_transport_in_memory_keeps_every_promise() -> None:
    await check_transport(
        InMemoryTransport, in_process=True, make_impatient=lambda fake: InMemoryTransport(fake, timeout=0.01)
    )


async def test_a_transport_may_be_made_by_a_coroutine() -> None:
    async def make(fake: FakeBasiq) -> InMemoryTransport:
        return InMemoryTransport(fake)

    await check_transport(make, in_process=True)


class Around:
    """A good transport in memory, which a subclass spoils."""

    def __init__(self, fake: FakeBasiq) -> None:
        self.inner = InMemoryTransport(fake)

    async def send(self, request: Request, /) -> Response:
        return await self.inner.send(request)

    async def aclose(self) -> None:
        await self.inner.aclose()


class RaisesOnStatus(Around):
    async def send(self, request: Request, /) -> Response:
        answer = await super().send(request)
        if answer.status >= 400:
            raise ConnectionFailedError("an error", method="GET", path="/")
        return answer


class ChangesStatus(Around):
    async def send(self, request: Request, /) -> Response:
        answer = await super().send(request)
        return attrs.evolve(answer, status=200) if answer.status == 201 else answer


class FollowsRedirects(Around):
    async def send(self, request: Request, /) -> Response:
        answer = await super().send(request)
        if "location" in answer.headers:
            return await super().send(attrs.evolve(request, url=answer.headers["location"]))
        return answer


class LosesLocation(Around):
    async def send(self, request: Request, /) -> Response:
        answer = await super().send(request)
        return attrs.evolve(answer, headers={}) if 300 <= answer.status < 400 else answer


class DecodesUrl(Around):
    async def send(self, request: Request, /) -> Response:
        return await super().send(attrs.evolve(request, url=unquote(request.url)))


class ChangesMethod(Around):
    async def send(self, request: Request, /) -> Response:
        return await super().send(attrs.evolve(request, method="GET"))


class LosesHeaders(Around):
    async def send(self, request: Request, /) -> Response:
        return await super().send(attrs.evolve(request, headers={}))


class LosesBody(Around):
    async def send(self, request: Request, /) -> Response:
        return await super().send(attrs.evolve(request, body=None))


class RecodesAnswer(Around):
    async def send(self, request: Request, /) -> Response:
        answer = await super().send(request)
        return attrs.evolve(answer, body=answer.body.decode(errors="replace").encode())


class LosesAnswerHeaders(Around):
    async def send(self, request: Request, /) -> Response:
        answer = await super().send(request)
        return attrs.evolve(answer, headers={k: v for k, v in answer.headers.items() if k != "x-check"})


class KeepsCookies(Around):
    cookie = ""

    async def send(self, request: Request, /) -> Response:
        headers = {**request.headers, **({"cookie": self.cookie} if self.cookie else {})}
        answer = await super().send(attrs.evolve(request, headers=headers))
        self.cookie = answer.headers.get("set-cookie", self.cookie)
        return answer


class MixesAnswers(Around):
    latest: Response | None = None

    async def send(self, request: Request, /) -> Response:
        self.latest = await super().send(request)
        await asyncio.sleep(0.002)
        return self.latest


class AnswersDropped(Around):
    async def send(self, request: Request, /) -> Response:
        try:
            return await super().send(request)
        except ConnectionFailedError:
            return Response(502)


class LeaksForeignErrors(Around):
    async def send(self, request: Request, /) -> Response:
        try:
            return await super().send(request)
        except ConnectionFailedError as error:
            raise OSError("raw") from error


class SaysUnsent(Around):
    async def send(self, request: Request, /) -> Response:
        try:
            return await super().send(request)
        except ConnectionFailedError as error:
            raise ConnectionFailedError("dropped", method="POST", path="/", sent=False) from error


class SwallowsCancellation(Around):
    async def send(self, request: Request, /) -> Response:
        try:
            return await super().send(request)
        except asyncio.CancelledError:
            return Response(200)


class LeavesTasks(Around):
    def __init__(self, fake: FakeBasiq) -> None:
        self.inner = InMemoryTransport(fake)
        self.left: list[asyncio.Task[Any]] = []

    async def send(self, request: Request, /) -> Response:
        self.left.append(asyncio.create_task(self.inner.send(request)))
        return await asyncio.shield(self.left[-1])

    async def aclose(self) -> None:
        for task in self.left:
            task.cancel()
        await super().aclose()


class BrokenAfterCancel(Around):
    cancelled = False

    async def send(self, request: Request, /) -> Response:
        try:
            answer = await super().send(request)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return attrs.evolve(answer, body=b"stale") if self.cancelled else answer


class ClosesOnce(Around):
    closed = False

    async def aclose(self) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True


class NeverCloses(Around):
    async def aclose(self) -> None:
        pass


class GivesNoResponse(Around):
    async def send(self, request: Request, /) -> Response:
        await super().send(request)
        return "text"  # type: ignore[return-value]


class WaitsForEver(Around):
    pass


class SendsNothing(Around):
    async def send(self, request: Request, /) -> Response:
        await asyncio.sleep(60)
        return Response(200)


BROKEN: list[tuple[Callable[..., Any], str, str]] = [
    (RaisesOnStatus, "every HTTP status is a Response", "400 raised ConnectionFailedError"),
    (ChangesStatus, "every HTTP status is a Response", "201 came back as 200"),
    (FollowsRedirects, "redirects are not followed", "another request was sent"),
    (LosesLocation, "redirects are not followed", "the location header is gone"),
    (DecodesUrl, "the URL is sent byte for byte", "was sent as"),
    (ChangesMethod, "method, headers and body are sent as they are", "POST was sent as GET"),
    (LosesHeaders, "method, headers and body are sent as they are", "the header content-type"),
    (LosesBody, "method, headers and body are sent as they are", "a body of 256 bytes was changed"),
    (RecodesAnswer, "the answer's headers and body come back as they are", "a body of 256 bytes"),
    (LosesAnswerHeaders, "the answer's headers and body come back as they are", "a header did not come back"),
    (KeepsCookies, "no cookie is kept", "was sent with the second"),
    (MixesAnswers, "many sends at once each get their own answer", "got the answer of another"),
    (AnswersDropped, "a dropped connection is a ConnectionFailedError", "it gave an answer of status 502"),
    (LeaksForeignErrors, "a dropped connection is a ConnectionFailedError", "it raised OSError"),
    (SaysUnsent, "a dropped connection is a ConnectionFailedError", "sent is False"),
    (SwallowsCancellation, "a send can be cancelled, and the transport is usable after", "did not raise"),
    (LeavesTasks, "a send can be cancelled, and the transport is usable after", "left 1 tasks behind"),
    (BrokenAfterCancel, "a send can be cancelled, and the transport is usable after", "a wrong answer"),
    (ClosesOnce, "aclose may be called twice", "RuntimeError"),
    (NeverCloses, "a send after aclose is a ConnectionFailedError", "it gave an answer of status 404"),
    (GivesNoResponse, "send and aclose are all it needs", "no Response"),
    (WaitsForEver, "an answer that does not come is a RequestTimeoutError", "nothing happened for 0.05 s"),
]


@pytest.mark.parametrize(("make", "promise", "what"), BROKEN, ids=[make.__name__ for make, _, _ in BROKEN])
async def test_a_broken_transport_is_told_which_promise_it_breaks(
    make: Callable[..., Any], promise: str, what: str
) -> None:
    with pytest.raises(BrokenPromisesError) as caught:
        if make is WaitsForEver:
            await check_transport(make, in_process=True, make_impatient=make, seconds=0.05)
        await check_transport(make, in_process=True)
    assert what in caught.value.broken[promise]
    assert make.__name__ in str(caught.value)


async def test_a_transport_that_lacks_a_method_is_told() -> None:
    class Half:
        def __init__(self, fake: FakeBasiq) -> None:
            pass

        async def aclose(self) -> None:
            pass

    with pytest.raises(BrokenPromisesError, match="Half lacks send or aclose"):
        await check_transport(Half, in_process=True)  # type: ignore[arg-type]


class Raw:
    """A transport over aiohttp that translates nothing and undoes nothing."""

    def __init__(self) -> None:
        self.session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)

    async def send(self, request: Request, /) -> Response:
        async with self.session.request(
            request.method,
            yarl.URL(request.url, encoded=True),
            headers=dict(request.headers),
            data=request.body,
            allow_redirects=False,
        ) as answer:
            return Response(answer.status, dict(answer.headers), await answer.read())

    async def aclose(self) -> None:
        await self.session.close()


async def test_a_transport_over_a_network_is_told_what_only_a_network_shows() -> None:
    with pytest.raises(BrokenPromisesError) as caught:
        await check_transport(Raw)
    assert set(caught.value.broken) == {
        "a dropped connection is a ConnectionFailedError",
        "a send after aclose is a ConnectionFailedError",
        "a refused connection is a ConnectionFailedError with sent=False",
        "a body that breaks off is a ConnectionFailedError",
        "an answer that is not HTTP is a TransportError",
        "the body comes decompressed",
        "a header that comes twice has its values joined",
    }


async def test_a_transport_that_says_a_refused_connection_was_sent_is_told() -> None:
    class Unsure(AiohttpTransport):
        async def send(self, request: Request, /) -> Response:
            try:
                return await super().send(request)
            except ConnectionFailedError as error:
                raise ConnectionFailedError("failed", method="GET", path="/") from error

    with pytest.raises(BrokenPromisesError) as caught:
        await check_transport(Unsure)
    assert list(caught.value.broken) == ["a refused connection is a ConnectionFailedError with sent=False"]


async def test_a_request_that_is_never_sent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from basiq_async.testing.transport_suite import _Stage

    fake = FakeBasiq()
    transport = SendsNothing(fake)

    async def at_once(seconds: float) -> None:
        pass

    stage = _Stage(transport, fake, "https://au-api.basiq.io")
    monkeypatch.setattr("basiq_async.testing.transport_suite.asyncio.sleep", at_once)
    with pytest.raises(AssertionError, match="the request was not sent"):
        await stage.until_seen("/slow")


async def test_each_promise_is_tried_whatever_became_of_the_others() -> None:
    async def fails() -> None:
        hold(False, "it did not")

    async def is_silent() -> None:
        assert not "something"

    async def times_out() -> None:
        raise RequestTimeoutError("too slow", method="GET", path="/")

    async def raises() -> None:
        raise KeyError("k")

    async def hangs() -> None:
        await asyncio.Event().wait()

    async def passes() -> None:
        hold(True, "never")

    promises = {f.__name__: f for f in (fails, is_silent, times_out, raises, hangs, passes)}
    with pytest.raises(BrokenPromisesError, match="it breaks 5 of its promises") as caught:
        await keep("it", promises, seconds=0.01)
    assert list(caught.value.broken) == ["fails", "is_silent", "times_out", "raises", "hangs"]
    assert caught.value.broken["hangs"] == "nothing happened for 0.01 s"


def test_names_that_are_not_exported_are_no_attributes() -> None:
    import basiq_async.testing as testing

    assert set(testing.__all__) <= set(dir(testing))
    for name in testing.__all__:
        assert getattr(testing, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = testing.nothing
