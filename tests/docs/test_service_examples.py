"""The services of the examples, as two workers on PostgreSQL: nothing is lost, nothing twice, and they end in order."""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import psycopg
import pytest
import yaml

from basiq_async.testing import FakeBasiq, serve
from tests.support.command_line import run_command
from tests.support.environment import free_port
from tests.support.programs import Program, started
from tests.support.real_time import PATIENCE
from tests.support.servers import PostgresServer, postgres_server
from tests.support.warm import CLIENT

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMANDS = {
    "aiohttp": 2 * [[*CLIENT, "tests.support.warm:run_file", "service_aiohttp.py"]],
    "fastapi": [
        [*(sys.executable, "-m", "uvicorn", "--factory", "service_fastapi:make_app", "--workers", "2"),
         *("--log-level", "error", "--port")]
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


_numbers = itertools.count()


@pytest.fixture
def database(server: PostgresServer) -> PostgresServer:
    """The server that the tests of this module share, with a database of the test's own."""
    server.make_database(f"service_{next(_numbers)}")
    return server


class Workers:
    """Two workers of a service, in one process or in two."""

    def __init__(self, port: int, programs: list[Program]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._programs = programs
        self._said: list[str] = []

    async def stop(self) -> str:
        """End them at once; returns what they have said."""
        ended = await asyncio.gather(*(program.stop() for program in self._programs))
        said = "".join([*self._said, *(said for _, said in ended)])
        assert "Traceback" not in said, said
        return said

    async def until_both_run(self) -> None:
        """Wait until the recovery of each worker has written its first line: no worker is still starting."""
        async with asyncio.timeout(PATIENCE):
            for program in self._programs:
                assert program.process.stderr is not None
                running: set[str] = set()
                while len(running) < 2 // len(self._programs):
                    line = (await program.process.stderr.readline()).decode()
                    assert line, "".join(self._said)
                    self._said.append(line)
                    if found := re.match(r"(\d+) service: ", line):
                        running.add(found[1])

    async def status(self, path: str) -> int:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as response:
            return response.status

    async def until(self, path: str, status: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    if await self.status(path) == status:
                        return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)


def environment_of(port: int, database: PostgresServer, base_url: str) -> dict[str, str]:
    return {
        "PORT": str(port),
        "DATABASE_URL": database.url(),
        "PUBLIC_URL": f"http://127.0.0.1:{port}/basiq",
        "BASIQ_API_KEY": FakeBasiq.DEFAULT_API_KEY,
        "BASIQ_BASE_URL": base_url,
    }


@asynccontextmanager
async def two_workers(framework: str, port: int, database: PostgresServer, base_url: str) -> AsyncGenerator[Workers]:
    settings = environment_of(port, database, base_url)
    async with AsyncExitStack() as stack:
        programs = []
        for command in COMMANDS[framework]:
            words = [*command, str(port)] if command[-1] == "--port" else command
            programs.append(await stack.enter_async_context(started(*words, cwd=EXAMPLES, **settings)))
        yield Workers(port, programs)


async def changes(database: PostgresServer, count: int) -> list[str]:
    """The effects, once there are that many."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await asyncio.to_thread(_changes, database)
            if len(found) >= count:
                return found
            await asyncio.sleep(0.05)


def _changes(database: PostgresServer) -> list[str]:
    with psycopg.connect(database.plain_url) as connection:
        return [event_id for (event_id,) in connection.execute("SELECT event_id FROM change ORDER BY number")]


def test_the_manifest_names_a_program_and_probes_that_are_there() -> None:
    page = (EXAMPLES.parent / "docs" / "howto" / "deploy.md").read_text()
    manifest = next(yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    (named,) = [word for word in container["command"] if ":" in word]
    module, _, factory = named.partition(":")
    program = (EXAMPLES / f"{module}.py").read_text()
    assert f"def {factory}(" in program
    for probe in ("readinessProbe", "livenessProbe"):
        assert f'"{container[probe]["httpGet"]["path"]}"' in program
    assert str(container["ports"][0]["containerPort"]) in container["command"]


def test_each_probe_of_an_example_or_page_asks_by_the_function_that_bears_a_flood() -> None:
    """tests/receiver/test_readiness.py floods it."""
    root = EXAMPLES.parent
    probes = {
        file.name: probe
        for file in (*EXAMPLES.glob("*.py"), *root.glob("docs/**/*.md"))
        for probe in re.findall(r"def ready\(.*?\n(?=\n|```)", file.read_text(), re.DOTALL)
    }
    assert probes.keys() == {"receive_deferred.py", "service_aiohttp.py", "service_fastapi.py"}
    assert [name for name, probe in probes.items() if "is_ready()" not in probe or "check()" in probe] == []
    assert [file.name for file in EXAMPLES.glob("*.py") if "/readyz" in (text := file.read_text())
            and "def ready(" not in text] == []  # fmt: skip


@pytest.mark.parametrize("framework", COMMANDS)
async def test_a_service_of_two_workers_recovers_what_it_missed_then_handles_each_event_once_and_ends_in_order(
    framework: str, database: PostgresServer
) -> None:
    port, fake = free_port(), FakeBasiq(cool_off=0)
    async with serve(fake) as base_url:
        # The service is away for so long that Basiq disables the webhook, and then more happens.
        fake.add_webhook(f"http://127.0.0.1:{port}/basiq", ["consent.revoked", "account.updated"])
        missed = [(await fake.emit("consent.revoked")).event_id for _ in range(20)]
        await fake.advance(hours=28)
        missed.append((await fake.emit("consent.revoked")).event_id)
        await fake.advance(minutes=5)  # a recovery leaves the events of the last two minutes to the next one
        async with two_workers(framework, port, database, base_url) as workers:
            await workers.until_both_run()
            assert sorted(await changes(database, len(missed))) == sorted(missed)

            live = [(await fake.emit("account.updated")).event_id for _ in range(10)]
            assert sorted(await changes(database, len(missed + live))) == sorted(missed + live)

            await asyncio.to_thread(database.stop)
            await workers.until("/readyz", 503)
            assert await workers.status("/healthz") == 200
            await asyncio.to_thread(database.start)
            await workers.until("/readyz", 200)
            said = await workers.stop()
    assert "service: recovered " in said


async def test_a_deploy_loses_nothing_and_repeats_nothing_and_a_shell_reads_the_inbox_of_the_service(
    database: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old workers and new ones share the port, and the secret that the old ones stored; then the old ones end."""
    port, fake = free_port(), FakeBasiq(cool_off=0)
    async with serve(fake) as base_url, AsyncExitStack() as stack:
        old = await stack.enter_async_context(two_workers("aiohttp", port, database, base_url))
        await old.until_both_run()
        happened = [fake.emit("account.updated").event_id for _ in range(20)]
        new = await stack.enter_async_context(two_workers("aiohttp", port, database, base_url))
        await new.until_both_run()
        happened += [fake.emit("account.updated").event_id for _ in range(20)]
        await old.stop()
        happened += [fake.emit("account.updated").event_id for _ in range(20)]
        await fake.advance(minutes=6)  # Basiq sends again what met a worker that ended
        assert sorted(await changes(database, len(happened))) == sorted(happened)
        assert 401 not in {attempt.status for attempt in fake.deliveries}, "the new workers have another secret"
        await new.stop()

        (webhook,) = fake.webhooks()
        for name, value in environment_of(port, database, base_url).items():
            monkeypatch.setenv(name, value)
        monkeypatch.syspath_prepend(str(EXAMPLES))
        for words in (
            ("quarantine", "list", "--inbox", database.url()),
            ("webhooks", "doctor", webhook.id, "--receiver", "service_parts:receiver"),
            ("inbox", "get", happened[0], "--webhook", webhook.id, "--inbox", database.url()),
        ):
            done = await asyncio.to_thread(run_command, *words)
            assert done.exit_code == 0, (words, done.output)


async def test_a_url_that_is_changed_by_mistake_rolled_back_and_staging_on_a_copy_of_the_database(
    database: PostgresServer,
) -> None:
    """The webhook keeps its url and its secret, which is said, and production handles each event once."""
    port, other, fake = free_port(), free_port(), FakeBasiq(cool_off=0)
    happened: list[str] = []

    async def run(port: int, count: int, *, minutes: int = 0) -> str:
        """Run two workers until events that happen meanwhile are delivered, and return what they have said."""
        async with two_workers("aiohttp", port, database, base_url) as workers:
            await workers.until_both_run()
            happened.extend([(await fake.emit("account.updated")).event_id for _ in range(count)])
            await fake.advance(minutes=minutes)
            return await workers.stop()

    async with serve(fake) as base_url:
        await run(port, 5)
        (webhook,) = fake.webhooks()
        changed = await run(other, 5)
        assert "A second service needs another name" in changed
        await fake.advance(minutes=3)
        await run(port, 5, minutes=6)
        assert sorted(await changes(database, 15)) == sorted(happened)
        production = database.database
        await asyncio.to_thread(database.make_database, f"{production}_staging", copy_of=production)
        staging = await run(other, 2)
        assert "A second service needs another name" in staging
        database.database = production
        await run(port, 2, minutes=6)
        assert sorted(await changes(database, 19)) == sorted(happened)
        (kept,) = fake.webhooks()
        assert (kept.id, kept.url) == (webhook.id, webhook.url)
        assert 401 not in {each.status for each in fake.deliveries}
