"""``basiq-async recover``: everything that a service missed, each event once, from both lists."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from functools import partial
from typing import Any

import pytest

from basiq_async import RetryPolicy
from tests.support.real_time import PATIENCE

from ..support.command_line import COLD, PROGRAM
from ..support.served import Handler, answering
from .conftest import Endpoint, Run, Served, help_lines

DAYS_AGO = 4


def recovered(run: Run, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = run("recover", *arguments)
    assert done.exit_code == code, done.output
    found: dict[str, Any] = done.row
    return found


def test_what_was_missed_is_posted_once_and_the_same_line_does_nothing_more(
    run: Run, served: Served, endpoint: Endpoint, webhook_id: str
) -> None:
    first = recovered(run, webhook_id, "--to", endpoint.url)
    assert (first["messages"]["handled"], first["left_alone"]) == (4, 3)
    assert first["events"]["handled"] == 5
    assert first["finished"]
    assert len(set(endpoint.ids)) == len(endpoint.ids) == 9
    again = recovered(run, webhook_id, "--to", endpoint.url)
    assert (again["messages"]["handled"], again["events"]["handled"]) == (0, 0)
    assert len(endpoint.ids) == 9


def test_everything_is_posted_where_that_is_asked_for(
    run: Run, served: Served, endpoint: Endpoint, webhook_id: str
) -> None:
    found = recovered(run, webhook_id, "--to", endpoint.url, "--everything")
    assert (found["messages"]["handled"], found["events"]["handled"]) == (7, 5)


# --- how it ends ---


def start(*words: str) -> subprocess.Popen[str]:
    command = [*PROGRAM, "recover", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_its_report_and_the_line_that_continues(
    run: Run, served: Served, endpoint: Endpoint, webhook_id: str, number: int, code: int
) -> None:
    endpoint.release.clear()
    line = (webhook_id, "--to", endpoint.url, "--concurrency", "1")
    with start(*line) as process:
        assert endpoint.asked.wait(PATIENCE)
        second = run("recover", *line)
        assert (second.exit_code, second.stdout, "(process" in second.stderr) == (4, "", True), second.output
        process.send_signal(number)
        assert process.stderr is not None
        assert "finishing the work under way" in process.stderr.readline()
        endpoint.release.set()
        stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, stderr
    report = json.loads(stdout)
    assert (report["finished"], report["messages"]["handled"]) == (False, len(endpoint.ids))
    (words,) = help_lines(stderr)
    assert run(*words).exit_code == 0
    assert len(set(endpoint.ids)) == len(endpoint.ids) == 9


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
            with start("w1", "--to", endpoint.url) as process:
                assert asked.wait(PATIENCE)
                process.send_signal(signal.SIGTERM)
                stdout, stderr = process.communicate(timeout=PATIENCE)
        finally:
            release.set()
    assert process.returncode == 143, stderr
    assert json.loads(stdout)["finished"] is False
    assert len(help_lines(stderr)) == 1


def test_a_signal_during_the_last_message_shows_what_was_read_of_both_lists(
    run: Run, served: Served, endpoint: Endpoint, webhook_id: str
) -> None:
    first = threading.Semaphore(8)

    def hold_the_last() -> None:
        if not first.acquire(blocking=False):
            endpoint.release.clear()
            last.set()

    last = threading.Event()
    endpoint.on_post = hold_the_last
    with start(webhook_id, "--to", endpoint.url, "--concurrency", "1") as process:
        assert last.wait(PATIENCE)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert "finishing the work under way" in process.stderr.readline()
        endpoint.release.set()
        stdout, stderr = process.communicate(timeout=PATIENCE)
    report = json.loads(stdout)
    assert process.returncode == 143, stderr
    assert (report["messages"]["handled"], report["events"]["handled"]) == (4, 5)
    endpoint.on_post = lambda: None
    (words,) = help_lines(stderr)
    assert run(*words).exit_code == 0
    assert len(endpoint.ids) == 9


def test_a_signal_between_the_two_lists_begins_nothing_of_the_second(
    run: Run, served: Served, endpoint: Endpoint, webhook_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, release, respond = threading.Event(), threading.Event(), served.fake._exchange

    def hold(request: Any, *, prefix: str = "") -> Any:
        if request.url.endswith("/events"):
            asked.set()
            release.wait(PATIENCE)
        return respond(request, prefix=prefix)

    monkeypatch.setattr(served.fake, "_exchange", hold)
    with start(webhook_id, "--to", endpoint.url) as process:
        assert asked.wait(PATIENCE)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert "finishing the work under way" in process.stderr.readline()
        release.set()
        stdout, stderr = process.communicate(timeout=PATIENCE)
    report = json.loads(stdout)
    assert process.returncode == 143, stderr
    assert (report["messages"]["handled"], report["events"]["handled"], len(endpoint.ids)) == (4, 0, 4)
    (words,) = help_lines(stderr)
    assert run(*words).exit_code == 0
    assert len(set(endpoint.ids)) == len(endpoint.ids) == 9


def test_where_basiq_fails_in_the_second_list_it_says_what_was_read_of_the_first(
    run: Run, served: Served, endpoint: Endpoint, webhook_id: str
) -> None:
    served.fake.fail_next(1_000, status=400, path="*/events")
    done = run("recover", webhook_id, "--to", endpoint.url)
    assert done.exit_code == 1, done.output
    report = done.row
    assert (report["finished"], report["messages"]["handled"]) == (False, 4)


def test_it_stops_when_the_target_is_down_for_too_long(
    run: Run, endpoint: Endpoint, webhook_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basiq_async.replay.targets._http.RetryPolicy", partial(RetryPolicy, base=0.001))
    done = run("recover", webhook_id, "--to", "http://127.0.0.1:9/", "--max-pause", "0.2")
    assert done.exit_code == 1, done.output
    assert "the target does not respond" in done.stderr
    assert "to continue:" in done.stderr
    assert done.row["finished"] is False


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits of a file's size")
def test_a_full_disk_under_its_inbox_is_named_at_once(
    run: Run, served: Served, endpoint: Endpoint, webhook_id: str
) -> None:
    """A limit of the file's size is as good as a full disk."""
    import resource

    assert run("recover", webhook_id, "--to", "http://127.0.0.1:9/", "--max-pause", "0.01").exit_code == 1
    served.fake.seed_messages(3_000, webhook_id, failed=1.0)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    command = [*COLD, "recover", webhook_id, "--to", endpoint.url, "--everything", "--inbox", "small.db"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=PATIENCE)
    assert done.returncode == 3, done.stderr
    assert "InboxError" in done.stderr
    assert "target does not respond" not in done.stderr
