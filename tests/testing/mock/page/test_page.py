"""The page of a served fake, in a real browser."""

from __future__ import annotations

import ast
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import basiq_async
import basiq_async.testing
from basiq_async.testing import FakeBasiq
from tests.support.served import served

from ...conftest import Caller
from .conftest import ENDPOINT, Looking

PAGE = Path(basiq_async.testing.__file__).parent / "mock"
SHARED = Path(basiq_async.__file__).parent / "_web"


def marks(page: Any, message_id: str) -> list[str]:
    return page.locator(f"#message-{message_id} .mark").evaluate_all("marks => marks.map(m => m.ariaLabel)")


def test_an_attempt_appears_and_is_retried_without_a_reload(looking: Looking) -> None:
    looking.statuses[:] = [503, 200]
    looking.post("/webhooks", url=ENDPOINT, subscribedEvents=["consent.revoked"])
    page = looking.open()
    page.evaluate("window.kept = true")
    page.select_option("[name=eventTypeId]", "consent.revoked")
    page.fill("[name=userId]", "u-1")
    page.fill("[name=data]", '{"reason": "asked"}')
    page.get_by_role("button", name="Emit").click()
    page.locator("#said", has_text="Emitted: 1 message.").wait_for()
    page.locator("#message-list .mark >> nth=1").wait_for()
    (message,) = looking.get("/messages")["items"]
    assert message["userId"] == "u-1"
    assert [text.partition(",")[0] for text in marks(page, message["id"])] == [
        "Attempt 1",
        "Attempt 2 is due after 5 s",
    ]
    page.locator("#message-list", has_text="Retrying").wait_for()
    page.get_by_role("button", name="Next attempt").click()
    page.locator("#message-list", has_text="Delivered").wait_for()
    assert "200, OK" in marks(page, message["id"])[1]
    page.locator("#said", has_text="1 attempt was made.").wait_for()
    assert page.evaluate("window.kept") is True


def test_an_endpoint_that_stays_down_is_disabled_and_a_message_is_redelivered(looking: Looking) -> None:
    looking.post("/webhooks", url=ENDPOINT)
    page = looking.open()
    page.get_by_role("button", name=f"Take {ENDPOINT} down").click()
    page.locator("#webhooks", has_text="endpoint down").wait_for()
    message_id = looking.post("/emit", eventTypeId="user.created", wait=True)["messageIds"][0]
    for _ in range(7):
        page.get_by_role("button", name="Next attempt").click()
        page.locator("#said", has_text="1 attempt was made.").wait_for()
    page.locator("#webhooks", has_text="disabled").wait_for()
    page.wait_for_function(f"() => document.querySelectorAll('#message-{message_id} .mark').length === 8")
    page.get_by_role("button", name=f"Bring {ENDPOINT} up").click()
    page.locator("#faults", has_text="Nothing").wait_for()
    page.locator(f"#message-{message_id} .opens").click()
    page.get_by_role("button", name="Redeliver").click()
    page.locator(f"#about-{message_id} .attempts > li >> nth=8").wait_for()
    page.locator(f"#message-{message_id} > .line .pill", has_text="Delivered").wait_for()


def test_time_moves_by_the_buttons(looking: Looking) -> None:
    page = looking.open()
    assert page.inner_text("#now") == "00:00:00"
    for name, shown in (("+1 min", "00:01:00"), ("+15 min", "00:16:00"), ("+1 h", "01:16:00")):
        page.get_by_role("button", name=name, exact=True).click()
        page.locator("#now", has_text=shown).wait_for()
    assert looking.get("/state")["now"].startswith("2026-01-05T01:16:00")


def test_a_row_of_another_day_has_its_date(looking: Looking) -> None:
    looking.post("/webhooks", url=ENDPOINT)
    looking.post("/emit", eventTypeId="user.created")
    page = looking.open()
    page.locator("#message-list .at", has_text=re.compile("^00:00:00$")).wait_for()
    looking.post("/advance", days=2)
    page.locator("#message-list .at", has_text=re.compile("^05 Jan 00:00:00$")).wait_for()


