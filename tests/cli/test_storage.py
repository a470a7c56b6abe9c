"""Stories of the storage under an inbox: a disk that is full, and a file that this user can only read."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from basiq_async.receiver import SQLiteInbox

from ..support.command_line import CommandResult
from ..support.real_time import PATIENCE
from .conftest import World, let_wait, make_inbox, write_service

DAYS_AGO = 0
INBOX = ("--inbox", "inbox.db")
is_root = hasattr(os, "geteuid") and os.geteuid() == 0


# --- a disk that is full ---


def fill() -> None:
    """Fill the disk, which is the current folder, with a file."""
    with suppress(OSError), Path("filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4_096)


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A disk of two megabytes, which is the current folder."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if not is_root or not sys.platform.startswith("linux") or subprocess.run(command, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    monkeypatch.chdir(place)
    try:
        yield
    finally:
        monkeypatch.chdir(tmp_path)
        subprocess.run(["umount", "-l", str(place)], check=True)


FULL = "cannot be written, because the disk is full. Nothing was recorded: make room"


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_is_named_by_each_command_that_would_write_and_keeps_none_from_looking(world: World) -> None:
    w, webhook_id = world, world.webhook()
    at = ("--receiver", w.service(webhook_id))
    assert w.run("inbox", "check", *INBOX).row["written"]
    w.outage()
    fill()
    for line in (
        ("inbox", "check", *INBOX),
        ("inbox", "check", *at),
        ("recover", webhook_id, *at),
        ("recover", webhook_id, "--to", w.endpoint.url, "--secret-file", "the secret", *INBOX),
        ("replay", webhook_id, *at),
        ("quarantine", "retry", *at),
        ("quarantine", "drop", "m-1", "--yes", *INBOX),
    ):
        done = w.run(*line)
        assert (done.exit_code, FULL in done.stderr, "asked for" in done.stderr) == (3, True, False), done.output
    for line in (("inbox", "waiting"), ("quarantine", "list"), ("webhooks", "doctor", webhook_id)):
        assert w.run(*line, *INBOX).exit_code in (0, 1)
    assert w.handled() == 0
    Path("filler").unlink()
    assert w.run("recover", webhook_id, *at).exit_code == 0
    assert w.handled() == 2


_FILL = """\
try:
    with open('filler', 'wb', buffering=0) as file:
        while True: file.write(b'x' * 4096)
except OSError: ..."""


@pytest.mark.usefixtures("small_disk")
def test_a_disk_that_fills_up_under_a_recovery_is_what_it_waits_for(world: World) -> None:
    w, webhook_id = world, world.webhook()
    make_inbox(webhook_id)
    w.outage(40)
    # What was under way cannot be given back, and the next recovery waits until its claims end.
    service = write_service(webhook_id, handle=_FILL, more=", handler_timeout=0.2, lease=0.5")
    done = w.run("recover", webhook_id, "--receiver", service, "--max-pause", "0.1")
    assert (done.exit_code, done.row["finished"]) == (1, False), done.output
    assert FULL in done.stderr, done.stderr
    Path("filler").unlink()
    assert w.run("recover", webhook_id, "--receiver", write_service(webhook_id)).exit_code == 0


# --- a file that this user can only read ---

_RUN = """
import json, sys
from tests.support.command_line import run_command
for words in json.load(sys.stdin):
    done = run_command(*words)
    print(json.dumps([done.exit_code, done.stdout, done.stderr]))
"""


def as_reader(*lines: Sequence[str]) -> list[CommandResult]:
    """Run lines as a user for whom the permissions of files hold: not for root, unless it gives that right away."""
    command = [sys.executable, "-c", _RUN]
    if is_root:
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    words: Any = json.dumps([*lines])
    done = subprocess.run(command, input=words, capture_output=True, text=True, timeout=PATIENCE, env=env, check=True)
    return [CommandResult(*json.loads(line)) for line in done.stdout.splitlines()]


def _steady(ended: CommandResult) -> list[dict[str, Any]]:
    rows = ended.rows
    for problem in (each for row in rows for each in row.get("problems", ()) if each["code"] == "waiting"):
        del problem["since"]  # counted back from the time of the look, as its age is
    return [{name: value for name, value in row.items() if name != "waiting_age"} for row in rows]


@pytest.mark.skipif(sys.platform == "win32", reason="a file's permissions are not its folder's")
@pytest.mark.skipif(is_root and shutil.which("setpriv") is None, reason="nothing is forbidden to root")
@pytest.mark.parametrize("is_running", [False, True], ids=["stopped", "beside a service"])
def test_a_file_that_can_only_be_read_can_be_looked_at(world: World, is_running: bool) -> None:
    w, webhook_id = world, world.webhook()
    place = w.service(webhook_id)
    w.outage()
    Path("broken").touch()
    assert w.run("recover", webhook_id, "--receiver", place).exit_code == 1
    (row,) = w.run("quarantine", "list", *INBOX).rows[:1]
    let_wait(webhook_id, "e-1")
    export = Path(f"{Path().absolute()}-export")
    looks: list[tuple[str, ...]] = [
        ("inbox", "check"),
        ("inbox", "waiting"),
        ("inbox", "get", "e-1"),
        ("quarantine", "list"),
        ("quarantine", "show", row["delivery_id"]),
        ("quarantine", "export", str(export)),
        ("webhooks", "doctor", webhook_id),
    ]
    before = [w.run(*line, *INBOX) for line in looks]
    export.unlink()

    async def look() -> list[CommandResult]:
        async with SQLiteInbox("inbox.db") as inbox:
            if is_running:
                await inbox.check()  # so that there is a log
            else:
                await inbox.aclose()
            files = [*Path().glob("inbox.db*")]
            assert len(files) == (3 if is_running else 1)
            for file in files:
                file.chmod(0o400)
            Path().chmod(0o500)
            try:
                drop = ("quarantine", "drop", row["delivery_id"], "--yes")
                return await asyncio.to_thread(as_reader, *[[*line, *INBOX] for line in [*looks, drop]])
            finally:
                Path().chmod(0o700)
                for file in files:
                    file.chmod(0o600)

    *after, dropped = asyncio.run(look())
    assert after[0].row == {**before[0].row, "written": False}
    assert "writing was not tried" in after[0].stderr
    for was, found in zip(before[1:], after[1:], strict=True):
        assert (found.exit_code, _steady(found)) == (was.exit_code, _steady(was)), found.output
    assert (dropped.exit_code, "cannot be written: give this user" in dropped.stderr) == (3, True), dropped.output
