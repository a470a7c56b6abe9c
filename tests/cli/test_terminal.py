"""The real program in a pseudo-terminal, as a person sees it."""

from __future__ import annotations

import re
import sys

import pytest

from .conftest import SECRET, Served

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
if sys.platform != "win32":
    from ..support.terminal import Terminal


def test_a_history_is_shown_newest_first_with_whole_ids_and_how_to_get_more(served: Served) -> None:
    webhook_id = served.fake.seed_messages(120)
    with Terminal("messages", "list", webhook_id, env=served.environment) as terminal:
        screen = terminal.end()
        assert terminal.process.returncode == 0
    ids = [line[:36] for line in screen.splitlines() if line[8:9] == "-" and line[23:24] == "-"]
    assert len(set(ids)) == 50
    assert "the newest 50 of 120; --limit N shows" in screen.replace("\n", "")
    assert b"\x1b[1m" in terminal.raw


def test_ctrl_c_ends_a_wait_with_130(served: Served) -> None:
    webhook_id = served.fake.add_webhook("https://example.com/a", active=False)
    with Terminal("webhooks", "wait", webhook_id, env=served.environment) as terminal:
        terminal.read_until("waiting at most 17 minutes")
        terminal.type("\x03")
        screen = terminal.end()
        assert terminal.process.returncode == 130
    assert "Traceback" not in screen
    assert "waiting" not in screen  # the line is taken away at the end


def test_a_replay_shows_its_progress_and_then_the_report(
    served: Served, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("replay")
    webhook_id = served.fake.seed_messages(3_000)
    arguments = ("replay", webhook_id, "--file", str(folder / "out"))
    with Terminal(*arguments, env=served.environment) as terminal:
        screen = terminal.end()
        assert terminal.process.returncode == 0
    assert re.search(r"handled +3,000", screen)
    assert b"3,000 done" in terminal.raw


def test_a_key_that_is_typed_does_not_show(served: Served, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = str(tmp_path_factory.mktemp("home"))
    env = {"HOME": home, "XDG_CONFIG_HOME": home}
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
