"""How fast does the mock's page appear and show a change, when the mock's log is full?

The log has 10,000 requests. Half of the 2,000 messages failed and wait for their next attempt. Needs chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import time
from typing import Any

from basiq_async import Request
from basiq_async.testing import FakeBasiq, serve

OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
ENDPOINT = "https://shop.example/basiq"
# Resolves when a new row is at the top of the list.
NEXT_ROW = """() => new Promise(resolve => {
  const list = document.getElementById("message-list"), first = list.firstElementChild.id;
  new MutationObserver((changes, observer) => {
    if (list.firstElementChild.id === first) return;
    observer.disconnect();
    requestAnimationFrame(() => resolve(performance.timeOrigin + performance.now()));
  }).observe(list, {childList: true});
  document.body.dataset.watching = "yes";
})"""


async def full_fake(messages: int, requests: int) -> FakeBasiq:
    fake, turn = FakeBasiq(), 0

    async def receive(headers: dict[str, str], body: bytes) -> int:
        nonlocal turn
        turn += 1
        return 200 if turn % 2 else 503

    fake.route(ENDPOINT, receive)
    fake.add_webhook(ENDPOINT)
    for _ in range(messages):
        fake.emit("consent.revoked", data={"status": "revoked"})
    await fake.deliver()
    for number in range(requests):
        fake.handle(Request("GET", f"https://au-api.basiq.io/events/{number:064x}", {"accept": "application/json"}))
    return fake


async def measure(rounds: int) -> tuple[list[float], list[float]]:
    from playwright.async_api import async_playwright

    fake = await full_fake(2_000, 10_000)
    paints: list[float] = []
    updates: list[float] = []
    async with serve(fake) as base_url, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        for _ in range(rounds):
            page: Any = await browser.new_page()
            await page.goto(f"{base_url}/_fake/", wait_until="load")
            await page.wait_for_timeout(700)
            paints.append(
                await page.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime")
            )
            for _ in range(5):
                shown = asyncio.create_task(page.evaluate(NEXT_ROW))
                await page.wait_for_selector("body[data-watching]")
                await page.evaluate("() => delete document.body.dataset.watching")
                began = time.time()
                fake.emit("user.created")
                updates.append(await shown - began * 1000)
                await page.wait_for_timeout(300)
            await page.close()
        await browser.close()
    return paints, updates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    paints, updates = asyncio.run(measure(parser.parse_args().rounds))
    for name, values in (("first paint", paints), ("update", updates)):
        print(f"{name}: median {statistics.median(values):.0f} ms, worst {max(values):.0f} ms, n={len(values)}")


if __name__ == "__main__":
    main()
