"""Nothing that a test and its handlers do waits for ever: where no task can go on, an error says who waits for what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basiq_async import (
    BasiqClient,
    BasiqError,
    InMemoryTransport,
    RequestTimeoutError,
    ServerError,
)
from basiq_async.errors import ConfigurationError
from basiq_async.receiver import Delivery, WebhookReceiver
from basiq_async.testing import Emission, FakeBasiq, serve
from tests.support import virtual
from tests.support.real_time import PATIENCE

from ..conftest import ENDPOINT, handling


async def test_handlers_that_call_the_client_while_basiq_fails_wait_side_by_side() -> None:
    fake, failed = FakeBasiq(), list[str]()
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        receiver = WebhookReceiver(fake.secret(fake.add_webhook(ENDPOINT)))

        @receiver.on("*")
        async def handle(delivery: Delivery) -> None:
            try:
                await basiq.events.fetch(delivery)
            except ServerError:
                failed.append(delivery.event_id)
                raise

        fake.route(ENDPOINT, receiver)
        fake.fail_next(1_000, status=503, path="/events/*")
        emitted = [fake.emit("user.created") for _ in range(20)]
        async with asyncio.timeout(PATIENCE):
            await fake.advance(hours=4)
    assert sorted(failed) == sorted([each.event_id for each in emitted] * 5)
    assert sorted(each.number for each in fake.deliveries) == sorted([1, 2, 3, 4, 5] * 20)
    assert max(each.duration for each in fake.deliveries) < 30, "the waits of several handlers were added up"
    fake.assert_no_misuses()


@virtual.clocked
async def test_a_handler_that_waits_for_a_token_that_another_one_requests_gets_it() -> None:
    fake = FakeBasiq()
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        handling(fake, lambda *_: basiq.event_types.get("user.created"))
        fake.fail_next(3, status=503, path="/token")
        for _ in range(3):
            fake.emit("user.created")
        await fake.advance(minutes=1)
    assert [each.ok for each in fake.deliveries] == [True] * 3


@virtual.clocked
async def test_a_handler_that_waits_for_a_later_delivery_gets_it() -> None:
    fake, second = FakeBasiq(), asyncio.Event()

    async def wait(headers: dict[str, str], body: bytes) -> None:
        if b"user.updated" in body:
            second.set()
        await second.wait()

    handling(fake, wait)
    fake.emit("user.created")
    fake.emit("user.updated")
    await fake.deliver()
    assert [each.ok for each in fake.deliveries] == [True, True]


@virtual.clocked
async def test_a_handler_that_is_busy_with_something_else_is_waited_for_and_no_time_passes_meanwhile() -> None:
    fake, emitted = FakeBasiq(), list[Emission]()

    async def work(headers: dict[str, str], body: bytes) -> None:
        if headers["webhook-id"] == emitted[0].message_ids[0]:
            await asyncio.sleep(5)  # by the event loop's clock, as a request to another server takes
        else:
            await emitted[0]

    handling(fake, work)
    for count in (1, 2):
        emitted[:] = [fake.emit("user.created") for _ in range(count)]
        await (fake.advance(hours=1) if count == 1 else fake.deliver())
    assert [(each.ok, each.duration) for each in fake.deliveries] == [(True, 0)] * 3


@pytest.mark.parametrize("served", [False, True])
async def test_a_handler_that_waits_for_itself_is_named(served: bool) -> None:
    fake = FakeBasiq()
    emitted: list[Emission] = []

    async def wait(*_: object) -> None:
        await emitted[0]

    handling(fake, wait)
    with pytest.raises(ConfigurationError) as caught:
        async with asyncio.timeout(PATIENCE), serve(fake) if served else nullcontext():
            emitted.append(fake.emit("user.created"))
            await emitted[0]
    one = f"attempt 1 of message {emitted[0].message_ids[0]}"
    assert f"the handler of {one}, {ENDPOINT}, waits for {one}" in str(caught.value)


async def test_two_handlers_that_wait_for_each_other_are_both_named() -> None:
    fake = FakeBasiq()
    emitted: list[Emission] = []

    async def wait(headers: dict[str, str], body: bytes) -> None:
        await emitted[headers["webhook-id"] == emitted[0].message_ids[0]]

    handling(fake, wait)
    emitted += [fake.emit("user.created") for _ in range(2)]
    with pytest.raises(ConfigurationError, match="deadlock in the test") as caught:
        async with asyncio.timeout(PATIENCE):
            await fake.deliver()
    one, two = (f"attempt 1 of message {each.message_ids[0]}" for each in emitted)
    assert f"handler of {one}, {ENDPOINT}, waits for {two}" in str(caught.value)
    assert f"handler of {two}, {ENDPOINT}, waits for {one}" in str(caught.value)
    assert "the test waits for all deliveries that are due" in str(caught.value)


async def test_events_that_cause_events_without_end_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basiq_async.testing.fake._timeline.MOST_CAUSED", 100)
    fake = FakeBasiq()

    async def emit(*_: object) -> None:
        fake.emit("user.created")

    handling(fake, emit)
    fake.emit("user.created")
    with pytest.raises(ConfigurationError, match=r"emit more than 100 messages"):
        await fake.deliver()
    assert fake.count_messages() == 1 + 100


@virtual.clocked
async def test_a_limit_of_the_one_who_waits_is_none_of_the_handlers() -> None:
    fake = FakeBasiq(cool_off=30)
    transport = InMemoryTransport(fake)
    async with BasiqClient(fake.api_key, transport=transport) as basiq:
        handling(fake, lambda *_: basiq.event_types.get("user.created"))
        made = await basiq.webhooks.create(url="https://example.com/new", subscribed_events=["user.deleted"])
        fake.fail_next(delay=20, path="/events/types/*")
        fake.emit("user.created")
        with pytest.raises(RequestTimeoutError):
            await basiq.webhooks.wait_until_active(made.id, timeout=5)
        await fake.deliver()
    assert [(each.ok, each.duration) for each in fake.deliveries] == [(True, 20)]


class Bounded(virtual.VirtualLoop):
    """A virtual loop that fails where anything goes on without end."""

    turns = 0

    def _run_once(self) -> None:
        self.turns += 1
        if self.turns > 300_000:
            raise RuntimeError("the event loop does not come to rest")
        super()._run_once()


def routed(kind: str, handle: Callable[[bytes], Awaitable[int]]) -> Any:
    """A receiver of one of the three forms that a route accepts."""

    async def function(headers: dict[str, str], body: bytes) -> int:
        return await handle(body)

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        status = await handle((await receive())["body"])
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return {"function": function, "object": SimpleNamespace(handle=function), "asgi": asgi}[kind]


@attrs.frozen
class Story:
    """A fake, a client of it, and what was emitted so far."""

    fake: FakeBasiq
    basiq: BasiqClient
    emitted: list[Emission] = attrs.field(factory=list[Emission])

    async def emit(self, event_type_id: str, *, wait: bool = False) -> None:
        self.emitted.append(self.fake.emit(event_type_id))
        if wait:
            await self.emitted[-1]

    async def wait_for_all(self) -> None:
        for each in self.emitted:
            await each

    async def sleep(self) -> None:
        assert self.fake._waits is not None
        await self.fake._waits.sleep(40)

    async def fail(self) -> None:
        raise ValueError("a handler's mistake")

    async def call_while_time_passes(self) -> None:
        await self.emit("user.created")
        advancing, call = self.fake.advance(hours=1), self.basiq.event_types.get("user.created")
        await asyncio.gather(advancing, call, return_exceptions=True)


ROUTES = ("function", "object", "asgi")
ACTIONS: dict[str, Callable[[Story, str], Awaitable[object]]] = {
    "fetch": lambda story, event_id: story.basiq.events.get(event_id),
    "fetch in a task": lambda story, event_id: asyncio.create_task(story.basiq.events.get(event_id)),
    "emit": lambda story, _: story.emit("user.updated"),
    "emit and wait": lambda story, _: story.fake.emit("user.updated"),
    "wait for all": lambda story, _: story.wait_for_all(),
    "deliver": lambda story, _: story.fake.deliver(),
    "advance": lambda story, _: story.fake.advance(seconds=7),
    "sleep": lambda story, _: story.sleep(),
    "pause": lambda story, _: asyncio.sleep(0.5),
    "raise": lambda story, _: story.fail(),
}
"""What a handler may do."""
FAULTS: dict[str, Callable[[FakeBasiq, int], None]] = {
    "503": lambda fake, times: fake.fail_next(times, status=503, path="/events/*"),
    "delay": lambda fake, times: fake.fail_next(times, delay=50),
    "drop": lambda fake, times: fake.fail_next(times, drop="request"),
    "token": lambda fake, times: fake.fail_next(times, status=503, path="/token"),
    "outage": lambda fake, times: fake.endpoint_down(f"{ENDPOINT}/0"),
    "lost": lambda fake, times: fake.fail_deliveries(times, drop="response"),
}
STEPS: dict[str, Callable[[Story], Awaitable[object]]] = {
    "emit": lambda story: story.emit("user.created"),
    "emit and wait": lambda story: story.emit("user.created", wait=True),
    "deliver": lambda story: story.fake.deliver(),
    "advance": lambda story: story.fake.advance(hours=3),
    "next": lambda story: story.fake.advance_to_next(),
    "call": lambda story: story.basiq.event_types.get("user.created"),
    "together": lambda story: story.call_while_time_passes(),
}
"""What a test may do."""


@settings(max_examples=60, deadline=None)
@given(
    routes=st.lists(st.sampled_from(ROUTES), min_size=3, max_size=3),
    handlers=st.lists(st.lists(st.sampled_from(tuple(ACTIONS)), max_size=3), min_size=1, max_size=3),
    faults=st.lists(st.tuples(st.sampled_from(tuple(FAULTS)), st.integers(1, 6)), max_size=3),
    steps=st.lists(st.sampled_from(tuple(STEPS)), min_size=1, max_size=6),
)
def test_whatever_handlers_and_tests_do_it_comes_to_an_end(
    routes: list[str], handlers: list[list[str]], faults: list[tuple[str, int]], steps: list[str]
) -> None:
    async def main() -> None:
        fake = FakeBasiq()
        async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
            story = Story(fake, basiq)
            for number, (route, actions) in enumerate(zip(routes, handlers, strict=False)):

                async def handle(body: bytes, actions: list[str] = actions) -> int:
                    for action in actions:
                        await ACTIONS[action](story, json.loads(body)["eventId"])
                    return 200

                fake.route(f"{ENDPOINT}/{number}", routed(route, handle))
                fake.add_webhook(f"{ENDPOINT}/{number}", ["user.created", "user.updated"][: number + 1])
            for fault, times in faults:
                FAULTS[fault](fake, times)
            for name in (*steps, "deliver"):
                with suppress(BasiqError):
                    await STEPS[name](story)

    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=Bounded) as runner:
        patch.setattr("basiq_async.testing.fake._timeline.MOST_CAUSED", 30)
        runner.run(main())
