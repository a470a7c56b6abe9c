"""The commands ``sign``, ``verify``, ``listen`` and ``trigger``."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from basiq_async import BasiqClient
from basiq_async.testing import FakeBasiq, serve
from tests.support.deliveries import OTHER_SECRET, SECRET, payload, signed

from ..support.command_line import run_command
from .conftest import listening

KEY = "a2V5OnNlY3JldA=="


def run(*arguments: str, given: bytes = b"", secret: str = SECRET, code: int = 0) -> str:
    result = run_command(*arguments, stdin=given, env={"BASIQ_WEBHOOK_SECRET": secret, "COLUMNS": "200"})
    assert result.exit_code == code, result.output
    assert SECRET not in result.output
    return result.output


def test_what_is_signed_on_the_command_line_verifies_on_it(tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(payload())
    (tmp_path / "headers").write_text(run("sign", str(tmp_path / "body"), "--id", "msg_1"))
    assert run("verify", str(tmp_path / "body"), "--headers", str(tmp_path / "headers")) == '{"genuine":true}\n'


def test_a_body_comes_from_the_standard_input() -> None:
    Path("headers").write_text(run("sign", "--at", "1767614400", given=b"\xff\x00"))
    options = ("--headers", "headers")
    assert run("verify", *options, "--at", "1767614700", given=b"\xff\x00") == '{"genuine":true}\n'
    assert "no signature matches" in run("verify", *options, "--at", "1767614400", given=b"\xff", code=1)
    assert "301 s ago" in run("verify", *options, "--at", "1767614701", given=b"\xff\x00", code=1)
    run("verify", *options, "--at", "1767614701", "--tolerance", "301", given=b"\xff\x00")


def test_a_delivery_that_is_not_genuine_ends_with_1_and_the_reason() -> None:
    Path("headers").write_text(run("sign", given=b"{}"))
    options = ("--headers", "headers")
    assert "no signature matches" in run("verify", *options, given=b"{}", secret=OTHER_SECRET, code=1)
    Path("headers").write_text("")
    assert "webhook-id" in run("verify", *options, given=b"{}", code=1)


async def test_listen_prints_a_json_line_for_each_delivery_in_a_pipe_and_stops_on_sigterm() -> None:
    async with listening() as listener:
        body = payload("consent.revoked")
        assert await listener.post(body, signed(body, message_id="msg_1")) == 204
        line = await listener.row()
        assert (line["status"], line["result"], line["event_type_id"]) == (204, "handled", "consent.revoked")
        assert await listener.post(body, signed(body, message_id="msg_1")) == 200
        assert (await listener.row())["result"] == "duplicate"
        assert await listener.post(body, signed(body, secret=OTHER_SECRET)) == 401
        line = await listener.row()
        assert (line["result"], line["reason"], line["delivery_id"]) == ("rejected", "no-match", None)
        assert await listener.end(signal.SIGTERM) == (0, [])


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
        assert '{"event_type_id":"user.created","asked":true}' in said
        code, _ = await asyncio.to_thread(invoke, "user.created", "--url", "https://example.org/a")
        assert code == 0
        code, said = await asyncio.to_thread(invoke, "user.created", "--url", "https://example.org/a", "--text", "x")
        assert (code, "cannot be used together" in said) == (2, True)
    asked = [request.url for request in fake.requests if request.url.endswith("/notifications/messages/test")]
    assert len(asked) == 2
