"""The client's own suite, with the other forms that Basiq's sources allow a response to have."""

from __future__ import annotations

from collections.abc import AsyncIterator

import attrs
import pytest

from basiq_async import BasiqClient, InMemoryTransport, RetryPolicy
from basiq_async.testing import FakeBasiq, Quirks
from tests.services import test_messages
from tests.services.conftest import Basiq

# The same tests, on other fakes.
from tests.services.test_api import (
    test_a_token_that_expired_is_renewed,  # noqa: F401
    test_passing_failures_are_retried,  # noqa: F401
    test_the_client_misuses_nothing,  # noqa: F401
)
from tests.services.test_event_types import *  # noqa: F403
from tests.services.test_events import test_events_and_the_way_to_them_from_a_thin_payload  # noqa: F401
from tests.services.test_messages import *  # noqa: F403
from tests.services.test_webhooks import *  # noqa: F403


def _name(quirks: Quirks) -> str:
    forms = attrs.asdict(quirks)
    changed = [f"{name}={form}" for name, form in forms.items() if form != getattr(Quirks(), name)]
    return "all" if quirks == LAST else ",".join(changed)


# The last form has the last form of each quirk. What it cannot show has a form of its own: the quirks with three forms,
# and the fields of attempts, which it does not have. The suite tries the default, and tests/contract each form alone.
*_, LAST = Quirks.each_form()
FORMS = [
    LAST,
    Quirks(message_ids="top"),
    Quirks(signing_key="bare"),
    Quirks(status_code="string", attempt_order="oldest-first"),
]


@pytest.fixture(params=FORMS, ids=_name)
async def basiq(request: pytest.FixtureRequest) -> AsyncIterator[Basiq]:
    fake = FakeBasiq(quirks=request.param)
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake), retry=RetryPolicy(base=0.001)) as client:
        yield Basiq(client, fake)


async def test_a_test_message_is_delivered_and_is_in_the_history(basiq: Basiq) -> None:
    if basiq.fake.quirks.attempts == "objects":
        await test_messages.test_a_test_message_is_delivered_and_is_in_the_history(basiq)
        return
    # Attempts that are ids alone do not say how they went.
    webhook_id = basiq.fake.seed_messages(3)
    for message in await basiq.client.messages.list(webhook_id).collect():
        assert message.attempts[0].id
        assert not message.delivered


@pytest.mark.parametrize(("where", "written", "read"), [("everywhere", True, True), ("nowhere", False, False)])
async def test_a_secret_is_there_where_the_fake_shows_it(where: str, written: bool, read: bool) -> None:
    fake = FakeBasiq(quirks=Quirks(signing_key_in=where))
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as client:
        made = await client.webhooks.create(url="https://example.com/x", subscribed_events=["user.created"])
        assert (made.secret is not None) is written
        assert ((await client.webhooks.get(made.id)).secret is not None) is read
