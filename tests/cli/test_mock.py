"""``basiq-async mock``: the fake over HTTP, and the commands that drive it."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import stat
import threading
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from basiq_async import BasiqClient, Request
from basiq_async.testing import FakeBasiq, serve
from tests.support.environment import unmeasured

from ..support.command_line import PROGRAM
from ..support.real_time import PATIENCE
from .conftest import Run, Served

NOBODY = "http://127.0.0.1:9/basiq"


async def mock(*options: str, env: dict[str, str] | None = None) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *PROGRAM, "mock", *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_mock_says_how_to_call_it_serves_and_stops_at_a_signal(number: signal.Signals) -> None:
    process = await mock("--port", "0", "--seed-messages", "1000", "--speed", "60", "--json")
    assert process.stdout is not None
    try:
        ready = json.loads(await asyncio.wait_for(process.stdout.readline(), PATIENCE))
        async with BasiqClient(ready["api_key"], base_url=ready["base_url"]) as basiq:
            assert len(await basiq.messages.list(ready["webhook_id"]).collect()) == 1000
        process.send_signal(number)
        out, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert (process.returncode, out) == (0, b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_mock_says_what_is_wrong_with_its_arguments() -> None:
    process = await mock("--speed", "0")
    _, err = await process.communicate()
    assert process.returncode == 2
    assert b"speed must be above 0" in err
    async with serve(FakeBasiq()) as base_url:
        process = await mock("--port", base_url.rpartition(":")[2])
        _, err = await process.communicate()
    assert process.returncode == 2
    assert b"cannot listen on 127.0.0.1" in err


# --- driving one that runs ---


def authorization(served: Served) -> str:
    form = "application/x-www-form-urlencoded"
    headers = {"authorization": f"Basic {served.fake.api_key}", "basiq-version": "3.0", "content-type": form}
    answer = served.fake.handle(Request("POST", f"{served.url}/token", headers, b"scope=SERVER_ACCESS"))
    return f"Bearer {json.loads(answer.body)['access_token']}"


def row(run: Run, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = run("mock", *arguments)
    assert done.exit_code == code, done.output
    found: dict[str, Any] = done.row
    return found


def rows(run: Run, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    done = run("mock", *arguments)
    assert done.exit_code == code, done.output
    return done.rows


def test_what_python_can_arrange_a_shell_can(run: Run, served: Served, tmp_path: Path) -> None:
    fake = served.fake
    webhook_id = fake.add_webhook("https://unreachable.example/basiq")
    before = fake.now()
    assert row(run, "advance", "15m")["attempts"] == 0
    assert (fake.now() - before).total_seconds() == 900
    (tmp_path / "data.json").write_text('{"x": 1}')
    emitted = row(run, "emit", "consent.revoked", "--user-id", "u1", "--data", f"@{tmp_path / 'data.json'}", "--wait")
    assert len(emitted["message_ids"]) == 1
    assert row(run, "advance", "next")["attempts"] == 1
    (delivery, first) = rows(run, "deliveries")
    assert delivery["message_id"] == first["message_id"] == emitted["message_ids"][0]
    row(run, "endpoint", "down", "--status", "503")
    row(run, "redeliver", emitted["message_ids"][0])
    assert rows(run, "deliveries", "--limit", "1")[0]["status"] == 503
    row(run, "endpoint", "up")
    row(run, "fail", "2", "--status", "503", "--path", "/events/*")
    row(run, "fail-deliveries", "3", "--drop", "response")
    state = row(run, "state")
    assert (state["faults"][0]["left"], state["delivery_faults"][0]["left"]) == (2, 3)
    assert row(run, "seed", "100", "--webhook-id", webhook_id)["webhook_id"] == webhook_id
    assert run("mock", "secret", webhook_id).stdout == fake.secret(webhook_id) + "\n"
    row(run, "expire-tokens")
    assert rows(run, "violations") == []
    row(run, "reset")
    assert fake.webhooks() == []


def test_a_field_of_each_kind_is_given_as_an_option(run: Run, served: Served) -> None:
    fake = served.fake
    webhook_id = fake.add_webhook("https://unreachable.example/basiq")
    types = ("--event-type", "consent.revoked", "--event-type", "user.created")
    row(run, "seed", "40", "--webhook-id", webhook_id, *types, "--every", "60", "--failed", "1")
    messages = run("messages", "list", webhook_id).rows
    assert {each["event_type_id"] for each in messages} == {"consent.revoked", "user.created"}
    assert not any(each["delivered"] for each in messages)
    first, second, *_ = sorted(datetime.fromisoformat(each["last_attempt"]) for each in messages)
    assert (second - first).total_seconds() == 60
    row(run, "fail", "--status", "429", "--headers", '{"X-Of-The-Test": "1"}', "--path", "/events/types")
    refused = fake.handle(Request("GET", f"{served.url}/events/types", {"authorization": authorization(served)}))
    assert (refused.status, refused.headers["x-of-the-test"]) == (429, "1")
    row(run, "fail", "--loop", "--method", "GET")
    assert row(run, "state")["faults"][0]["loop"] is True


def test_the_commands_misuse_nothing_so_violations_can_end_a_job(run: Run, served: Served) -> None:
    for _ in range(6):
        assert run("webhooks", "list").exit_code == 0
        assert run("webhooks", "create", "--url", "nonsense", "--event", "user.created").exit_code
    assert rows(run, "violations") == []


def test_requests_are_listed_newest_first_in_pages_and_violations_end_with_1(run: Run, served: Served) -> None:
    for _ in range(3):
        assert run("webhooks", "list").exit_code == 0
    listed = rows(run, "requests", "--limit", "2")
    assert [each["number"] for each in listed] == [6, 5]
    assert len(rows(run, "requests", "--limit", "0")) == 6
    assert all(each["path"] == "/token" for each in rows(run, "requests", "--search", "/token"))
    served.fake.handle(Request("GET", f"{served.url}/events/types?limit=501", {"authorization": authorization(served)}))
    assert {each["code"] for each in rows(run, "violations", code=1)} == {"limit"}


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("advance", "soon"), 2, "must be a length of time"),
        (("emit", "no.such"), 2, "no event type"),
        (("emit", "user.created", "--data", "["), 2, "--data is not JSON"),
        (("fail", "--headers", "[]"), 2, "--headers must be a JSON object"),
        (("redeliver", "none"), 1, "there is no message"),
        (("remove-state",), 2, "the first state of a mock cannot be removed"),
    ],
)
def test_a_call_that_a_mock_refuses_is_one_line(run: Run, arguments: tuple[str, ...], code: int, told: str) -> None:
    done = run("mock", *arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


async def test_a_mock_keeps_its_state_and_has_the_key_the_forms_and_the_latency_of_its_options(
    tmp_path: Path,
) -> None:
    options = (
        "--port", "0", "--json", "--state", str(tmp_path / "state.json"), "--api-key", "a2V5OmtleQ==",
        "--event-type", "loan.approved", "--quirk", "type-case=title", "--latency", "0.02", "--failed", "0.5",
    )  # fmt: skip
    process = await mock(*options, "--seed-messages", "20")
    try:
        assert process.stdout is not None
        ready = json.loads(await asyncio.wait_for(process.stdout.readline(), PATIENCE))
        assert ready["api_key"] == "a2V5OmtleQ=="
        async with BasiqClient(ready["api_key"], base_url=ready["base_url"]) as basiq:
            assert "loan.approved" in [kind.id async for kind in basiq.event_types.list()]
            messages = await basiq.messages.list(ready["webhook_id"]).collect()
            assert {message.delivered for message in messages} == {True, False}
            assert (await basiq.webhooks.get(ready["webhook_id"])).raw["type"] == "Webhook"
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), PATIENCE)
        assert (tmp_path / "state.json").stat().st_size > 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_every_start_has_a_key_and_ids_of_its_own_and_a_shell_can_use_what_is_printed() -> None:
    keys, ids = set(), set()
    for _ in range(2):
        process = await mock("--port", "0", env=unmeasured())
        try:
            assert process.stdout is not None
            line = (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode()
            words = shlex.split(line)
            assert words[0] == "export"
            assert words[1].startswith("BASIQ_BASE_URL=http://127.0.0.1:")
            keys.add(words[2].removeprefix("BASIQ_API_KEY="))
            async with BasiqClient(
                words[2].removeprefix("BASIQ_API_KEY="), base_url=words[1].removeprefix("BASIQ_BASE_URL=")
            ) as basiq:
                ids.add((await basiq.webhooks.create(url=NOBODY, subscribed_events=["user.created"])).id)
        finally:
            process.kill()
            await process.communicate()
    assert len(keys) == len(ids) == 2
    assert FakeBasiq.DEFAULT_API_KEY not in keys


# --- which mock, and when ---


async def command(*arguments: str, **environment: str) -> tuple[int | None, str, str]:
    env = {name: value for name, value in unmeasured().items() if not name.startswith("BASIQ_")}
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=env | environment,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_a_script_waits_for_the_mock_that_it_starts(tmp_path: Path) -> None:
    file = tmp_path / "ready"
    file.write_text(json.dumps({"base_url": "http://127.0.0.1:9", "api_key": "b2xk"}))  # of a mock that was killed
    waiting = asyncio.create_task(command("mock", "wait", "--ready-file", str(file)))
    process = await mock("--port", "0", "--ready-file", str(file))
    try:
        code, out, err = await waiting
        assert (code, err) == (0, "")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        ready = json.loads(file.read_text())
        assert out == f"export BASIQ_BASE_URL={ready['base_url']} BASIQ_API_KEY={ready['api_key']}\n"
        named = {"BASIQ_BASE_URL": ready["base_url"], "BASIQ_API_KEY": ready["api_key"]}
        assert (await command("mock", "wait", **named))[1] == out
        assert (await command("mock", "wait", **{**named, "BASIQ_API_KEY": "b3RoZXI="}))[0] == 1
        process.send_signal(signal.SIGTERM)
        await process.communicate()
        assert not file.exists()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


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


@pytest.mark.parametrize("arguments", [("advance", "15m"), ("emit", "user.created"), ("state",), ("violations",)])
def test_a_command_drives_the_mock_that_it_names_and_no_other(
    run: Run, served: Served, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = served.fake.revision
    assert run("mock", *arguments).exit_code == 0
    after = served.fake.revision
    for name, value, code, told in (
        ("BASIQ_API_KEY", "b3RoZXI=", 1, "it is another mock"),
        ("BASIQ_API_KEY", "", 2, "no mock is named, because BASIQ_API_KEY is not set"),
        ("BASIQ_BASE_URL", "", 2, "no mock is named, because BASIQ_BASE_URL is not set"),
        ("BASIQ_BASE_URL", "nonsense", 2, "base url must be"),
        ("BASIQ_BASE_URL", "http://127.0.0.1:9", 1, "start one with 'basiq-async mock'"),
    ):
        with monkeypatch.context() as wrong:
            wrong.setenv(name, value)
            done = run("mock", *arguments)
        assert (done.exit_code, done.stdout) == (code, "")
        assert told in done.stderr
    assert served.fake.revision == after >= before


async def test_a_state_file_keeps_the_key_and_what_a_mock_that_was_killed_left(tmp_path: Path) -> None:
    options = ("--port", "0", "--json", "--state", str(tmp_path / "state.json"))
    keys, made = set(), ""
    for _ in range(3):
        process = await mock(*options, env=unmeasured())
        try:
            assert process.stdout is not None
            ready = json.loads(await asyncio.wait_for(process.stdout.readline(), PATIENCE))
            keys.add(ready["api_key"])
            async with BasiqClient(ready["api_key"], base_url=ready["base_url"]) as basiq:
                if made:
                    assert [each.id async for each in basiq.webhooks.list()] == [made]
                else:
                    made = (await basiq.webhooks.create(url=NOBODY, subscribed_events=["user.created"])).id
                    while made not in (tmp_path / "state.json").read_text():
                        await asyncio.sleep(0.02)
        finally:
            process.kill()
            await process.communicate()
    assert len(keys) == 1


def test_states_are_added_shown_used_and_removed(run: Run, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("mock", "add-state", "--name", "payments", "--seed", "s", "--still")
    words = shlex.split(done.stdout)
    assert words[:2] == ["export", f"BASIQ_BASE_URL={served.url}"]
    key = words[2].removeprefix("BASIQ_API_KEY=")
    assert served.fake.states[key].name == "payments"
    monkeypatch.setenv("BASIQ_API_KEY", key)
    assert run("webhooks", "create", "--url", NOBODY, "--event", "user.created").exit_code == 0
    assert (row(run, "state")["name"], row(run, "state")["seed"]) == ("payments", "s")
    assert [(each["name"], each["webhooks"]) for each in rows(run, "states")] == [("first", 0), ("payments", 1)]
    other = run("mock", "add-state", "--json").row
    row(run, "remove-state")
    assert list(served.fake.states) == [other["api_key"]]
    done = run("mock", "state")
    assert (done.exit_code, done.stdout) == (1, "")


class Company:
    """Another service of the host where a base url has a path: it keeps what it is sent."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(f"{self.path}\n{self.headers}")
                self.send_error(404)

            do_POST = do_GET

            def log_message(self, *arguments: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Company:
        self.thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.mark.parametrize("arguments", [("advance", "15m"), ("emit", "user.created"), ("state",), ("add-state",)])
def test_no_command_sends_the_key_to_another_service_of_the_host(
    run: Run, served: Served, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = served.fake.api_key
    with Company() as company:
        monkeypatch.setenv("BASIQ_BASE_URL", f"http://127.0.0.1:{company.server.server_port}/basiq")
        assert run("mock", *arguments).exit_code == 1
        assert run("mock", "wait", "--timeout", "0.1").exit_code != 0
        assert len(company.requests) >= 2
        assert not any(key in each or "Authorization" in each for each in company.requests)
        run("--timeout", "1", "webhooks", "list")  # as a client does, which asks for a token below the base url
        assert [each.partition("\n")[0] for each in company.requests if key in each] == ["/basiq/token"]


def test_a_mock_on_another_machine_needs_its_token(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASIQ_BASE_URL", "https://no-mock.invalid/basiq")
    done = run("mock", "advance", "15m")
    assert (done.exit_code, "set BASIQ_MOCK_TOKEN" in done.stderr) == (2, True)
    monkeypatch.setenv("BASIQ_MOCK_TOKEN", "t0ken")
    done = run("mock", "advance", "15m")
    assert (done.exit_code, "no mock responds" in done.stderr) == (1, True)
