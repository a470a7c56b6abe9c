"""The commands ``sign``, ``verify``, ``listen`` and ``trigger``."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from basiq_async import BasiqClient
from basiq_async.testing import FakeBasiq, serve
from tests.support.deliveries import OTHER_SECRET, SECRET, payload, signed

from ..support.command_line import PROGRAM, run_command
from ..support.real_time import PATIENCE

KEY = "a2V5OnNlY3JldA=="


def run(*arguments: str, given: bytes = b"", secret: str = SECRET, code: int = 0) -> str:
    result = run_command(*arguments, stdin=given, env={"BASIQ_WEBHOOK_SECRET": secret, "COLUMNS": "200"})
    assert result.exit_code == code, result.output
    assert SECRET not in result.output
    return result.output


def test_what_is_signed_on_the_command_line_verifies_on_it(tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(payload())
    (tmp_path / "headers").write_text(run("sign", str(tmp_path / "body"), "--id", "msg_1"))
    assert run("verify", str(tmp_path / "body"), "--headers", str(tmp_path / "headers")) == '{"genuine": true}\n'
    (tmp_path / "headers.json").write_text(run("sign", str(tmp_path / "body"), "--json"))
    assert run("verify", str(tmp_path / "body"), "--headers", str(tmp_path / "headers.json")) == '{"genuine": true}\n'


def test_a_body_comes_from_the_standard_input_and_headers_as_options() -> None:
    lines = run("sign", "--at", "1767614400", given=b"\xff\x00").splitlines()
    options = [option for line in lines for option in ("-H", line)]
    assert run("verify", *options, "--at", "1767614700", given=b"\xff\x00") == '{"genuine": true}\n'
    assert "no signature matches" in run("verify", *options, "--at", "1767614400", given=b"\xff", code=1)
    assert "301 s ago" in run("verify", *options, "--at", "1767614701", given=b"\xff\x00", code=1)
    run("verify", *options, "--at", "1767614701", "--tolerance", "301", given=b"\xff\x00")


def test_a_delivery_that_is_not_genuine_ends_with_1_and_the_reason() -> None:
    lines = run("sign", given=b"{}").splitlines()
    options = [option for line in lines for option in ("-H", line)]
    assert "no signature matches" in run("verify", *options, given=b"{}", secret=OTHER_SECRET, code=1)
    assert "webhook-id" in run("verify", given=b"{}", code=1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sign", "missing.json"], "missing.json"),
        (["sign", "--at", "-5"], "before 1970"),
        (["sign", "--at", str(10**20)], "--at"),
        (["sign", "--id", "a.b"], "message id must be"),
        (["verify", "-H", "no colon"], "name: value"),
        (["verify", "--tolerance", "-1"], "--tolerance"),
        (["verify", "--tolerance", "nan"], "--tolerance"),
        (["verify", "--headers", "-"], "must be lines or"),
        (["listen", "--path", "basiq"], "--path"),
        (["listen", "--port", "70000"], "--port"),
        (["listen", "--host", "256.0.0.1"], "256.0.0.1"),
    ],
)
def test_a_wrong_argument_ends_with_2_and_is_named(arguments: list[str], said: str) -> None:
    assert said in run(*arguments, given=b"[]", code=2)


def test_help_does_not_show_the_secret_of_the_environment() -> None:
    assert "BASIQ_WEBHOOK_SECRET" in run("sign", "--help")


class Listener:
    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url

    async def post(self, body: bytes, headers: dict[str, str]) -> int:
        async with aiohttp.ClientSession() as session, session.post(self.url, data=body, headers=headers) as answer:
            return answer.status

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            return (await self.process.stdout.readline()).decode().rstrip("\n")

    async def end(self) -> int:
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()


@asynccontextmanager
async def listening(*arguments: str) -> AsyncGenerator[Listener]:
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, "listen", "--port", "0", *arguments,
        env={**os.environ, "BASIQ_WEBHOOK_SECRET": SECRET},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            ready = (await process.stderr.readline()).decode()
        url = json.loads(ready)["url"] if ready.startswith("{") else ready.split()[-1]
        assert url.startswith("http://127.0.0.1:")
        yield Listener(process, url)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_listen_prints_a_json_line_for_each_delivery_in_a_pipe_and_stops_on_sigterm() -> None:
    async with listening() as listener:
        body = payload("consent.revoked")
        assert await listener.post(body, signed(body, message_id="msg_1")) == 204
        line = json.loads(await listener.line())
        assert (line["status"], line["result"], line["event_type_id"]) == (204, "handled", "consent.revoked")
        assert await listener.post(body, signed(body, message_id="msg_1")) == 200
        assert json.loads(await listener.line())["result"] == "duplicate"
        assert await listener.post(body, signed(body, secret=OTHER_SECRET)) == 401
        line = json.loads(await listener.line())
        assert (line["result"], line["reason"], line["delivery_id"]) == ("rejected", "no-match", None)
        listener.process.send_signal(signal.SIGTERM)
        assert await listener.end() == 0


async def test_listen_ends_after_so_many_genuine_deliveries_and_shows_bodies_where_asked() -> None:
    async with listening("--json", "--body", "--limit", "2", "--path", "/hooks") as listener:
        assert listener.url.endswith("/hooks")
        body = payload("user.created", "e-1")
        await listener.post(body, signed(body))
        line = json.loads(await listener.line())
        assert (line["result"], line["event_id"], line["body"]) == ("handled", "e-1", json.loads(body))
        await listener.post(b"{}", {})  # a forged one does not count
        line = json.loads(await listener.line())
        assert (line["result"], line["reason"], line["body"]) == ("rejected", "missing-header", None)
        body = payload("user.created", "e-2")
        await listener.post(body, signed(body, message_id="m-2"))
        assert json.loads(await listener.line())["event_id"] == "e-2"
        assert await listener.end() == 0


async def test_trigger_asks_basiq_for_a_test_message() -> None:
    fake = FakeBasiq(api_keys=[KEY])
    async with serve(fake) as base_url:
        async with BasiqClient(KEY, base_url=base_url) as client:
            await client.webhooks.create(url="https://example.org/a", subscribed_events=["user.created"])
        env = {"BASIQ_API_KEY": KEY, "BASIQ_BASE_URL": base_url}

        def invoke(*arguments: str) -> tuple[int, str]:
            result = run_command("trigger", *arguments, env=env)
            return result.exit_code, result.output

        code, said = await asyncio.to_thread(invoke, "user.created", "--text", "hello")
        assert code == 0
        assert '{"event_type_id": "user.created", "asked": true}' in said
        code, _ = await asyncio.to_thread(invoke, "user.created", "--url", "https://example.org/a")
        assert code == 0
        code, said = await asyncio.to_thread(invoke, "user.created", "--url", "https://example.org/a", "--text", "x")
        assert (code, "cannot be used together" in said) == (2, True)
    asked = [request.url for request in fake.requests if request.url.endswith("/notifications/messages/test")]
    assert len(asked) == 2
