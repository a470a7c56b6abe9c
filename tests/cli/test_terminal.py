"""The real program in a pseudo-terminal, as a person sees it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from .conftest import SECRET, Served, Terminal, World, on_a_terminal

pytestmark = on_a_terminal
DAYS_AGO = 4


@pytest.mark.documented_world("it looks at the order and attempts of a list", "attempts", "message_order")
def test_a_history_is_shown_newest_first_with_whole_ids_and_how_to_get_more(served: Served) -> None:
    webhook_id = served.fake.seed_messages(120)
    with Terminal("messages", "list", webhook_id, env=served.environment) as terminal:
        screen = terminal.end()
        assert terminal.process.returncode == 0
    ids = [line[:36] for line in screen.splitlines() if line[8:9] == "-" and line[23:24] == "-"]
    assert len(set(ids)) == 50
    assert "the newest 50 of 120; --limit N shows" in screen.replace("\n", "")
    assert b"\x1b[1m" in terminal.raw


def _first_lines(world: World, *words: str) -> str:
    """The first ten lines of a terminal of 60 columns without colours and without Unicode."""
    env = {**os.environ, "NO_COLOR": "1", "LC_ALL": "C"}
    with Terminal(*words, columns=60, env=env) as terminal:
        screen = terminal.end()
        assert terminal.process.returncode == 1, screen
    assert screen.isascii()
    assert not re.search(rb"\x1b\[[349][0-9]", terminal.raw)
    return "".join(screen.splitlines()[:10])


@pytest.mark.documented_world("its webhooks are disabled after one message", "disables")
def test_the_first_ten_lines_of_a_narrow_terminal_say_what_is_wrong_since_when_and_what_to_run(world: World) -> None:
    w, webhook_id = world, world.webhook()
    place = w.service(webhook_id)
    w.outage(later=1)
    found = w.run("webhooks", "doctor", webhook_id).row
    shown = _first_lines(w, "webhooks", "doctor", webhook_id)
    assert "problems" in shown
    disabled = found["problems"][0]
    assert disabled["code"] == "disabled"
    since = f"since {found['disabled_at'][:19].replace('T', ' ')}Z; run:"
    for part in (disabled["text"], since, disabled["command"]):
        assert part.replace(" ", "") in shown.replace(" ", ""), (part, shown)
    assert w.run("webhooks", "reactivate", webhook_id).exit_code == 0
    Path("broken").touch()
    shown = _first_lines(w, "recover", webhook_id, "--receiver", place).replace(" ", "")
    row = w.run("quarantine", "list", "--inbox", "inbox.db").rows[0]
    line = "quarantine retry --receiver " + place
    for part in ("3 messages or deliveries failed", f"since {row['quarantined_at'][:19].replace('T', ' ')}Z", line):
        assert part.replace(" ", "") in shown, (part, shown)


def test_ctrl_c_ends_a_wait_with_130(served: Served) -> None:
    webhook_id = served.fake.add_webhook("https://example.com/a", active=False)
    with Terminal("webhooks", "wait", webhook_id, env=served.environment) as terminal:
        terminal.read_until("waiting at most 17 minutes")
        terminal.type("\x03")
        screen = terminal.end()
        assert terminal.process.returncode == 130
    assert "Traceback" not in screen
    assert "waiting" not in screen  # the line is taken away at the end


def test_a_replay_shows_its_progress_and_then_the_report(served: Served) -> None:
    webhook_id = served.fake.seed_messages(3_000)
    with Terminal("replay", webhook_id, "--file", "out", env=served.environment) as terminal:
        screen = terminal.end()
        assert terminal.process.returncode == 0
    assert re.search(r"handled +3,000", screen)
    assert b"3,000 done" in terminal.raw


def test_a_key_that_is_typed_does_not_show(served: Served, tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    with Terminal("login", "--base-url", served.url, env=env) as terminal:
        terminal.read_until("API key (not shown):")
        terminal.type(served.fake.DEFAULT_API_KEY + "\n")
        screen = terminal.end()
        assert terminal.process.returncode == 0
    assert served.fake.DEFAULT_API_KEY not in screen
    assert "was stored" in screen


def test_listen_says_where_it_listens_and_ctrl_c_ends_it(served: Served) -> None:
    with Terminal("listen", "--port", "0", env={**served.environment, "BASIQ_WEBHOOK_SECRET": SECRET}) as terminal:
        terminal.read_until("0 accepted, 0 refused; Ctrl-C ends")
        terminal.type("\x03")
        screen = terminal.end()
        assert terminal.process.returncode == 0
    assert "listening on http://127.0.0.1:" in screen


def test_a_secret_is_not_printed_on_a_screen_unless_asked_for(served: Served) -> None:
    webhook_id = served.fake.add_webhook("https://example.com/a")
    with Terminal("webhooks", "secret", webhook_id, env=served.environment) as terminal:
        screen = terminal.end()
        assert terminal.process.returncode == 2
    assert served.fake.secret(webhook_id) not in screen
    assert "--show" in screen