def test_what_comes_from_outside_is_text_and_nothing_else(looking: Looking) -> None:
    attack = '<img src=x onerror="window.hacked=1;alert(1)"></pre><script>window.hacked=1</script>\'"`{{7*7}}'
    looking.post("/webhooks", url=ENDPOINT)
    emitted = looking.post("/emit", eventTypeId="user.created", userId=attack, entityId=attack, data={attack: attack})
    looking.post("/fail", status=503, path=f"/{attack}", times=3)
    looking.post("/endpoint/down", url=f"https://a.example/{attack.replace(' ', '/')}")
    path = "/events/%3Cscript%3Ewindow.hacked=1%3C/script%3E?<script>window.hacked=1</script>"
    headers = {"User-Agent": attack, "X-Attack": attack, "Content-Type": "application/json"}
    request = urllib.request.Request(looking.base_url + path.replace("<", "%3C"), attack.encode(), headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    caught.value.close()
    looking.fake._misuses.add(attack, attack)  # private: no misuse quotes what a caller sends
    page = looking.open()
    page.fill("#search", attack)
    page.locator("#no-requests").wait_for()  # the list is that of the search: a row of before would not stay open
    page.locator("#message-list .opens").first.click()
    page.locator("h4", has_text="Data of the event").wait_for()
    page.fill("#search", "")
    page.locator("#request-list .opens").first.click()
    page.locator("[aria-label='Headers of the request']", has_text="X-Attack").wait_for()
    assert page.evaluate("window.hacked") is None
    assert attack in page.inner_text("#misuses")
    assert attack in page.inner_text("#faults")
    message_id = emitted["messageIds"][0]
    assert page.locator(f"#about-{message_id} img, #about-{message_id} script").count() == 0
    assert page.evaluate("document.querySelectorAll('script').length") == 1


def test_secrets_and_tokens_are_not_in_the_page_before_they_are_asked_for(looking: Looking) -> None:
    webhook_id = looking.post("/webhooks", url=ENDPOINT)["webhookId"]
    looking.statuses[:] = [200]
    looking.post("/emit", eventTypeId="user.created", wait=True)
    secret = looking.fake.secret(webhook_id)
    page = looking.open()
    page.locator("#message-list .opens").first.click()
    page.locator("#message-list .attempts").wait_for()
    source = urllib.request.urlopen(f"{looking.base_url}/_fake/").read().decode()
    for text in (page.content(), source):
        assert secret not in text
        assert looking.fake.api_key not in text
        assert "X-Fake-Token" not in text
        assert not re.search(r"token", text, re.IGNORECASE)
    page.get_by_role("button", name=f"Show the secret of {ENDPOINT}").click()
    page.locator(f"#secret-{webhook_id}", has_text=secret).wait_for()
    looking.post("/emit", eventTypeId="user.created", wait=True)
    page.wait_for_function("() => document.querySelectorAll('#message-list > li').length === 2")
    assert page.inner_text(f"#secret-{webhook_id}") == secret  # an update leaves it where it is


def test_a_page_of_another_origin_can_neither_read_nor_act(looking: Looking) -> None:
    with served(FakeBasiq()) as other:
        context = looking.browser.new_context()
        page = context.new_page()
        page.goto(f"{other.replace('127.0.0.1', 'localhost')}/_fake/openapi.json")
        outcomes = page.evaluate(
            """async base => {
              const outcomes = [];
              for (const options of [
                {}, {mode: "no-cors"}, {method: "POST", body: "{}"},
                {method: "POST", body: "{}", headers: {"Content-Type": "application/json"}},
                {method: "POST", mode: "no-cors", body: '{"eventTypeId": "user.created"}'},
              ]) {
                try {
                  const response = await fetch(base + "/_fake/emit", options);
                  outcomes.push(response.type);
                } catch { outcomes.push("refused"); }
              }
              return outcomes;
            }""",
            looking.base_url,
        )
        context.close()
    assert set(outcomes) <= {"refused", "opaque"}
    assert looking.get("/state")["messages"] == 0
    assert looking.get("/state")["revision"] == 0


def test_it_is_walked_by_keyboard(looking: Looking) -> None:
    looking.statuses[:] = [503, 200]
    looking.post("/webhooks", url=ENDPOINT)
    for _ in range(2):
        looking.post("/emit", eventTypeId="user.created", wait=True)
    looking.post("/next")
    page = looking.open()

    def focused() -> str:
        return page.evaluate("(document.activeElement.ariaLabel || document.activeElement.textContent || '').trim()")

    page.keyboard.press("Tab")
    assert focused() == "Skip to the messages"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    first, second = (f"#message-{message['id']}" for message in looking.get("/messages")["items"])
    assert page.evaluate("document.activeElement.closest('.row').id") == first[1:]
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('.row').id") == second[1:]
    page.keyboard.press("ArrowRight")
    assert focused().startswith("Attempt 1, at once: 503, Service Unavailable")
    assert page.inner_text("#tip") == focused()
    page.keyboard.press("ArrowRight")
    assert focused().startswith("Attempt 2, after 5 s: 200")
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.locator(f"{first} .about").wait_for()
    assert page.get_attribute(f"{first} .opens", "aria-expanded") == "true"
    page.keyboard.press("Tab")
    assert focused() == "Redeliver"
    page.keyboard.press("Enter")
    page.locator("#said", has_text="Delivered once more.").wait_for()
    assert focused() == "Redeliver"  # an update does not take the focus away
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_axe_finds_nothing(looking: Looking, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    looking.statuses[:] = [503, 200, 503, 503]
    looking.post("/webhooks", url=ENDPOINT)
    looking.post("/webhooks", url="https://bank.example/basiq", active=False)
    for event_type in ("user.created", "consent.revoked"):
        looking.post("/emit", eventTypeId=event_type, data={"a": 1}, wait=True)
    looking.post("/next")
    looking.post("/deliveries/fail", drop="response")
    looking.post("/emit", eventTypeId="user.created", wait=True)
    looking.post("/endpoint/down", status=502)
    looking.post("/fail", status=500, path="/events/*")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(looking.base_url + "/events/types")
    caught.value.close()
    Caller(looking.fake).send("GET", "/events?limit=501")
    page = looking.open(width=width, scheme=scheme)
    page.locator("#message-list .opens").first.click()
    page.locator("#message-list .attempts summary").first.click()
    page.locator("#request-list .opens").first.click()
    page.locator("[aria-label='Headers of the request']").wait_for()
    results = axe.Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


@pytest.mark.parametrize("width", [360, 900, 3840])
def test_it_fits_every_width(looking: Looking, width: int) -> None:
    looking.post("/webhooks", url="https://shop.example/" + "a-very-long-path-without-a-break" * 6)
    looking.post("/seed", messages=10, failed=0.5)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(looking.base_url + "/events/" + "x" * 300)
    caught.value.close()
    page = looking.open(width=width)
    page.locator("#message-list .opens").first.click()
    page.locator("#message-list .attempts").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_rows_are_found_and_more_of_them_are_shown(looking: Looking) -> None:
    looking.post("/webhooks", url=ENDPOINT)
    looking.post("/seed", messages=300)
    message = looking.get("/messages?limit=200")["items"][150]
    page = looking.open()
    assert page.locator("#message-list > li").count() == 60
    page.get_by_role("button", name="Show more messages").click()
    page.wait_for_function("() => document.querySelectorAll('#message-list > li').length === 260")
    page.fill("#search", message["id"][-8:].upper())
    page.wait_for_function("() => document.querySelectorAll('#message-list > li').length === 1")
    page.fill("#search", "nothing like that")
    page.locator("#no-messages", has_text="nothing like that").wait_for()


def test_without_the_token_in_its_address_the_page_shows_all_and_changes_nothing(looking: Looking) -> None:
    page = looking.open(path="/_fake/")
    start = looking.fake.now()
    page.get_by_role("button", name="+1 min").click()
    page.locator("#said", has_text="open the whole address that was printed").wait_for()
    assert looking.fake.now() == start
    looking.wrong[:] = [text for text in looking.wrong if "403" not in text]


def test_a_form_says_what_is_wrong(looking: Looking) -> None:
    page = looking.open()
    page.fill("[name=data]", "{")
    page.get_by_role("button", name="Emit").click()
    page.locator("#said", has_text="The data is not JSON.").wait_for()
    page.fill("form[data-post='/fail'] [name=status]", "")
    page.locator("form[data-post='/fail'] button").click()
    page.locator("#said", has_text="say what goes wrong").wait_for()
    looking.wrong[:] = [text for text in looking.wrong if "400" not in text]  # the browser logs such a response


def test_a_line_for_the_shell_does_the_same(looking: Looking) -> None:
    looking.post("/webhooks", url=ENDPOINT)
    message_id = looking.post("/emit", eventTypeId="user.created", wait=True)["messageIds"][0]
    page = looking.open()
    page.locator("#message-list .opens").first.click()
    line = page.locator(f"#about-{message_id} .lines code")
    line.wait_for()
    assert line.inner_text() == (
        'curl -X POST -H "Authorization: Basic $BASIQ_API_KEY" '
        f"{looking.base_url}/_fake/messages/{message_id}/redeliver"
    )


def test_nothing_in_the_page_is_inline_or_from_elsewhere() -> None:
    for path in [*PAGE.glob("templates/*.html"), *SHARED.glob("templates/*"), *SHARED.glob("static/*")]:
        text = path.read_text()
        assert not re.search(r"\bstyle=|\bon\w+=\"|<style|javascript:", text), path
        assert not re.search(r"(src|href)=\"(https?:)?//", text), path
        assert not re.search(r"\|\s*safe\b|autoescape false", text), path
    script = (SHARED / "static" / "page.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)


def test_the_page_takes_what_it_shows_from_the_control_api() -> None:
    """And what Basiq documents, such as the schedule of attempts, from the catalogue, which knows no fake."""
    for path in [PAGE / "_page.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level > 1:
                assert (node.module or "").startswith(("_web", "_redaction", "fake.catalog")), path
