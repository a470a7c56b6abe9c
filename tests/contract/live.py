"""The read-only part of the contract, held to the real API: ``make live``, with BASIQ_API_KEY set.

One token, then GET requests alone: nothing is created, changed or deleted. BASIQ_BASE_URL names another server.
"""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from schemathesis.checks import load_all_checks

load_all_checks()
pytestmark = pytest.mark.skipif(
    not os.environ.get("BASIQ_API_KEY"), reason="BASIQ_API_KEY is not set: nothing was asked of the real API"
)
BASE = os.environ.get("BASIQ_BASE_URL", "https://au-api.basiq.io").rstrip("/")
NOWHERE = "00000000-0000-4000-8000-000000000000"
OPERATIONS = {
    operation.ok().path: operation.ok()
    for operation in schemathesis.openapi.from_path(Path(__file__).with_name("openapi.yaml")).get_all_operations()
    if operation.ok().method == "get"
}


@pytest.fixture(scope="module")
def headers() -> dict[str, str]:
    request = urllib.request.Request(
        BASE + "/token",
        b"scope=SERVER_ACCESS",
        {
            "authorization": "Basic " + os.environ["BASIQ_API_KEY"],
            "basiq-version": "3.0",
            "content-type": "application/x-www-form-urlencoded",
        },
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return {"Authorization": f"Bearer {json.load(answer)['access_token']}"}


def get(headers: dict[str, str], path: str, status: int = 200, **ids: str) -> Any:
    case = OPERATIONS[path].Case(path_parameters=ids)
    response = case.call(base_url=BASE, headers=headers, timeout=30)
    case.validate_response(response, headers=headers)
    assert response.status_code == status
    return response.json()


def listed(headers: dict[str, str], path: str, **ids: str) -> list[dict[str, Any]]:
    data = get(headers, path, **ids)["data"]
    return data if isinstance(data, list) else [data]


def test_webhooks_and_their_messages_are_as_described(headers: dict[str, str]) -> None:
    webhooks = listed(headers, "/notifications/webhooks")
    if not webhooks:
        pytest.skip("the application has no webhooks to look at")
    webhook_id = webhooks[0]["id"]
    assert get(headers, "/notifications/webhooks/{webhookId}", webhookId=webhook_id)["id"] == webhook_id
    messages = "/notifications/webhooks/{webhookId}/messages"
    for message in listed(headers, messages, webhookId=webhook_id)[:1]:
        ids = {"webhookId": webhook_id, "messageId": message["id"]}
        assert get(headers, messages + "/{messageId}", **ids)["id"] == message["id"]


def test_event_types_are_as_described(headers: dict[str, str]) -> None:
    name = listed(headers, "/events/types")[0]["id"]
    assert get(headers, "/events/types/{eventTypeId}", eventTypeId=name)["id"] == name


def test_events_are_as_described(headers: dict[str, str]) -> None:
    for event in listed(headers, "/events")[:1]:
        assert get(headers, "/events/{eventId}", eventId=event["id"])["id"] == event["id"]


def test_an_unknown_webhook_is_answered_as_described(headers: dict[str, str]) -> None:
    error = get(headers, "/notifications/webhooks/{webhookId}", 404, webhookId=NOWHERE)
    assert error["data"][0]["code"] == "resource-not-found"
