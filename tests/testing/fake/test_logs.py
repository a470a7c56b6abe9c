"""What the fake remembers of requests, deliveries and misuse: the latest, or the first, and never without end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from basiq_async import Request
from basiq_async.testing import FakeBasiq
from basiq_async.testing.fake._logs import Recent, size_of  # private: a log of 64 MiB takes long to fill

from ..conftest import BASE, ENDPOINT, Caller


def test_a_log_drops_its_oldest_items_above_a_number() -> None:
    log: Recent[int] = Recent(lambda item: 1, most=3)
    for item in range(5):
        log.append(item)
    assert (list(log), log.dropped) == ([2, 3, 4], 2)


def test_a_log_drops_its_oldest_items_above_a_size_but_keeps_the_newest_whatever_its_size() -> None:
    log: Recent[int] = Recent(lambda item: item, most_bytes=10)
    for item in (4, 5, 6):
        log.append(item)
    assert (list(log), log.bytes) == ([6], 6)
    log.append(100)
    assert (list(log), log.bytes) == ([100], 100)


def test_a_log_counts_what_was_dropped_or_forgotten_too() -> None:
    log: Recent[str] = Recent(len, most=2)
    for item in "abc":
        log.append(item)
    log.clear()
    log.append("d")
    assert (list(log), log.added, log.bytes) == (["d"], 4, 1)


def test_the_first_thousand_misuses_are_kept_and_a_later_request_still_has_its_own(fake: FakeBasiq) -> None:
    caller = Caller(fake)
    for _ in range(1_001):
        caller.send("GET", "/events?limit=501")
    assert {each.code for each in fake.misuses} == {"limit"}
    assert len(fake.misuses) == 1_000
    assert fake.request_log[-1].misuses == ("limit",)


def test_each_change_is_told_until_its_watcher_stops(fake: FakeBasiq) -> None:
    seen: list[int] = []
    stop = fake._changes.watch(lambda: seen.append(fake._changes.revision))
    fake.handle(Request("GET", BASE + "/events"))
    fake.add_webhook()
    fake.emit("user.created")
    stop()
    stop()
    fake.reset()
    assert seen == [1, 2, 3]
    assert fake._changes.revision > 3


def test_the_latest_10_000_requests_of_at_most_64_mib_are_kept(fake: FakeBasiq) -> None:
    for body, kept in ((b"", 10_000), (bytes(2**20), 63)):
        for _ in range(kept + 1):
            fake.handle(Request("POST", f"{BASE}/events", {}, body))
        assert len(fake.requests) == kept
        fake.reset_log()


def test_the_size_of_an_entry_has_its_headers_its_body_and_its_texts() -> None:
    assert size_of({"name": "value"}, b"body", "text", "more") - size_of({}, None) == 9 + 4 + 8
    assert size_of({}, None) > 0, "an entry without any of these takes memory too"


@pytest.mark.parametrize(
    "change",
    [
        lambda fake: fake.add_webhook(f"{ENDPOINT}/2"),
        lambda fake: fake.set("/users/u1", {"id": "u1"}),
        lambda fake: fake.seed_messages(1),
        lambda fake: fake.fail_next(status=500),
        lambda fake: fake.fail_deliveries(status=500),
        lambda fake: fake.endpoint_down(ENDPOINT),
        lambda fake: fake.endpoint_up(),
        lambda fake: fake.emit("user.created"),
        lambda fake: fake.redeliver(next(fake.messages()).id),
        lambda fake: fake.expire_tokens(),
        lambda fake: fake.disable_account(),
        lambda fake: fake.reset_log(),
        lambda fake: fake.reset(),
        lambda fake: fake.add_state(),
        lambda fake: fake.remove_state(next(iter(fake.states))),
    ],
)
def test_open_pages_are_told_of_whatever_a_test_changes(fake: FakeBasiq, change: Callable[[FakeBasiq], object]) -> None:
    fake.seed_messages(1, fake.add_webhook(ENDPOINT))
    fake.add_state()
    before = fake._changes.revision
    change(fake)
    assert fake._changes.revision > before
