"""What differs between the real API and the fake is found, and nothing else is said to differ."""

from __future__ import annotations

import json
import re
from datetime import date
from inspect import signature
from pathlib import Path
from typing import Any

import attrs
import pytest

from basiq_async import AuthenticationError, BasiqClient, InMemoryTransport, Request, Response
from basiq_async.testing import FakeBasiq, Quirks, serve
from basiq_async.testing.fake._operations import EVENT_TYPES, RESOURCES  # private: the table of what is compared
from tests.support.environment import ROOT
from tests.support.scripted import Changing

from . import test_live
from .comparison import Comparison, compare
from .live_page import render, write_page


async def compared(**options: Any) -> Comparison:
    """A fake with these options in the part of the real API."""
    real = FakeBasiq(seed="real", **options)
    only = real.add_webhook("https://example.com/one", ["user.created"])
    real.seed_messages(5, only, failed=0.4)
    user_id = "d5a8dcd1-0000-4000-8000-00000000abcd"
    real.emit("user.created", user_id=user_id, data={"name": "Jane Canary"})
    for event_type in real.event_types:  # so that each list of the user's entities has one
        real.emit(event_type, user_id=user_id)
    await real.deliver()
    return await compare(real.api_key, transport=InMemoryTransport(real))


async def test_a_fake_like_ours_does_not_differ() -> None:
    comparison = await compared()
    comparison.assert_equal()
    assert comparison.skipped == ()
    assert comparison.requests < 80
    assert comparison.unknown == ()


@pytest.mark.parametrize(
    ("quirk", "where"),
    [
        ({"messages_path": "slash"}, "$.links.self"),
        ({"subscribed_events": "string"}, "$.subscribedEvents"),
        ({"list_data": "object"}, "$.data"),
        ({"type_case": "title"}, "$.type"),
        ({"attempts": "strings"}, "$.data[].attempts[]"),
        ({"attempts": "absent"}, "$.data[].attempts"),
        ({"attempts_by_id": "strings"}, "$.attempts[]"),
        ({"attempts_by_id": "absent"}, "$.attempts"),
        ({"status_code": "string"}, "$.attempts[].responseStatusCode"),
        ({"message_ids": "top"}, "$.payload.eventTypeId"),
        ({"message_ids": "both"}, "$.eventTypeId"),
        ({"links": "list"}, "$.links"),
        ({"event_data": "list"}, "$.data"),
        ({"event_type": "dotted"}, "$.eventTypeId"),
        ({"signing_key_in": "everywhere"}, "$.secret"),
        ({"unknown_key_response": "404"}, "status"),
    ],
    ids=str,
)
async def test_each_other_form_is_found_where_it_is(quirk: dict[str, Any], where: str) -> None:
    comparison = await compared(quirks=Quirks(**quirk))
    assert where in {difference.where for difference in comparison.differences}
    with pytest.raises(AssertionError, match="differs from the fake"):
        comparison.assert_equal()
    assert all(difference.request.startswith(("GET /", "POST /token")) for difference in comparison.differences)


async def test_a_history_of_many_pages_does_not_differ() -> None:
    real = FakeBasiq()
    for number in range(600):
        real.add_webhook(f"https://example.com/{number}")
    real.seed_messages(2_000, real.webhooks()[0].id)
    (await compare(real.api_key, transport=InMemoryTransport(real))).assert_equal()


async def test_what_there_is_nothing_for_is_said_to_be_skipped() -> None:
    real = FakeBasiq()
    comparison = await compare(real.api_key, transport=InMemoryTransport(real))
    assert comparison.differences == ()
    paths = [path for each in RESOURCES for path in (each.path, each.one)]
    assert comparison.skipped == tuple(f"GET {path}" for path in paths if "{" in path and path != EVENT_TYPES.one)


def changing(change: Any) -> Changing:
    """A fake whose responses are changed on the way, but for tokens."""
    return Changing(FakeBasiq(), lambda request, it: it if request.url.endswith("/token") else change(request, it))


async def differences(change: Any) -> set[tuple[str, str]]:
    transport = changing(change)
    transport.fake.seed_messages(5)
    transport.fake.emit("consent.revoked")
    found = await compare(transport.fake.api_key, transport=transport)
    sent = {each.url for each in transport.requests if each.method != "GET"}
    assert sent == {"https://au-api.basiq.io/token"}
    return {(difference.request, difference.where) for difference in found.differences}


def body(edit: Any) -> Any:
    def change(request: Request, response: Response) -> Response:
        content = json.loads(response.body)
        edit(request, content)
        return attrs.evolve(response, body=json.dumps(content).encode())

    return change


