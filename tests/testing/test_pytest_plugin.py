"""The fixtures work where the package is installed: with pytest-asyncio and with anyio, and say what is wrong else."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.real_time import PATIENCE
from tests.support.warm import CLIENT

pytestmark = pytest.mark.usefixtures("warm_programs")
PYTEST = (*CLIENT, "pytest:console_main")
EXAMPLE = Path(__file__).parents[2] / "examples" / "pytest_suite"

BODY = """
    async def test_client(self, fake_basiq, basiq_client, basiq_strict):
        webhook_id = fake_basiq.seed_messages(3)
        assert len(await basiq_client.messages.list(webhook_id).collect()) == 3

    async def test_server(self, fake_basiq, basiq_server):
        async with BasiqClient(fake_basiq.api_key, base_url=basiq_server) as basiq:
            assert len(await basiq.event_types.list().collect()) == 15
"""
ASYNCIO = f"""
import pytest
from basiq_async import BasiqClient

@pytest.mark.asyncio
class TestAsyncio:
{BODY}
"""
ANYIO = f"""
import pytest
from basiq_async import BasiqClient

@pytest.mark.anyio
class TestAnyio:
    @pytest.fixture
    def anyio_backend(self):
        return BACKEND
{BODY}
"""


def run(folder: Path, *options: str, **files: str) -> str:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    command = [*PYTEST, "-q", "-W", "error", *QUICK, *options, str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE)
    return done.stdout + done.stderr


# Other plugins that are installed here take seconds to load, and have no part in this.
QUICK = [f"-pno:{name}" for name in ("cacheprovider", "schemathesis", "hypothesispytest", "randomly", "pytest_cov")]
LOOPS = ("-o", "asyncio_default_fixture_loop_scope=function")


WITH_BACKEND = {name: ANYIO.replace("BACKEND", name) for name in ("'asyncio'", "('asyncio', {})", "'trio'")}
AUTO, NO_ASYNCIO = (*LOOPS, "-o", "asyncio_mode=auto"), ("-p", "no:asyncio")


@pytest.mark.parametrize(
    ("options", "files", "said"),
    [
        ((*LOOPS, "-o", "asyncio_mode=strict"), {"test_it": ASYNCIO}, ["2 passed"]),
        (AUTO, {"test_it": ASYNCIO}, ["2 passed"]),
        (LOOPS, {"test_it": ASYNCIO, "test_any": WITH_BACKEND["'asyncio'"]}, ["4 passed"]),
        (NO_ASYNCIO, {"test_it": WITH_BACKEND["('asyncio', {})"]}, ["2 passed"]),
        (AUTO, {"test_it": WITH_BACKEND["'asyncio'"]}, ["2 errors", "set asyncio_mode to strict"]),
        (NO_ASYNCIO, {"test_it": WITH_BACKEND["'trio'"]}, ["2 errors", "the fixture anyio_backend return 'asyncio'"]),
        (LOOPS, {"test_it": "def test_it(basiq_server): pass"}, ["1 error", "basiq_server needs an async test"]),
    ],
    ids=["strict", "auto", "anyio beside it", "anyio alone", "both run a test", "trio", "no async test"],
)
def test_the_fixtures_work_with_both_plugins_or_say_what_to_do(
    tmp_path: Path, options: Sequence[str], files: dict[str, str], said: Sequence[str]
) -> None:
    shown = run(tmp_path, *options, **files)
    assert [text for text in said if text not in shown] == [], shown


def test_a_misuse_fails_the_test_that_asked_for_that(tmp_path: Path) -> None:
    text = """
from basiq_async import Request

def test_it(fake_basiq, basiq_strict):
    key = {"authorization": f"Basic {fake_basiq.api_key}"}
    fake_basiq.handle(Request("GET", "https://au-api.basiq.io/events", key))

def test_other(fake_basiq):
    key = {"authorization": f"Basic {fake_basiq.api_key}"}
    fake_basiq.handle(Request("GET", "https://au-api.basiq.io/events", key))
"""
    shown = run(tmp_path, *LOOPS, test_it=text)
    assert "2 passed, 1 error" in shown
    assert "Basiq was misused" in shown
    assert "key-on-operation" in shown


@pytest.mark.parametrize("world", ["documented", "engine"])
def test_the_example_of_a_services_own_suite_passes(world: str) -> None:
    command = [*PYTEST, "-q", *QUICK, f"--basiq-world={world}", str(EXAMPLE)]
    done = subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert "6 passed" in done.stdout, done.stdout + done.stderr


IDS = """
import pytest

@pytest.mark.parametrize("number", [1, 2])
def test_ids(fake_basiq, number):
    print("id", fake_basiq.add_webhook())
    assert number == 0

def test_without_a_fake():
    assert False
"""


def test_a_failing_test_names_the_seed_that_repeats_its_ids_and_no_two_have_the_same(tmp_path: Path) -> None:
    out = run(tmp_path, *LOOPS, "-o", "asyncio_mode=strict", test_it=IDS)
    ids = re.findall(r"^id (\S+)", out, re.MULTILINE)
    seeds = re.findall(r"made from the seed '(\w+)'; --basiq-seed=\1 repeats them", out)
    assert len(set(ids)) == len(set(seeds)) == out.count("made from the seed") == 2
    again = run(tmp_path, *LOOPS, "-o", "asyncio_mode=strict", f"--basiq-seed={seeds[1]}", "-k", "ids")
    assert re.findall(r"^id (\S+)", again, re.MULTILINE) == [ids[1]] * 2


MISTAKES = """
import asyncio
from basiq_async import InMemoryTransport, BasiqClient
from basiq_async.receiver import MemoryInbox, WebhookReceiver

URL = "https://service.example/basiq"


def listening(fake, handler):
    webhook_id = fake.add_webhook(URL)
    receiver = WebhookReceiver(fake.secret(webhook_id), webhook_id=webhook_id, inbox=MemoryInbox())
    receiver.on("*")(handler)
    fake.route(URL, receiver)
    for _ in range(20):
        fake.emit("user.created", user_id="u-1")
    fake.emit("user.deleted", user_id="u-1")


async def test_race(fake_basiq):
    counts = {}

    async def count(delivery):
        before = counts.get("u-1", 0)
        await asyncio.sleep(0)  # as a database takes its time
        counts["u-1"] = before + 1

    listening(fake_basiq, count)
    await fake_basiq.deliver()
    assert counts == {"u-1": 21}


async def test_order(fake_basiq):
    seen = []

    async def note(delivery):
        seen.append(delivery.event_type_id)

    listening(fake_basiq, note)
    await fake_basiq.deliver()
    assert seen[-1] == "user.deleted"
"""


@pytest.mark.parametrize(("world", "said"), [("documented", "2 passed"), ("engine", "2 failed")])
def test_a_race_and_a_mistake_about_order_are_found_in_the_engines_world(tmp_path: Path, world: str, said: str) -> None:
    assert said in run(tmp_path, *AUTO, f"--basiq-world={world}", "--basiq-seed=1", test_it=MISTAKES)
