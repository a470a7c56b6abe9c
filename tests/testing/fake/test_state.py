"""The reports about what is in a fake, over all webhooks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from basiq_async.errors import ConfigurationError
from basiq_async.testing import FakeBasiq

from ..conftest import ENDPOINT


async def make_histories() -> tuple[FakeBasiq, Sequence[str]]:
    """Three webhooks: seeded messages, messages of one time, and messages in between."""
    fake = FakeBasiq()
    ids = [fake.add_webhook(f"{ENDPOINT}/{number}") for number in range(3)]
    fake.seed_messages(5, ids[1])
    fake.seed_messages(3, ids[2], every=1.5)
    for _ in range(3):
        await fake.advance(seconds=1)
        fake.emit("user.created")
    return fake, ids


async def test_messages_of_all_webhooks_are_newest_first_and_webhooks_are_in_the_order_of_their_creation() -> None:
    fake, ids = await make_histories()
    assert [webhook.id for webhook in fake.webhooks()] == ids
    times = [message.created for message in fake.messages()]
    assert (len(times), times) == (fake.count_messages(), sorted(times, reverse=True))
    assert [fake.count_messages(each) for each in ids] == [3, 8, 6]
    assert {message.webhook_id for message in fake.messages(ids[1])} == {ids[1]}


@pytest.mark.parametrize("of_one", [False, True])
async def test_a_scan_goes_on_from_any_place(of_one: bool) -> None:
    fake, ids = await make_histories()
    webhook_id = ids[1] if of_one else None
    everything = list(fake._scan_messages(webhook_id))
    for number, message in enumerate(everything):
        assert list(fake._scan_messages(webhook_id, start=message.id)) == everything[number:]
    await fake.advance(seconds=1)
    fake.emit("user.created")
    assert list(fake._scan_messages(webhook_id, start=everything[0].id)) == everything, "what is newer was shown again"


async def test_a_scan_does_not_go_on_where_no_message_is() -> None:
    fake, ids = await make_histories()
    last = next(iter(fake.messages(ids[0])))
    for webhook_id, start in ((None, "unknown"), (ids[1], last.id)):
        with pytest.raises(ConfigurationError, match="no message at this place"):
            fake._scan_messages(webhook_id, start=start)


def test_an_endpoint_that_comes_back_leaves_the_others_down(fake: FakeBasiq) -> None:
    for url in (f"{ENDPOINT}/1", f"{ENDPOINT}/2"):
        fake.endpoint_down(url, status=503)
    fake.endpoint_down()
    fake.endpoint_up(f"{ENDPOINT}/1")
    assert dict(fake._deliveries.down) == {f"{ENDPOINT}/2": 503, None: None}
    fake.endpoint_up()
    assert not fake._deliveries.down


async def test_an_endpoint_that_is_down_with_a_status_of_its_own_keeps_it_while_all_are_down(fake: FakeBasiq) -> None:
    fake.add_webhook(ENDPOINT)
    fake.add_webhook(f"{ENDPOINT}/2")
    fake.endpoint_down()
    fake.endpoint_down(ENDPOINT, status=503)
    await fake.emit("user.created")
    assert {each.url: each.status for each in fake.deliveries} == {ENDPOINT: 503, f"{ENDPOINT}/2": None}
