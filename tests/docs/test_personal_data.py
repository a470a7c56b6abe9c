"""Every recipe for logs and reports is safe as it is copied: a balance that a handler read is in none of its output."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.environment import ROOT
from tests.support.programs import run
from tests.support.warm import CLIENT

BALANCE = "98765.43"
RECIPES = {
    "json": ("docs/logging.md", "## JSON, with the standard library"),
    "structlog": ("docs/logging.md", "## structlog"),
    "sentry": ("docs/logging.md", "## Sentry"),
    "otel": ("docs/observability.md", "# Observe"),
}
SERVICE = f'''
import asyncio, json, os, sys
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from basiq_async.receiver import SQLInbox, WebhookReceiver
from tests.support.deliveries import SECRET, payload, signed

async def main():
    engine = create_async_engine("sqlite+aiosqlite:///service.db")
    async with SQLInbox(engine) as inbox, WebhookReceiver(
        SECRET, webhook_id="wh_1", inbox=inbox, quarantine_after=2
    ) as receiver:
        INSTRUMENT(receiver)

        @receiver.on("*")
        async def handler(delivery, session: AsyncSession):
            account = {{"balance": "{BALANCE[:4]}" + "{BALANCE[4:]}"}}
            await session.execute(text("insert into accounts values (:balance)"), account)

        for number in range(4):
            body = payload(event_id=f"e-{{number // 2}}")
            await receiver.handle(signed(body, message_id=f"m-{{number // 2}}"), body)
        for entry in await receiver.quarantined():
            print("quarantined:", entry.error)
    await engine.dispose()
    FINISH()

asyncio.run(main())
'''
BEFORE = {
    "sentry": """
import os
from sentry_sdk.transport import Transport
import sentry_sdk
usual = sentry_sdk.init
class Printing(Transport):
    def capture_envelope(self, envelope):
        print(envelope.serialize().decode())
sentry_sdk.init = lambda **options: usual(**{**options, "dsn": "https://key@sentry.invalid/1", "transport": Printing})
""",
    "otel": """
import logging
logging.basicConfig(level=logging.CRITICAL)
""",
}
AFTER = {
    "otel": """
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
INSTRUMENT = instrument
FINISH = lambda: None
""",
}
PLAIN = "\nINSTRUMENT = lambda receiver: None\nFINISH = lambda: None\n"


def recipe(page: str, heading: str) -> str:
    section = (ROOT / page).read_text().partition(f"{heading}\n")[2]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None, f"{page} has no recipe below {heading!r}"
    return found[1]


def output_of(name: str, block: str, folder: Path) -> str:
    program = BEFORE.get(name, "") + block + AFTER.get(name, PLAIN) + SERVICE
    done = run(*CLIENT, "tests.support.warm:run_text", program, cwd=folder, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_shows_no_balance_that_a_handler_held(name: str, tmp_path: Path) -> None:
    shown = output_of(name, recipe(*RECIPES[name]), tmp_path)
    assert "quarantined: " in shown
    assert "m-0" in shown or "e-0" in shown, "the failure is reported"
    assert BALANCE not in shown


def test_a_recipe_that_shows_local_variables_would_be_noticed(tmp_path: Path) -> None:
    safe = recipe(*RECIPES["structlog"])
    unsafe = safe.replace("show_locals=False", "show_locals=True")
    assert unsafe != safe
    assert BALANCE in output_of("structlog", unsafe, tmp_path)
