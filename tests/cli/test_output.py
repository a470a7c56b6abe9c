"""One path for all output: whatever a command shows, no text from elsewhere steers the terminal that it is shown in."""

from __future__ import annotations

import ast
import asyncio
import logging
import re
import sys
from pathlib import Path

import pytest

from basiq_async import cli
from basiq_async.cli._output import (  # private: each way to write, also where no command shows foreign text by it
    PrintableLog,
    Styled,
    live,
    new_session,
    prompt,
    say,
    show_error,
    write,
    write_line,
    write_lines,
)
from basiq_async.testing import FakeBasiq

from ..support.command_line import COLD, PROGRAM
from ..support.wire import KEY, WEBHOOK, Wire, http, ok
from .conftest import Served, Terminal, on_a_terminal

EVIL = "\x1b]0;title\x07\x9b2J\u202e\r\nx\x1b[31m"
STEERING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def test_no_other_module_writes_to_the_standard_streams() -> None:
    for file in sorted(Path(cli.__file__).parent.glob("*.py")):
        if file.stem in ("_output", "__init__"):  # the second prints the version alone, before anything is imported
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            text = ast.unparse(node) if isinstance(node, ast.Call) else ""
            assert not re.match(r"(print|typer\.(echo|secho|prompt|confirm)|input)\(", text), f"{file.name}: {text}"
            assert not re.match(r"sys\.(stdout|stderr)\.(write|buffer)", text), f"{file.name}: {text}"
            assert not re.match(r"logging\.(StreamHandler|lastResort)", text), f"{file.name}: {text}"
            assert not re.match(r"logging\.basicConfig\((?!.*PrintableLog|.*handlers=\[log\])", text), file.name


@pytest.mark.parametrize("terminal", [True, False])
def test_every_way_to_write_makes_a_line_printable(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("NO_COLOR", raising=False)
    log = logging.Logger("a log")
    log.addHandler(PrintableLog("%(message)s"))
    with new_session(json=False):
        write(EVIL, Styled(EVIL, "bold"))
        write_lines([EVIL])
        say(EVIL)
        write_line(EVIL)
        prompt(EVIL)
        show_error(EVIL, kind="X", exit_code=1)
        log.warning("about %s", EVIL)
        live(EVIL)
    captured = capsys.readouterr()
    assert not STEERING.search(captured.out)
    assert not STEERING.search(captured.err)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_no_text_in_a_log_record_looks_like_another_record(end: str, capsys: pytest.CaptureFixture[str]) -> None:
    forged = f"{end}ERROR basiq_async: the key was stolen"
    log = logging.Logger("a log")
    log.addHandler(PrintableLog("%(levelname)s %(name)s: %(message)s"))
    with new_session(json=False):
        log.warning("about %s", f"a message{forged}")
        try:
            raise ValueError(f"of Basiq{forged}")
        except ValueError:
            log.exception("it failed")
        log.warning("")
    lines = capsys.readouterr().err.splitlines()
    begun = [line for line in lines if not line.startswith("    ")]
    assert begun == ["WARNING a log: about a message", "ERROR a log: it failed", "WARNING a log: "], "a forged record"
    assert any("ValueError: of Basiq" in line for line in lines)


async def test_a_secret_with_escapes_is_shown_escaped_wherever_it_comes_from() -> None:
    async with Wire(ok({**WEBHOOK, "secret": EVIL})) as wire:
        env = {"BASIQ_API_KEY": KEY, "BASIQ_BASE_URL": wire.url}
        with Terminal("webhooks", "secret", "w1", "--show", env=env) as terminal:
            await asyncio.to_thread(terminal.end)
        assert b"\x1b]0" not in terminal.raw
        assert b"\x1b[31m" not in terminal.raw
        assert "title" in terminal.screen
    async with Wire(http(200, '{"secret": "\\u001b]0;title\\u0007"}')) as wire:
        env = {"BASIQ_API_KEY": KEY, "BASIQ_BASE_URL": wire.url}
        with Terminal("mock", "call", "webhookSecret", "webhookId=w1", env=env) as terminal:
            await asyncio.to_thread(terminal.end)
        assert b"\x1b" not in terminal.raw
        assert "title" in terminal.screen


# --- terminals of every kind ---

LISTS = {
    "webhooks": ("webhooks", "list"),
    "messages": ("messages", "list", "W"),
    "help": ("webhooks", "--help"),
}
KINDS = {
    "dark": {"TERM": "xterm-256color", "COLORFGBG": "15;0"},
    "dumb": {"TERM": "dumb"},
    "C": {"TERM": "xterm", "LC_ALL": "C"},
    "no colour": {"NO_COLOR": "1"},
}


@pytest.fixture(scope="module")
def busy() -> object:
    fake = FakeBasiq()
    fake.add_webhook("https://a-much-longer-name-of-a-host.service.example/basiq/webhooks/incoming/all")
    fake.seed_messages(60, failed=0.3)
    with Served(fake) as served:
        yield served


SCREENS = [
    *((command, kind, 80) for command in ("messages", "help") for kind in KINDS),
    ("messages", "dark", 120),
    ("webhooks", "C", 120),
]


@on_a_terminal
@pytest.mark.parametrize(("name", "look", "columns"), SCREENS)
def test_a_screen_fits_and_has_what_its_terminal_can_show(busy: Served, name: str, look: str, columns: int) -> None:
    webhook_id, command, kind = busy.fake.webhooks()[-1].id, LISTS[name], KINDS[look]
    words = [webhook_id if word == "W" else word for word in command]
    env = {**busy.environment, "NO_COLOR": "", "LC_ALL": "C.UTF-8"}
    program = COLD if look == "C" else PROGRAM  # the encoding is chosen when Python starts
    with Terminal(*words, columns=columns, env={**env, **kind}, program=program) as terminal:
        screen = terminal.end()
        assert terminal.process.returncode == 0, screen
    text = terminal.raw.decode()
    assert "\\u2026" not in text
    if kind.get("TERM") == "dumb":
        assert "\x1b" not in text
    if kind.get("LC_ALL") == "C":
        assert text.isascii()
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]|\r", "", text)
    assert max(map(len, plain.splitlines())) <= columns
    if command[0] == "messages":
        left_out = "DELIVERED, EVENT" if columns == 80 else "EVENT"
        assert f"too wide for this terminal: {left_out}; --json shows everything" in screen.replace("\n", "")
