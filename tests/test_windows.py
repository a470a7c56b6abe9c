"""What runs on Windows, in a Python that lacks what Windows does not have: ``support/windows/sitecustomize.py``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.support.programs import run

from .support.command_line import COLD
from .support.environment import ROOT

WINDOWS = ROOT / "tests" / "support" / "windows"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="here it is the real one")


LACKING = {"PYTHONPATH": os.pathsep.join([str(WINDOWS), str(ROOT)]), "PYTHONWARNINGS": "error"}


def test_the_simulated_windows_lacks_what_it_should(tmp_path: Path) -> None:
    code = """if 1:
        import asyncio, os, signal
        assert not hasattr(os, "fork") and not hasattr(signal, "SIGHUP")
        for name in ("fcntl", "termios", "pwd", "grp", "resource"):
            try: __import__(name)
            except ImportError: continue
            raise AssertionError(name)
        async def main(): asyncio.get_running_loop().add_signal_handler(2, print)
        try: asyncio.run(main())
        except NotImplementedError: print("none")"""
    done = run(sys.executable, "-c", code, cwd=tmp_path, **LACKING)
    assert (done.stdout, done.stderr) == ("none\n", "")


def test_a_client_a_receiver_with_a_file_replays_and_an_export_work_on_windows(tmp_path: Path) -> None:
    tests = [
        "services/test_webhooks.py::test_creating_a_webhook_gives_its_secret_this_once",
        "receiver/inboxes/test_sharing.py::test_a_replay_and_the_receiver_know_what_the_other_handled[sqlite]",
        "replay/targets/test_json_lines.py::test_an_export_holds_every_message_as_it_came_a_line_each",
        "replay/targets/test_json_lines.py::test_two_exports_to_one_file_are_one_too_many",
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += [f"{ROOT}/tests/{each}" for each in tests]
    done = run(*command, cwd=tmp_path, **LACKING)
    assert "5 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("words", [["demo"], ["replay", "--help"], ["work", "--help"]], ids=" ".join)
def test_the_command_line_works_on_windows(words: list[str], tmp_path: Path) -> None:
    done = run(*COLD, *words, cwd=tmp_path, **LACKING)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
