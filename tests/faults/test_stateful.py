"""The client against the fake, with random faults in between, compared with a model that has none.

Whatever goes wrong, each step ends with the right result or one error of ours; after an error the model is asked which
of the two states it left is the true one, and only the two that are possible are accepted.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from basiq_async import BasiqClient, BasiqError, InMemoryTransport, NotFoundError, Request, Response, RetryPolicy
from basiq_async.errors import ConflictError
from basiq_async.testing import FakeBasiq
from tests.support.outcomes import assert_hidden
from tests.support.virtual import VirtualLoop
from tests.support.wire import KEY

URLS = st.sampled_from([f"https://example.com/{name}" for name in "abcd"])
EVENTS = st.sets(st.sampled_from(["user.created", "consent.revoked", "account.updated"]), min_size=1)
FAULTS = st.sampled_from(
    [
        {"status": 500},
        {"status": 503, "retry_after": 1},
        {"status": 429, "retry_after": 1000},
        {"status": 429},
        {"drop": "request"},
        {"drop": "response"},
        {"body": b'{"data": [{'},
        {"body": b"<html>", "status": 502},
        {"delay": 1000.0},
        {"status": 401},
        {"status": 403},
    ]
)

TROUBLE = st.lists(st.tuples(FAULTS, st.integers(1, 3), st.sampled_from([None, None, None, "/token"])), max_size=2)


class Recording:
    """The in-memory transport, counting what is under way."""

    def __init__(self, inner: InMemoryTransport) -> None:
        self.inner = inner
        self.under_way = 0

    async def send(self, request: Request, /) -> Response:
        self.under_way += 1
        try:
            return await self.inner.send(request)
        finally:
            self.under_way -= 1

    async def aclose(self) -> None:
        await self.inner.aclose()


class ClientAndFake(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.fake = FakeBasiq(api_keys=[KEY], page_size=3, seed="the same ids in each run of an example")
        self.transport = Recording(InMemoryTransport(self.fake))
        self.policy = RetryPolicy(max_retries=2, base=0.5, max_wait=5.0, max_elapsed=100.0)
        self.client = BasiqClient(KEY, transport=self.transport, retry=self.policy)
        self.known: dict[str, tuple[str, frozenset[str]]] = {}
        self.deleted: set[str] = set()
        self.messages = 0
        self.seeded: str | None = None

    @initialize(count=st.integers(0, 10))
    def history(self, count: int) -> None:
        if count:
            self.seeded = self.fake.seed_messages(count)
            self.messages = count
            self.settle()

    def run(self, work: Any) -> Any:
        """The result or an error of ours, within the time that the policy allows."""

        async def bounded() -> Any:
            began = asyncio.get_running_loop().time()
            try:
                return await work
            except BasiqError as exc:
                assert_hidden(exc)
                return exc
            finally:
                assert asyncio.get_running_loop().time() - began <= 400.0
                await asyncio.sleep(0)
                left = asyncio.all_tasks() - {asyncio.current_task()}
                assert not left, left
                assert self.transport.under_way == 0

        return self.runner.run(bounded())

    def settle(self) -> None:
        """Look at what is true, with nothing going wrong."""
        self.fake.reset_log()
        webhooks = self.run(self.client.webhooks.list().collect())
        assert isinstance(webhooks, list), webhooks
        self.known = {hook.id: (hook.url, frozenset(hook.subscribed_events)) for hook in webhooks}

    def go_wrong(self, trouble: list[Any]) -> None:
        for fault, times, path in trouble:
            self.fake.fail_next(times, path=path, **fault)
            if path:
                self.fake.expire_tokens()

    @rule()
    def tokens_expire(self) -> None:
        self.fake.expire_tokens()

    @rule(url=URLS, events=EVENTS, trouble=TROUBLE)
    def create(self, url: str, events: set[str], trouble: list[Any]) -> None:
        self.go_wrong(trouble)
        before = dict(self.known)
        got = self.run(self.client.webhooks.create(url=url, subscribed_events=sorted(events)))
        self.settle()
        new = {id_: entry for id_, entry in self.known.items() if id_ not in before}
        taken = any(entry[0] == url for entry in before.values())
        if isinstance(got, BasiqError):
            assert not new or list(new.values()) == [(url, frozenset(events))]
            assert not (new and taken)
            assert taken or type(got) is not ConflictError
        else:
            assert not taken
            assert got.secret is not None
            assert new == {got.id: (url, frozenset(events))}

    @rule(url=URLS, events=EVENTS, removes=st.booleans(), trouble=TROUBLE)
    def ensure(self, url: str, events: set[str], removes: bool, trouble: list[Any]) -> None:
        self.go_wrong(trouble)
        before = dict(self.known.values())
        got = self.run(
            self.client.webhooks.ensure(url=url, subscribed_events=sorted(events), remove_event_types=removes)
        )
        self.settle()
        if not isinstance(got, BasiqError):
            kept = frozenset() if removes else before.get(url, frozenset())
            assert self.known[got.id] == (url, frozenset(events) | kept)
        assert len({entry[0] for entry in self.known.values()}) == len(self.known)

    @rule(index=st.integers(0, 5), trouble=TROUBLE)
    def delete(self, index: int, trouble: list[Any]) -> None:
        # A 200 with half a body tells of a deletion that was not made: nothing could know.
        self.go_wrong([entry for entry in trouble if "body" not in entry[0] or "status" in entry[0]])
        ids = sorted(self.known)
        id_ = ids[index % len(ids)] if ids and index < 5 else "no-such-webhook"
        got = self.run(self.client.webhooks.delete(id_))
        self.settle()
        if got is None:
            assert id_ not in self.known
        elif type(got) is NotFoundError:
            assert id_ not in self.known
            assert id_ not in ids
        if id_ == self.seeded and id_ not in self.known:
            self.seeded = None

    @rule(index=st.integers(0, 5), trouble=TROUBLE)
    def get(self, index: int, trouble: list[Any]) -> None:
        self.go_wrong(trouble)
        ids = sorted(self.known)
        id_ = ids[index % len(ids)] if ids and index < 5 else "no-such-webhook"
        got = self.run(self.client.webhooks.get(id_))
        if not isinstance(got, BasiqError):
            assert (got.url, frozenset(got.subscribed_events)) == self.known[got.id]
        else:
            assert type(got) is not NotFoundError or id_ not in self.known
        self.fake.reset_log()

    @rule(prefetch=st.sampled_from([0, 1]), leave=st.integers(0, 8), trouble=TROUBLE)
    def stream(self, prefetch: int, leave: int, trouble: list[Any]) -> None:
        """With resuming by cursor after each failure: every message once, in order."""
        self.go_wrong(trouble)
        if self.seeded is None:
            return

        async def read() -> list[str]:
            ids: list[str] = []
            cursor = None
            for _ in range(30):
                paginator = self.client.messages.list(str(self.seeded), prefetch=prefetch, cursor=cursor)
                try:
                    async for message in paginator:
                        ids.append(message.id)
                        if len(ids) == leave:
                            break
                    else:
                        return ids
                except BasiqError as exc:
                    assert_hidden(exc)
                cursor = paginator.cursor
            raise AssertionError("it never came to its end")

        got = self.run(read())
        self.fake.reset_log()
        every = self.run(self.client.messages.list(str(self.seeded)).collect())
        assert got == [message.id for message in every]
        assert len(got) >= self.messages

    @invariant()
    def nothing_is_under_way(self) -> None:
        assert self.transport.under_way == 0

    def teardown(self) -> None:
        self.runner.run(self.client.aclose())
        self.runner.close()


TestClientAndFake = ClientAndFake.TestCase
TestClientAndFake.settings = settings(
    max_examples=20,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
