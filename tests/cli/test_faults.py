"""The command line at hostile servers and with hostile arguments: one line of error, no traceback, no credential."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from basiq_async import cli
from tests.faults.test_secrets import BOTH, error_with, escaped
from tests.support.wire import KEY, MARK, SIGNING, TOKEN, WEBHOOK, Wire, error, http, ok

from ..support.command_line import CommandResult, run_command


async def invoke(url: str, *arguments: str, stdin: bytes = b"") -> CommandResult:
    """In a thread, since a command runs its own event loop."""
    env = {"BASIQ_API_KEY": KEY, "BASIQ_BASE_URL": url, "BASIQ_WEBHOOK_SECRET": SIGNING}
    return await asyncio.to_thread(run_command, *arguments, env=env, stdin=stdin)


def assert_one_error(result: CommandResult, code: int | None = None) -> None:
    assert result.exit_code in ((1, 2, 3) if code is None else (code,))
    for text in (result.stdout, result.stderr, result.output):
        assert MARK not in text, text
        assert "Traceback" not in text
    assert result.stderr.strip()


COMMANDS: dict[str, tuple[str, ...]] = {
    "webhooks list": ("webhooks", "list"),
    "webhooks get": ("webhooks", "get", "w1"),
    "webhooks delete": ("webhooks", "delete", "w1", "--yes"),
    "messages list": ("messages", "list", "w1"),
    "messages get": ("messages", "get", "w1", "m1"),
    "events list": ("events", "list"),
    "events get": ("events", "get", "e1"),
    "events types": ("events", "types"),
    "trigger": ("trigger", "user.created"),
    "webhooks secret": ("webhooks", "secret", "w1"),
    "webhooks doctor": ("webhooks", "doctor", "w1"),
    "whoami": ("whoami",),
}
HOSTILE: dict[str, bytes] = {
    "400 with an echo": http(400, error_with(BOTH)),
    "404 with an escaped echo": http(404, f'{{"data":[{{"code":"{escaped(TOKEN)}","detail":"{escaped(KEY)}"}}]}}'),
    "403": error(403),
    "a redirect": http(302, "", f"Location: https://evil.example/?{TOKEN}"),
    "markup": error(400, "[red]x[/]", detail="[/][bold]\x1b[31m\u202e"),
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
async def test_an_error_of_the_server_is_one_line(command: tuple[str, ...], answer: bytes) -> None:
    async with Wire(answer) as wire:
        result = await invoke(wire.url, *command)
        assert_one_error(result)
        assert "\x1b" not in result.output
        assert "\u202e" not in result.output
        assert wire.requests
        await wire.quiet()


BAD_BODIES: dict[str, bytes] = {
    "html": http(200, f"<html>{BOTH}"),
    "half": http(200, f'{{"data": [{{"id": "{BOTH}'),
    "null": http(200, "null"),
    "deep": http(200, '{"data":[{"id":' + "[" * 5000),
    "half a surrogate pair": http(200, '{"id":"\\ud800","data":[{"id":"\\ud800"}],"url":"x"}'),
}


@pytest.mark.parametrize("answer", BAD_BODIES.values(), ids=BAD_BODIES)
@pytest.mark.parametrize(
    "command", [c for n, c in COMMANDS.items() if n not in ("webhooks delete", "trigger")], ids=" ".join
)
async def test_a_body_that_cannot_be_read_is_one_line(command: tuple[str, ...], answer: bytes) -> None:
    async with Wire(answer) as wire:
        assert_one_error(await invoke(wire.url, *command), 3)


@pytest.mark.parametrize("depth", [100, 400, 900])
@pytest.mark.parametrize("more", [(), ("--json",)], ids=["plain", "json"])
async def test_deeply_nested_data_is_shown_or_one_line_of_error(depth: int, more: tuple[str, ...]) -> None:
    nested = "[" * depth + "]" * depth
    answer = http(200, f'{{"id":"m1","type":"event","data":{nested},"payload":{{"x":{nested}}},"attempts":[{nested}]}}')
    async with Wire(answer) as wire:
        for command in (("messages", "get", "w1", "m1"), ("events", "get", "e1")):
            result = await invoke(wire.url, *command, *more)
            if result.exit_code:
                assert_one_error(result)


@pytest.mark.parametrize("more", [(), ("--json",)], ids=["plain", "json"])
async def test_a_secret_is_not_printed(more: tuple[str, ...]) -> None:
    async with Wire(ok({**WEBHOOK, "secret": SIGNING})) as wire:
        for command in (
            ("webhooks", "get", "w1"),
            ("webhooks", "create", "--url", "https://example.com", "--event", "user.created"),
            ("webhooks", "update", "w1", "--url", "https://example.com"),
        ):
            result = await invoke(wire.url, *command, *more)
            assert (result.exit_code, MARK in result.output) == (0, False), result.output


@pytest.mark.parametrize("id_", ["", "..", ".", "a" * 100_000, " "], ids=repr)
async def test_a_bad_identifier_is_a_wrong_setting(id_: str) -> None:
    async with Wire() as wire:
        for command in (("webhooks", "get"), ("messages", "list"), ("events", "get")):
            result = await invoke(wire.url, *command, "--", id_)
            assert_one_error(result, 2)
            assert len(result.output) < 1000
        assert wire.connections == 0


@pytest.mark.parametrize(
    "env",
    [
        {"BASIQ_API_KEY": None},
        {"BASIQ_API_KEY": ""},
        {"BASIQ_API_KEY": f"{MARK} {MARK}"},
        {"BASIQ_BASE_URL": "nonsense"},
        {"BASIQ_BASE_URL": f"http://u:{MARK}@x"},
    ],
    ids=repr,
)
def test_a_bad_setting_is_one_line(env: dict[str, Any]) -> None:
    result = run_command("webhooks", "list", env={"BASIQ_API_KEY": KEY, **env})
    assert_one_error(result, 2)


BODY = b'{"eventTypeId":"user.created","eventId":"e1","links":{}}'


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"[]", b'{"a": 1}', b"no colon", b"\0", b"5"], ids=repr)
def test_verify_of_malformed_headers_is_one_line(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_bytes(content)
    result = run_command("verify", "--headers", str(file), stdin=BODY, env={"BASIQ_WEBHOOK_SECRET": SIGNING})
    assert_one_error(result)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!", f"{MARK}é", " "], ids=repr)
def test_a_malformed_secret_is_one_line_and_not_shown(secret: str) -> None:
    result = run_command("sign", "-", stdin=BODY, env={"BASIQ_WEBHOOK_SECRET": secret})
    assert_one_error(result, 2)


def test_ctrl_c_while_the_program_is_loaded_ends_it_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run_app", interrupt)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
