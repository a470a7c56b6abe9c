"""What the fake does, with any of its rules, is what an acceptor of the rules allows, and all that it demands."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from random import Random
from typing import Any

import attrs
import pytest

from basiq_async import InMemoryTransport
from basiq_async.testing import FakeBasiq, Quirks
from tests.support import virtual

from ..conftest import Caller
from .acceptor import Acceptor

SCENARIOS = int(os.environ.get("BASIQ_FUZZ_ROUNDS", "60"))
RULES = [
    "update", "signing_key_on_update", "former_key", "disables", "waits", "after_timeout", "retry_after",
    "failed_connection", "resend", "unsubscribed", "webhook_ids", "delivery_order", "listed", "status_filter",
    "no_response", "message_order", "paging",
]  # fmt: skip
TYPES = ["user.created", "user.updated", "user.deleted"]
URLS = ["https://example.com/one", "https://example.com/two"]


class Scenario:
    """A fake with rules, endpoints that do anything, and a test that does anything."""

    def __init__(self, random: Random, quirks: Quirks) -> None:
        self.random, self.quirks = random, quirks
        self.mean = 0.5
        """The share of attempts that fail."""
        self.calls: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.seen = 0
        self.fake = FakeBasiq(quirks=self.quirks, seed=self.random.random().hex(), page_size=3)
        self.sleep = InMemoryTransport(self.fake).waits
        self.acceptor = Acceptor(attrs.asdict(self.quirks))
        self.webhooks = {self.fake.add_webhook(url, TYPES): url for url in URLS}
        for webhook_id, url in self.webhooks.items():
            self.acceptor.add(self.fake.now(), webhook_id, frozenset(TYPES))
            self.fake.route(url, self.endpoint(webhook_id))
        self.caller = Caller(self.fake)

    def endpoint(self, webhook_id: str) -> Callable[..., Any]:
        async def application(scope: Any, receive: Any, send: Any) -> None:
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            began = self.fake.now()
            call: dict[str, Any] = {"headers": headers, "timed_out": False, "lost": False, "retry_after": 0}
            self.calls.setdefault((webhook_id, headers["webhook-id"]), []).append(call)
            if self.sleep is not None and self.random.random() < 0.2:
                await self.sleep.sleep(self.random.choice([0.5, 3.0, 20.0]))
            what = self.random.random()
            if what < 0.05:
                call["lost"] = (self.fake.now() - began).total_seconds() < 1
                return  # no response
            if what < 0.08:
                call["timed_out"] = True
                await asyncio.sleep(3600)
            status, fields = 500, []
            if self.random.random() > self.mean:
                status = 204
            elif what < 0.4:
                call["retry_after"] = self.random.choice([1.0, 7.0, 400.0, 50_000.0])
                fields = [(b"retry-after", str(call["retry_after"]).encode())]
            await send({"type": "http.response.start", "status": status, "headers": fields})

        return application

    # --- one step ---

    async def step(self) -> None:
        steps = [self.emit] * 4 + [self.advance] * 5 + [self.resend, self.update, self.turn]
        await self.random.choice(steps)()
        self.take()

    def take(self) -> None:
        """Tell the acceptor what was made."""
        made = self.fake.deliveries
        for each in made[self.seen :]:
            left = self.calls[each.webhook_id, each.message_id]
            calls = [left.pop(0)]
            if calls[0]["lost"] and self.quirks.failed_connection == "twice":
                calls.append(left.pop(0))  # a try too many is left over at the end
            assert all(call["headers"]["webhook-signature"] == each.headers["webhook-signature"] for call in calls)
            last = calls[-1]
            self.acceptor.attempt(each, timed_out=last["timed_out"], retry_after=last["retry_after"])
        self.seen = len(made)

    async def emit(self) -> None:
        type_id = self.random.choice(TYPES)
        emission, webhooks = self.fake.emit(type_id), [each.id for each in self.fake.webhooks()]
        of = {id: each.id for id in webhooks for each in self.fake.messages(id) if each.id in emission.message_ids}
        self.acceptor.emit(self.fake.now(), type_id, of)
        if self.random.random() < 0.7:
            await emission

    async def advance(self) -> None:
        await self.fake.advance(seconds=self.random.choice([0.3, 4.7, 70, 3_000, 40_000, 300_000]))

    async def resend(self) -> None:
        await self.fake.deliver()
        self.take()
        alive = {each.id for each in self.fake.webhooks()}
        some = [key for key in self.acceptor.messages if key[0] in alive]
        if some:
            await self.fake.advance(seconds=0.000_123)  # not at the time of another attempt
            self.take()
            webhook_id, message_id = self.random.choice(some)
            if webhook_id in {each.id for each in self.fake.webhooks()}:
                again = self.fake.redeliver(message_id, webhook_id)
                self.acceptor.resend(self.fake.now(), webhook_id, message_id, planned=bool(again.message_ids))
                await again

    async def update(self) -> None:
        self.take()
        webhook = self.random.choice(self.fake.webhooks() or [None])
        if webhook is not None:
            types = self.random.sample(TYPES, self.random.randrange(1, 4))
            self.caller.authorize()
            path, body = f"/notifications/webhooks/{webhook.id}", {"url": webhook.url, "subscribedEvents": types}
            self.caller.json("POST", path, body)
            renewed = self.quirks.signing_key_on_update == "new"
            self.acceptor.update(self.fake.now(), webhook.id, frozenset(types), renewed=renewed)

    async def turn(self) -> None:
        """Let the endpoints be well, ill, or in between."""
        self.mean = self.random.choice([0.0, 0.5, 1.0])

    # --- the end ---

    async def finish(self) -> None:
        await self.fake.deliver()
        self.take()
        self.acceptor.finish(self.fake.now())
        assert not any(self.calls.values()), "a call that no attempt in the log explains"
        self.caller.authorize()
        for webhook_id in self.webhooks:
            disabled = self.acceptor.hooks[webhook_id].disabled.now()
            path = f"/notifications/webhooks/{webhook_id}"
            if disabled == "removed":
                self.caller.error("GET", path, status=404)
                continue
            assert self.caller.get(path)["status"] == ("disabled" if disabled else "active")
            self.compare(webhook_id, f"{path}/messages")

    def compare(self, webhook_id: str, path: str) -> None:
        """Compare the lists of messages with what the acceptor knows."""
        ids = [id for of, id in self.acceptor.messages if of == webhook_id]
        tried = {each.message_id for each in self.fake.deliveries if each.webhook_id == webhook_id}
        if self.quirks.listed == "attempted":
            ids = [id for id in ids if id in tried]
        if self.quirks.message_order == "newest-first":
            ids.reverse()
        shown = self.caller.every(path)
        assert [each["id"] for each in shown] == ids
        zero = 0 if self.quirks.no_response == "zero" else None
        for each in shown:
            made = [one for one in self.fake.deliveries if (one.webhook_id, one.message_id) == (webhook_id, each["id"])]
            codes = [one["responseStatusCode"] for one in each["attempts"]]
            assert sorted(codes, key=str) == sorted(
                (zero if one.status is None else one.status for one in made), key=str
            )
        if self.quirks.status_filter == "outcome":
            outcomes = {id: self.acceptor.outcome(webhook_id, id, self.fake.now()) for id in ids}
            for status in ("Success", "Failed", "Pending"):
                found = [each["id"] for each in self.caller.every(f"{path}?filter=status.eq('{status}')")]
                certain = [id for id in found if outcomes[id] is not None]
                assert certain == [id for id in ids if outcomes[id] == status]


def draw(random: Random) -> Quirks:
    forms = Quirks.forms()
    chosen: dict[str, Any] = {name: random.choice(forms[name]) for name in RULES if random.random() < 0.7}
    return Quirks(**chosen, concurrency=random.choice([None, 1, 3, 32]))


async def play(seed: int, quirks: Quirks | None = None) -> int:
    random = Random(seed)
    scenario = Scenario(random, quirks or draw(random))
    for _ in range(random.randrange(5, 40)):
        await scenario.step()
    await scenario.finish()
    return scenario.seen


@pytest.mark.parametrize("part", range(4))
@virtual.clocked
async def test_the_fake_does_what_its_rules_allow_and_demand(part: int) -> None:
    made = 0
    for seed in range(part, SCENARIOS, 4):
        try:
            made += await play(seed)
        except AssertionError as error:
            raise AssertionError(f"scenario {seed}: {error}") from error
    assert made > 5 * SCENARIOS / 4, "the scenarios show something"
