"""A recovery; and how it and a replay end early: with what was read, and the line that continues."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from ..support.command_line import COLD
from ..support.real_time import PATIENCE
from ..support.served import Handler, answering
from .conftest import SECRET, Endpoint, Run, Served, help_lines, launched, on_a_terminal

pytestmark = pytest.mark.documented_world("its webhooks are disabled after one message", "disables")

if sys.platform != "win32":
    from .conftest import Terminal

DAYS_AGO = 4


def test_what_was_missed_is_posted_once_and_the_same_line_does_nothing_more(
    run: Run, endpoint: Endpoint, webhook_id: str
) -> None:
    for handled in ((4, 5), (0, 0)):
        done = run("recover", webhook_id, "--to", endpoint.url)
        assert (done.exit_code, done.row["finished"], done.row["passed_over"]) == (0, True, 3), done.output
        assert "3 messages were delivered, as Basiq says, before the inbox began" in done.stderr
        assert (done.row["messages"]["handled"], done.row["events"]["handled"]) == handled
        assert len(set(endpoint.ids)) == len(endpoint.ids) == 9


def test_where_all_fail_the_commonest_error_is_shown(run: Run, endpoint: Endpoint, webhook_id: str) -> None:
    endpoint.status = 422
    for line in (("recover", webhook_id), ("replay", webhook_id)):
        done = run(*line, "--to", endpoint.url)
        assert done.exit_code == 1, done.output
        assert " failed; most often: TargetError: the target responded with 422" in done.stderr, done.stderr
    endpoint.status = 204
    assert "most often" not in run("quarantine", "retry", "--to", endpoint.url, "--webhook", webhook_id).stderr


# --- early ends ---


def end(process: subprocess.Popen[str], *signals: int, release: Callable[[], object]) -> tuple[dict[str, Any], str]:
    """Send signals, and let what is under way end after the first of them. Return the report and the notes."""
    for number in signals:
        process.send_signal(number)
        if number == signals[0]:
            assert process.stderr is not None
            while "finishing the work under way" not in (line := process.stderr.readline()):
                assert line, "it ended before"
    release()
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signals[0], stderr
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f]|Traceback", stdout + stderr) is None
    assert SECRET not in stdout + stderr
    return json.loads(stdout), stderr


@pytest.mark.parametrize(("number", "command", "total"), [(signal.SIGINT, "replay", 7), (signal.SIGTERM, "recover", 9)])
def test_a_signal_ends_it_after_the_messages_under_way_with_the_line_that_continues(
    run: Run, endpoint: Endpoint, webhook_id: str, number: int, command: str, total: int
) -> None:
    endpoint.release.clear()
    line = (command, webhook_id, "--to", endpoint.url, "--concurrency", "2")
    with launched(*line) as process:
        assert endpoint.asked.wait(PATIENCE)
        report, shown = end(process, number, release=endpoint.release.set)
    handled = report["handled"] if command == "replay" else report["messages"]["handled"]
    assert (report["finished"], handled) == (False, len(endpoint.ids))
    (words,) = help_lines(shown)
    assert run(*words).exit_code == 0
    assert len(set(endpoint.ids)) == len(endpoint.ids) == total


@on_a_terminal
def test_a_terminal_that_is_gone_ends_it_after_the_messages_under_way(
    run: Run, served: Served, endpoint: Endpoint, webhook_id: str
) -> None:
    endpoint.release.clear()
    line = ("recover", webhook_id, "--to", endpoint.url, "--concurrency", "2")
    with Terminal(*line, env={**served.environment, "BASIQ_WEBHOOK_SECRET": SECRET}) as terminal:
        assert endpoint.asked.wait(PATIENCE)
        terminal.hang_up()
        endpoint.release.set()
        assert terminal.process.wait(PATIENCE) == 129
    assert 0 < len(endpoint.ids) < 9
    assert run(*line).exit_code == 0
    assert len(set(endpoint.ids)) == len(endpoint.ids) == 9


@on_a_terminal
def test_nohup_keeps_it_running_without_its_terminal(run: Run, endpoint: Endpoint, webhook_id: str) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    endpoint.release.clear()
    with launched("recover", webhook_id, "--to", endpoint.url, program=COLD, preexec_fn=ignore) as process:
        assert endpoint.asked.wait(PATIENCE)
        process.send_signal(signal.SIGHUP)
        endpoint.release.set()
        process.communicate(timeout=PATIENCE)
    assert (process.returncode, len(endpoint.ids)) == (0, 9)


def test_a_second_signal_stops_at_once(run: Run, endpoint: Endpoint, webhook_id: str) -> None:
    endpoint.release.clear()
    with launched("replay", webhook_id, "--to", endpoint.url, "--concurrency", "4") as process:
        assert endpoint.asked.wait(PATIENCE)
        report, shown = end(process, signal.SIGINT, signal.SIGTERM, release=lambda: None)  # a message has 30 s
    assert report["finished"] is False
    endpoint.release.set()
    (words,) = help_lines(shown)
    assert run(*words).exit_code == 0
    assert len(set(endpoint.ids)) == 7


def test_a_signal_before_the_first_response_ends_it_at_once_with_a_result(
    run: Run, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, release = threading.Event(), threading.Event()

    class Hangs(Handler):
        def do_POST(self) -> None:
            asked.set()
            release.wait(PATIENCE)

    with answering(Hangs) as url:
        monkeypatch.setenv("BASIQ_BASE_URL", url)
        try:
            with launched("recover", "w1", "--to", endpoint.url) as process:
                assert asked.wait(PATIENCE)
                process.send_signal(signal.SIGTERM)
                stdout, shown = process.communicate(timeout=PATIENCE)
        finally:
            release.set()
    assert (process.returncode, json.loads(stdout)["finished"]) == (143, False), shown
    assert len(help_lines(shown)) == 1


@pytest.mark.parametrize("during", ["the last message", "the second list"])
def test_a_signal_to_a_recovery_shows_what_was_read_of_both_lists(
    run: Run, served: Served, endpoint: Endpoint, webhook_id: str, monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    """Nothing of the second list is begun if the signal comes while it is asked for."""
    first, reached, release, respond = (
        threading.Semaphore(8),
        threading.Event(),
        threading.Event(),
        served.fake._exchange,
    )

    counted = threading.Semaphore(1)
    """A first recovery reads both lists once before, to say how much it will pass to the handler."""

    def hold() -> None:
        reached.set()
        release.wait(PATIENCE)

    def hold_the_last() -> object:
        return first.acquire(blocking=False) or hold()

    def hold_the_list(request: Any, *, prefix: str = "") -> Any:
        if request.url.endswith("/events") and not counted.acquire(blocking=False):
            hold()
        return respond(request, prefix=prefix)

    if during == "the last message":
        endpoint.on_post = hold_the_last
    else:
        monkeypatch.setattr(served.fake, "_exchange", hold_the_list)
    with launched("recover", webhook_id, "--to", endpoint.url, "--concurrency", "1") as process:
        assert reached.wait(PATIENCE)
        report, shown = end(process, signal.SIGTERM, release=release.set)
    handled = (report["messages"]["handled"], report["events"]["handled"])
    assert (handled, len(endpoint.ids)) == (((4, 5), 9) if during == "the last message" else ((4, 0), 4))
    (words,) = help_lines(shown)
    assert run(*words).exit_code == 0
    assert len(set(endpoint.ids)) == len(endpoint.ids) == 9


def test_where_basiq_fails_in_the_middle_what_was_read_and_the_line_are_shown(
    run: Run, served: Served, endpoint: Endpoint, webhook_id: str
) -> None:
    served.fake.fail_next(1_000, status=400, path="*/events")
    done = run("recover", webhook_id, "--to", endpoint.url)
    assert (done.exit_code, done.row["finished"], done.row["messages"]["handled"]) == (1, False, 4), done.output
    assert "to continue:" in done.stderr
    served.fake.seed_messages(1_200, webhook_id)
    endpoint.on_post = lambda: served.fake.fail_next(1_000, status=400)
    done = run("replay", webhook_id, "--to", endpoint.url)
    assert (done.exit_code, done.row["finished"]) == (1, False), done.output
    assert 0 < done.row["handled"] == len(set(endpoint.ids)) - 4
    assert "to continue:" in done.stderr


def test_a_job_that_cannot_go_on_tells_how_far_it_came(run: Run, endpoint: Endpoint, webhook_id: str) -> None:
    endpoint.status = 400
    stopped = run("replay", webhook_id, "--to", endpoint.url, "--on-error", "stop", "--concurrency", "2")
    assert (stopped.exit_code, stopped.row["finished"]) == (1, False)
    assert "the replay stopped before it: TargetError: the target responded with 400" in stopped.stderr
    assert "to continue:" in stopped.stderr
    broken = run("replay", webhook_id, "--to", endpoint.url, "--max-failures", "3")
    assert (broken.exit_code, "messages in a row failed" in broken.stderr) == (1, True)


def test_it_stops_when_the_target_is_down_for_too_long(run: Run, webhook_id: str) -> None:
    done = run("recover", webhook_id, "--to", "http://127.0.0.1:9/", "--max-pause", "0.01")
    assert (done.exit_code, done.row["finished"]) == (1, False), done.output
    assert "the target does not respond" in done.stderr
    assert "to continue:" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits of a file's size")
def test_a_full_disk_under_its_inbox_is_named_at_once(served: Served, endpoint: Endpoint, run: Run) -> None:
    """A limit of the file's size is as good as a full disk."""
    import resource

    webhook_id = served.fake.seed_messages(200, failed=1.0)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command = ("recover", webhook_id, "--to", endpoint.url, "--inbox", "small.db")
    with launched(*command, program=COLD, preexec_fn=limit) as process:
        _, shown = process.communicate(timeout=PATIENCE)
    assert (process.returncode, "InboxError" in shown, "target does not respond" in shown) == (3, True, False), shown
