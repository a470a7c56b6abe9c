"""Standard streams that are odd: a reader that leaves, none at all, a full disk, one that is ASCII."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from basiq_async import BasiqError
from basiq_async.cli._history import show_list  # private: a page that fails late is not arranged from a shell
from basiq_async.cli._results import ROWS, Output  # private: show_list writes to it

from ..support.command_line import COLD
from ..support.programs import run
from .conftest import Run, Served


def shell(served: Served, line: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = line.replace("basiq-async", shlex.join(COLD))
    return run("bash", "-o", "pipefail", "-c", command, cwd=Path.cwd(), **served.environment, **more)


def test_a_reader_that_leaves_early_is_not_a_failure(served: Served) -> None:
    webhook_id = served.fake.seed_messages(5_000)
    done = shell(served, f"basiq-async messages list {webhook_id} | head -1")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["id"]


@pytest.mark.parametrize("words", ["--help", "recover -h"])
def test_help_whose_reader_leaves_is_not_a_failure(served: Served, words: str) -> None:
    done = shell(served, f"basiq-async {words} | true")
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_standard_output_the_work_is_done_and_nothing_breaks(served: Served) -> None:
    done = shell(served, "basiq-async events types >&-")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(("command", "unbuffered"), [("events types", ""), ("events types", "1"), ("--version", "")])
def test_a_full_disk_is_one_line(served: Served, command: str, unbuffered: str) -> None:
    done = shell(served, f"basiq-async {command} > /dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1
    assert done.stderr == "error: OutputError: standard output cannot be written: No space left on device\n"


def test_an_ascii_stream_gets_escapes(served: Served) -> None:
    served.fake.add_webhook("https://example.com/basiq")
    webhook_id = served.fake.add_webhook("https://example.com/\u00fc\u65e5")
    done = shell(served, "basiq-async webhooks list && basiq-async webhooks --help", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    rows = [json.loads(line) for line in done.stdout.splitlines()[:2]]
    assert {row["id"]: row["url"] for row in rows}[webhook_id] == "https://example.com/\u00fc\u65e5"


def test_an_unexpected_exception_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(webhooks: object) -> None:
        raise KeyError("a\nb\x1b")

    monkeypatch.setattr("basiq_async.services.webhooks.Webhooks.list", broken)
    for more, expected in ((), "error: unexpected KeyError: "), (("--json",), '{"error":{"type":"KeyError"'):
        done = run("webhooks", "list", *more)
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.startswith(expected)
        assert done.stderr.count("\n") == 1
        assert "\x1b" not in done.stderr


async def test_what_was_read_before_an_error_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    async def items() -> AsyncIterator[dict[str, str]]:
        yield {"id": "first"}
        yield {"id": "second"}
        raise BasiqError("the third page failed")

    with pytest.raises(BasiqError, match="the third page failed"):
        await show_list(items(), Output(json=""), ROWS, None)
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["first", "second"]
