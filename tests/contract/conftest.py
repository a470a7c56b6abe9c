"""What the contract tests share: the fake over HTTP, with something in it to find."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import pytest
import schemathesis
from hypothesis import strategies as st

from basiq_async.testing import FakeBasiq, Quirks
from tests.support.served import served
from tests.testing.conftest import Caller

schemathesis.openapi.format("http-url", st.from_regex(r"https?://[a-z]{1,20}\.example/[a-z]{0,20}", fullmatch=True))


@attrs.frozen
class Target:
    """A fake that is being served, and the ids of what is in it."""

    base_url: str
    ids: dict[str, str]
    headers: dict[str, str]


USER = "6ecdd4be-4f42-4f7c-9a54-0d1c9a3c5b6e"


def target(quirks: Quirks) -> Iterator[Target]:
    fake = FakeBasiq(quirks=quirks)
    webhook_id = fake.seed_messages(30, failed=0.3)
    *_, message = fake.messages(webhook_id)
    ids = {"webhookId": webhook_id, "messageId": message.id, "eventId": message.event.id, "id": message.event.id}
    for kind in fake.event_types:  # so that there is an entity of each kind
        fake.emit(kind, user_id=USER, entity_id="one")
    ids |= {"userId": USER, "accountId": "one", "connectionId": "one", "consentId": "one"}
    with served(fake) as base_url:
        yield Target(base_url, ids, {"Authorization": f"Bearer {Caller(fake).authorize()}"})


@pytest.fixture(scope="module")
def fake_server() -> Iterator[Target]:
    yield from target(Quirks())


@pytest.fixture(scope="module")
def schema_server() -> Iterator[Target]:
    """One that answers as the schemas of the vendor's reference have it, where its examples say otherwise."""
    yield from target(Quirks(attempts="strings", attempts_by_id="strings", links="object", message_ids="both"))
