"""Takes the pictures of ``docs/images``: the mock's page, a replay's page, and what ``basiq-async demo`` prints.

Needs chromium and playwright. With the argument ``demo`` it takes that picture alone, and needs neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any, Literal

from playwright.async_api import async_playwright
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from basiq_async import BasiqClient, InMemoryTransport, Message
from basiq_async.receiver import MemoryInbox
from basiq_async.replay import Replay, serve_page
from basiq_async.testing import FakeBasiq, serve

FOLDER = Path(__file__).parent / "images"
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
SHOP, BANK = "https://shop.example/basiq", "https://bank.example/hooks/basiq"
Scheme = Literal["light", "dark"]
PICTURES: tuple[tuple[str, Scheme, int, int], ...] = (
    ("mock-light", "light", 1440, 900),
    ("mock-dark", "dark", 1440, 900),
    ("mock-phone", "light", 390, 800),
)
REPLAY_PICTURES: tuple[tuple[str, Scheme, int, int], ...] = (
    ("replay-light", "light", 1200, 800),
    ("replay-dark", "dark", 1200, 800),
)


async def fill(fake: FakeBasiq, base_url: str) -> None:
    """Let an afternoon go by."""
    statuses = iter([200, 503, 200, 200, 503, 500] * 50)

    async def shop(headers: dict[str, str], body: bytes) -> int:
        return next(statuses)

    async def bank(headers: dict[str, str], body: bytes) -> int:
        return 503

    fake.route(SHOP, shop)
    fake.route(BANK, bank)
    fake.add_webhook(SHOP)
    fake.add_webhook(BANK, ["consent.revoked", "consent.expired"])
    async with BasiqClient(fake.api_key, base_url=base_url) as basiq:
        await basiq.webhooks.create(url="http://127.0.0.1:8000/basiq", subscribed_events=["user.created"])
        for webhook in await basiq.webhooks.list().collect():
            await basiq.messages.list(webhook.id).collect()
        await basiq.event_types.list().collect()
    for number, event_type in enumerate(fake.event_types):
        await fake.emit(event_type)
        await fake.advance(seconds=[40, 400, 20, 3000, 5, 9000, 20][number % 7])
    fake.fail_deliveries(drop="response")
    await fake.emit("consent.revoked", data={"status": "revoked", "reason": "asked by the user"})
    fake.endpoint_down(BANK)
    fake.fail_next(2, status=503, path="/events/*")


async def take(browser: Any, base_url: str, name: str, scheme: Scheme, width: int, height: int) -> None:
    context = await browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height})
    page = await context.new_page()
    await page.goto(f"{base_url}/_fake/")
    if scheme == "dark":
        await page.locator("#message-list .opens").nth(1).click()
        await page.locator("#message-list .attempts").wait_for()
        await page.mouse.move(0, 0)
    await page.wait_for_timeout(300)
    await page.screenshot(path=FOLDER / f"{name}.png")
    await context.close()


async def take_replay(browser: Any) -> None:
    """A replay in the middle of its work, seen by two readers: one likes it light, one dark and narrow."""
    fake = FakeBasiq()
    webhook_id = fake.seed_messages(60_000)
    loop = asyncio.get_running_loop()

    async def handle(message: Message) -> None:
        await asyncio.sleep(0.012 + 0.004 * math.sin(loop.time() / 3))
        if message.id.endswith("777"):
            raise ValueError("no user for this connection")

    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        replay = Replay(basiq, webhook_id, handle, inbox=MemoryInbox())
        async with serve_page(replay) as url:
            run = asyncio.create_task(replay.run())
            await asyncio.sleep(15)
            for name, scheme, width, height in REPLAY_PICTURES:
                context = await browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height})
                page = await context.new_page()
                await page.goto(url)
                await page.wait_for_timeout(500)
                await page.screenshot(path=FOLDER / f"{name}.png")
                await context.close()
            replay.stop()
            await run


def take_demo() -> None:
    """What the demo prints at 80 columns, in colours, down to the program that it shows at its end."""
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 100, 80, 0, 0))
    command = [str(Path(sys.executable).with_name("basiq-async")), "demo"]
    printed = b""
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, close_fds=True):
        os.close(terminal)
        with contextlib.suppress(OSError):  # the program has ended
            while data := os.read(master, 65_536):
                printed += data
    os.close(master)
    story = printed.decode().replace("\r\n", "\n").partition("The program that recovers")[0]
    story = "\n".join(line.rpartition("\r")[2] for line in story.split("\n"))
    console = Console(record=True, width=80, file=open(os.devnull, "w"))  # noqa: SIM115  # it ends with the program
    console.print(Text.from_ansi(story.rstrip()))
    svg = console.export_svg(title="make demo", theme=MONOKAI)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # the page loads nothing from elsewhere
    svg = "\n".join(line.rstrip() for line in svg.splitlines() if line.strip())
    (FOLDER / "demo.svg").write_text(svg + "\n")


async def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    fake = FakeBasiq()
    async with serve(fake, port=4010) as base_url, async_playwright() as playwright:
        await fill(fake, base_url)
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        for picture in PICTURES:
            await take(browser, base_url, *picture)
        await take_replay(browser)
        await browser.close()


if __name__ == "__main__":
    take_demo()
    if sys.argv[1:] != ["demo"]:
        asyncio.run(main())
