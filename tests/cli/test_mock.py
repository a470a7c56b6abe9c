"""``basiq-async mock``: the fake over HTTP, and the commands that drive it."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import stat
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from basiq_async import BasiqClient
from basiq_async.testing import FakeBasiq, serve
from basiq_async.testing.mock.control_api import OPERATIONS
from tests.support.environment import unmeasured

from ..support.programs import Program
from ..support.served import Handler, answering
from .conftest import Run, Served, ran, started

NO_LISTENER = "http://127.0.0.1:9/basiq"


def mock(*options: str, **more: Any) -> AbstractAsyncContextManager[Program]:
    return started("mock", "--port", "0", *options, **more)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_mock_says_how_to_call_it_serves_and_stops_at_a_signal(number: signal.Signals) -> None:
    async with mock("--seed-messages", "1000", "--speed", "60", "--json") as program:
        ready = await program.row()
        async with BasiqClient(ready["api_key"], base_url=ready["base_url"]) as basiq:
            assert len(await basiq.messages.list(ready["webhook_id"]).collect()) == 1000
        assert await program.end(number) == (0, [])


async def test_mock_says_that_it_cannot_listen() -> None:
    async with serve(FakeBasiq()) as base_url, started("mock", "--port", base_url.rpartition(":")[2]) as program:
        assert await program.end() == (2, [])
    assert "cannot listen on 127.0.0.1" in program.shown


# --- driving one that runs ---


def call(run: Run, *arguments: str) -> dict[str, Any]:
    done = run("mock", "call", *arguments)
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_python_can_arrange_a_shell_can(run: Run, served: Served) -> None:
    fake = served.fake
    webhook_id = fake.add_webhook("https://unreachable.example/basiq")
    before = fake.now()
    assert call(run, "advance", "minutes=15")["attempts"] == 0
    assert (fake.now() - before).total_seconds() == 900
    (message_id,) = call(run, "emit", "eventTypeId=consent.revoked", 'data={"x": 1}', "wait=true")["messageIds"]
    call(run, "endpointDown", "status=503")
    call(run, "redeliver", f"messageId={message_id}", "wait=true")
    (delivery,) = call(run, "deliveries", "limit=1")["items"]
    assert (delivery["status"], delivery["messageId"]) == (503, message_id)
    assert call(run, "webhookSecret", f"webhookId={webhook_id}") == {"secret": fake.secret(webhook_id)}
    assert call(run, "message", f"messageId={message_id}")["data"] == {"x": 1}


@pytest.mark.documented_world("it looks at what a list tells of attempts", "attempts")
def test_a_value_is_json_or_text_and_a_text_stays_one(run: Run, served: Served) -> None:
    fake = served.fake
    webhook_id = fake.add_webhook("https://unreachable.example/basiq")
    call(run, "seed", "messages=40", 'eventTypes=["consent.revoked", "user.created"]', "every=60", "failed=1")
    messages = run("messages", "list", webhook_id).rows
    assert {each["event_type_id"] for each in messages} == {"consent.revoked", "user.created"}
    first, second, *_ = sorted(datetime.fromisoformat(each["last_attempt"]) for each in messages)
    assert (second - first).total_seconds() == 60
    headers, path = 'headers={"X-Of-The-Test": "1"}', "path=/events/types"
    call(run, "fail", "status=429", headers, path, 'body={"a": "b=c"}', "times=2")
    (fault,) = fake._faults
    assert (fault.status, fault.headers["x-of-the-test"], fault.body) == (429, "1", b'{"a": "b=c"}')
    call(run, "failDeliveries", "drop=response", "times=3")
    state = call(run, "state")
    assert (state["faults"][0]["left"], state["deliveryFaults"][0]["left"]) == (2, 3)


def test_the_commands_misuse_nothing_so_misuses_can_end_a_job(run: Run, served: Served) -> None:
    for _ in range(6):
        assert run("webhooks", "list").exit_code == 0
        assert run("webhooks", "create", "--url", "nonsense", "--event", "user.created").exit_code
    assert call(run, "misuses") == {"items": []}


def test_the_help_lists_each_operation_with_its_fields(run: Run) -> None:
    printed = " ".join(run("mock", "call", "--help").output.split())
    for name, operation in OPERATIONS.items():
        assert f"{name}: {operation.summary}." in printed
        for field, each in operation.inputs.items():
            assert (
                f"{field}{' (required)' if each.required else ''}: {each.about.description}".replace("`", "") in printed
            )


async def test_a_mock_has_the_key_the_forms_and_the_latency_of_its_options() -> None:
    options = (
        "--json", "--api-key", "a2V5OmtleQ==",
        "--event-type", "loan.approved", "--quirk", "type-case=title", "--latency", "0.02", "--failed", "0.5",
    )  # fmt: skip
    async with mock(*options, "--seed-messages", "20") as program:
        ready = await program.row()
        assert ready["api_key"] == "a2V5OmtleQ=="
        async with BasiqClient(ready["api_key"], base_url=ready["base_url"]) as basiq:
            assert "loan.approved" in [kind.id async for kind in basiq.event_types.list()]
            messages = await basiq.messages.list(ready["webhook_id"]).collect()
            assert {message.delivered for message in messages} == {True, False}
            assert (await basiq.webhooks.get(ready["webhook_id"])).raw["type"] == "Webhook"
        await program.end(signal.SIGTERM)


async def test_a_mock_is_the_engine_with_a_quirk_that_differs() -> None:
    options = ("--json", "--world", "engine", "--quirk", "attempts=strings", "--quirk", "concurrency=2")
    async with mock(*options, "--seed-messages", "2") as program:
        ready = await program.row()
        async with BasiqClient(ready["api_key"], base_url=ready["base_url"]) as basiq:
            first, second = await basiq.messages.list(ready["webhook_id"]).collect()
            assert all(isinstance(each, str) for each in first.raw["attempts"])
            event, earlier = [await basiq.events.fetch(each) for each in (first, second)]
            assert event.created is not None
            assert earlier.created is not None
            assert event.created > earlier.created
        await program.end(signal.SIGTERM)


async def test_every_start_has_a_key_and_ids_of_its_own_and_a_shell_can_use_what_is_printed() -> None:
    keys, ids = set(), set()
    for _ in range(2):
        async with mock(env=unmeasured()) as program:
            words = shlex.split(await program.line())
            assert words[0] == "export"
            assert words[1].startswith("BASIQ_BASE_URL=http://127.0.0.1:")
            base_url, key = (word.partition("=")[2] for word in words[1:3])
            keys.add(key)
            async with BasiqClient(key, base_url=base_url) as basiq:
                ids.add((await basiq.webhooks.create(url=NO_LISTENER, subscribed_events=["user.created"])).id)
    assert len(keys) == len(ids) == 2
    assert FakeBasiq.DEFAULT_API_KEY not in keys


# --- which mock, and when ---


async def command(*words: str, **variables: str) -> tuple[int | None, str, str]:
    env = {name: value for name, value in unmeasured().items() if not name.startswith("BASIQ_")}
    return await ran(*words, **env | variables)


async def test_a_script_waits_for_the_mock_that_it_starts(tmp_path: Path) -> None:
    file = tmp_path / "ready"
    file.write_text(json.dumps({"base_url": "http://127.0.0.1:9", "api_key": "b2xk"}))  # of a mock that was killed
    waiting = asyncio.create_task(command("mock", "wait", "--ready-file", str(file)))
    async with mock("--ready-file", str(file)) as program:
        code, out, err = await waiting
        assert (code, err) == (0, "")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        ready = json.loads(file.read_text())
        assert out == f"export BASIQ_BASE_URL={ready['base_url']} BASIQ_API_KEY={ready['api_key']}\n"
        named = {"BASIQ_BASE_URL": ready["base_url"], "BASIQ_API_KEY": ready["api_key"]}
        assert (await command("mock", "wait", **named))[1] == out
        assert (await command("mock", "wait", **{**named, "BASIQ_API_KEY": "b3RoZXI="}))[0] == 1
        program.process.send_signal(signal.SIGTERM)
        await program.process.communicate()
        assert not file.exists()


async def test_where_no_mock_is_ready_no_later_command_reaches_a_stored_profile(tmp_path: Path) -> None:
    code, out, err = await command("mock", "wait", "--ready-file", str(tmp_path / "none"), "--timeout", "0.1")
    assert code == 1
    assert "does not exist yet" in err
    for shell in ("sh", "bash"):
        script = f"eval {shlex.quote(out)}; echo $? $BASIQ_BASE_URL $BASIQ_API_KEY"
        process = await asyncio.create_subprocess_exec(shell, "-c", script, stdout=asyncio.subprocess.PIPE)
        assert (await process.communicate())[0] == b"1 http://no-mock.invalid no-mock\n"
        process = await asyncio.create_subprocess_exec(shell, "-ec", f"eval {shlex.quote(out)}; exit 7")
        assert await process.wait() == 1
    done = await command("webhooks", "list", BASIQ_BASE_URL="http://no-mock.invalid", BASIQ_API_KEY="no-mock")
    assert done[0] == 2
    assert "BASIQ_BASE_URL is set and empty" in (await command("webhooks", "list", BASIQ_BASE_URL=""))[2]


def test_a_command_drives_the_mock_that_it_names_and_no_other(
    run: Run, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("mock", "call", "advance", "minutes=15").exit_code == 0
    after = served.fake.now()
    for name, value, code, printed in (
        ("BASIQ_API_KEY", "b3RoZXI=", 1, "it is another mock"),
        ("BASIQ_API_KEY", "", 2, "no mock is named, because BASIQ_API_KEY is not set"),
        ("BASIQ_BASE_URL", "", 2, "BASIQ_BASE_URL is set and empty"),
        ("BASIQ_BASE_URL", "nonsense", 2, "base url must be"),
        ("BASIQ_BASE_URL", "http://127.0.0.1:9", 1, "start one with 'basiq-async mock'"),
    ):
        with monkeypatch.context() as wrong:
            wrong.setenv(name, value)
            done = run("mock", "call", "advance", "minutes=15")
        assert (done.exit_code, done.stdout) == (code, "")
        assert printed in done.stderr
    assert served.fake.now() == after


async def test_each_start_of_a_mock_is_empty_with_new_secrets_and_a_seed_repeats_its_ids() -> None:
    made = []
    for _ in range(2):
        async with mock("--json", "--api-key", FakeBasiq.DEFAULT_API_KEY, "--seed", "s", env=unmeasured()) as program:
            ready = await program.row()
            async with BasiqClient(ready["api_key"], base_url=ready["base_url"]) as basiq:
                assert await basiq.webhooks.list().collect() == []
                made.append(await basiq.webhooks.create(url=NO_LISTENER, subscribed_events=["user.created"]))
    assert made[0].id == made[1].id
    assert made[0].secret != made[1].secret


def test_the_key_names_the_state_of_a_mock(run: Run, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    key = call(run, "addState", "name=payments", "seed=7", "still=true")["apiKey"]
    assert served.fake.states[key].name == "payments"
    monkeypatch.setenv("BASIQ_API_KEY", key)
    assert run("mock", "call", "state", terminal=True).row["name"] == "payments"
    call(run, "removeState")
    assert run("mock", "call", "state").exit_code == 1


def test_no_command_sends_the_key_to_another_service_of_the_host(
    run: Run, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, requests = served.fake.api_key, list[str]()

    class Company(Handler):
        """Another service of the host where a base url has a path."""

        def do_GET(self) -> None:
            requests.append(f"{self.path}\n{self.headers}")
            asked = self.path == "/_fake/challenge"
            self.respond(200 if asked else 404, body=b'{"challenge": "of mine"}' if asked else b"")

        do_POST = do_GET

    with answering(Company) as url:
        monkeypatch.setenv("BASIQ_BASE_URL", f"{url}/basiq")
        monkeypatch.setenv("BASIQ_MOCK_TOKEN", "t0ken-canary")
        assert run("mock", "call", "advance", "minutes=15").exit_code == 1
        assert run("mock", "wait", "--timeout", "0.1").exit_code != 0
        assert len(requests) >= 2
        assert not any(key in each or "Authorization" in each or "t0ken-canary" in each for each in requests)
        run("--timeout", "1", "webhooks", "list")  # as a client does, which asks for a token below the base url
        assert [each.partition("\n")[0] for each in requests if key in each] == ["/basiq/token"]


async def test_a_command_proves_the_token_of_a_mock_on_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basiq_async._web.access.is_loopback", lambda request: False)
    fake = FakeBasiq()
    async with serve(fake, control_token="t0ken") as base_url:
        for token, code, said in ((None, 1, "token"), ("wrong", 1, "does not prove"), ("t0ken", 0, "")):
            known = {"BASIQ_BASE_URL": base_url, "BASIQ_API_KEY": fake.api_key, "BASIQ_MOCK_TOKEN": token or ""}
            for call in (("advance", "minutes=15"), ("state",)):
                ended, _, told = await command("mock", "call", *call, **known)
                assert (ended, said in told) == (code, True), told


def test_a_mock_on_another_machine_needs_its_token(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASIQ_BASE_URL", "https://no-mock.invalid/basiq")
    done = run("mock", "call", "advance", "minutes=15")
    assert (done.exit_code, "set BASIQ_MOCK_TOKEN" in done.stderr) == (2, True)
    monkeypatch.setenv("BASIQ_MOCK_TOKEN", "t0ken")
    done = run("mock", "call", "advance", "minutes=15")
    assert (done.exit_code, "no mock responds" in done.stderr) == (1, True)