def elsewhere(request: Request, content: Any) -> None:
    if "/webhooks/" in request.url and "status" in content:
        content["links"]["self"] = "https://other.example/x"
        content["status"] = "enabled"


def counting(request: Request, content: Any) -> None:
    if content.get("type") == "list" and "links" in content:
        content["count"] = 1000


OTHER_HEADERS = {"content-type": "application/vnd.api+json", "link": "<x>"}
ONE = "GET /notifications/webhooks/{webhookId}"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda _, it: attrs.evolve(it, status=410) if it.status == 404 else it, [(f"{ONE} (unknown)", "status")]),
        (
            lambda _, it: attrs.evolve(it, headers=OTHER_HEADERS),
            [("GET /events", "header content-type"), ("GET /events", "header link")],
        ),
        (body(elsewhere), [(ONE, "$.links.self"), (ONE, "$.status")]),
        (body(counting), [("GET /events", "paging")]),
        (
            lambda request, it: attrs.evolve(it, body=b"<html>") if "/events" in request.url else it,
            [("GET /events", "body")],
        ),
    ],
    ids=["a status", "headers", "a link and a word", "a count", "no JSON"],
)
async def test_what_a_response_has_else_is_found(change: Any, found: list[tuple[str, str]]) -> None:
    assert set(found) <= await differences(change)


async def test_the_shapes_hold_no_values() -> None:
    text = json.dumps((await compared()).shapes)
    assert json.loads(text)["requests"]["GET /events"]["fields"]["$.data[].createdDate"]["forms"] == ["date-time"]
    for canary in ("Jane", "example.com", "d5a8dcd1", "whsec_", FakeBasiq.DEFAULT_API_KEY, "user.created", "2026-"):
        assert canary not in text, canary


async def test_the_page_of_a_run_holds_shapes_and_codes_and_no_ids_and_no_urls(tmp_path: Path) -> None:
    found = await compared(quirks=Quirks(status_code="string", message_order="newest-first"))
    (tmp_path / "docs").mkdir()
    for file in ("README.md", "docs/the-fake.md"):
        (tmp_path / file).write_text((ROOT / file).read_text())
    for _ in range(2):  # the second run takes the place of the first
        write_page(found, tmp_path, date(2026, 12, 1))
    page = (tmp_path / "docs" / "live.md").read_text()
    assert "attempts[].responseStatusCode: the real API has null or string, the fake integer or null" in page
    assert "- /notifications/webhooks/{webhookId}/messages: newest-first" in page
    assert "### POST /token (unknown key)\n\n```text\nstatus 400" in page
    assert "$.data[].code  string (text) (unauthorized-access)" in page
    for canary in ("Jane", "example.com", "d5a8dcd1", "whsec_", FakeBasiq.DEFAULT_API_KEY, "https://", "@"):
        assert canary not in page, canary
    assert not re.search(r"[0-9a-f]{12}", page)
    for file, link in (("README.md", "docs/live.md"), ("docs/the-fake.md", "live.md")):
        text = (tmp_path / file).read_text()
        assert f"on 2026-12-01: [{len(found.differences)} points differed]({link})." in text
        assert "has not run" not in text


async def test_what_only_the_real_api_has_is_named_and_no_difference() -> None:
    def change(request: Request, response: Response) -> Response:
        return attrs.evolve(response, status=200, body=b'{"failed": 3}') if request.url.endswith("/stats") else response

    transport = changing(change)
    transport.fake.seed_messages(5)
    found = await compare(transport.fake.api_key, transport=transport)
    found.assert_equal()
    assert found.unknown == ("/notifications/webhooks/{webhookId}/stats",)
    assert "$.failed  integer" in render(found, date(2026, 12, 1))


async def test_event_types_that_one_side_lacks_are_named() -> None:
    found = await compared(event_types={"user.verified": "A new one."})
    difference = next(each for each in found.differences if each.where == "event types")
    assert (difference.real, difference.fake) == ("user.verified", "none")


async def test_make_live_passes_against_the_mock(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeBasiq()
    fake.seed_messages(40, failed=0.2)
    await fake.deliver()
    async with serve(fake) as url:
        monkeypatch.setenv("BASIQ_API_KEY", fake.api_key)
        monkeypatch.setattr(test_live, "BASE_URL", url)
        async with BasiqClient(base_url=url) as basiq:
            for name, test in vars(test_live).items():
                if name.startswith("test_"):
                    await (test(basiq) if "basiq" in signature(test).parameters else test())
    assert {request.method for request in fake.requests if not request.url.endswith("/token")} == {"GET"}


async def test_a_key_that_is_not_accepted_is_an_error_of_ours() -> None:
    with pytest.raises(AuthenticationError):
        await compare("d3Jvbmc=", transport=InMemoryTransport())
