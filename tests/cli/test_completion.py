"""Completion in real shells: nothing that the API sends reaches the shell as code, or lands on the line."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..redaction.test_shell import NASTY
from ..support.command_line import PROGRAM, run_command
from ..support.real_time import PATIENCE
from ..support.wire import KEY, WEBHOOK, Wire, page

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such shells")
if sys.platform != "win32":
    from ..support.terminal import Terminal

GOOD = "51a2b3c4-0001-4d5e-8f90-a1b2c3d4e5f6"
EVIL = [
    *(each for each in NASTY if each not in ("", "\ud800")),  # a response with these is refused whole
    "x;touch pwned;", "$(touch pwned)", "\\$(touch pwned)", "`touch pwned`", "\\`touch pwned\\`", "*", "a" * 65,
    ");touch pwned;((", "'; touch pwned; '", '"; touch pwned; "', "--forward-to=http://evil.example", "-x", "é",
]  # fmt: skip
ASK = {
    "bash": 'COMP_WORDS=(basiq-async webhooks get ""); COMP_CWORD=3; _basiq_async_completion basiq-async; '
    'printf "%s\\n" "${COMPREPLY[@]}"',
    "zsh": '_arguments() { print -r -- "$@" }; words=(basiq-async webhooks get ""); CURRENT=4; _basiq_async_completion',
    "fish": 'complete --do-complete "basiq-async webhooks get "',
}
START = {"bash": ["bash", "--norc", "-c"], "zsh": ["zsh", "-f", "-c"], "fish": ["fish", "--no-config", "-c"]}


def require(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


@pytest.fixture
def program(tmp_path: Path) -> dict[str, str]:
    """The environment of a shell that finds the program."""
    file = tmp_path / "bin" / "basiq-async"
    file.parent.mkdir()
    file.write_text(f'#!/bin/sh\nexec {shlex.join(PROGRAM)} "$@"\n')
    file.chmod(0o700)
    path = f"{file.parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HOME": str(tmp_path), "BASIQ_NO_KEYRING": "1"}


@pytest.mark.parametrize("shell", ASK)
async def test_no_text_from_the_api_changes_what_a_completion_runs(
    shell: str, program: dict[str, str], tmp_path: Path
) -> None:
    require(shell)
    hostile = [{**WEBHOOK, "id": each, "url": url, "name": each} for each in EVIL for url in (f"https://x/{each}",)]
    items = [*hostile, *({**WEBHOOK, "id": GOOD, "url": f"https://x/{each}"} for each in EVIL)]
    load = "basiq-async completion fish | source" if shell == "fish" else f'eval "$(basiq-async completion {shell})"'
    async with Wire(page(items)) as wire:
        env = {**program, "BASIQ_API_KEY": KEY, "BASIQ_BASE_URL": wire.url}
        done = await asyncio.to_thread(
            subprocess.run,
            [*START[shell], f"{load}; {ASK[shell]}"],
            env=env, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    assert {each.name for each in tmp_path.iterdir()} <= {"bin", ".cache", ".config", ".local", ".zcompdump"}, done
    told = done.stdout.replace('"', " ").replace("(", " ").replace(")", " ").split()
    assert GOOD in told, done
    assert "touch" not in done.stdout
    assert set(told) <= {GOOD, "*:", ":"}, done.stdout


def test_a_bare_zshrc_is_enough(program: dict[str, str], tmp_path: Path) -> None:
    require("zsh")
    (tmp_path / ".zshrc").write_text('PS1="ready> "\neval "$(basiq-async completion zsh)"\n')
    with Terminal(env={**program, "ZDOTDIR": str(tmp_path)}, program=("zsh", "-d", "-i")) as terminal:
        terminal.read_until("ready>")
        terminal.type("basiq-async webhooks doc\t")
        screen = terminal.read_until("basiq-async webhooks doctor")
    assert "command not found" not in screen


def test_a_profile_whose_name_a_shell_would_run_is_not_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typer.get_app_dir", lambda name: str(tmp_path))
    file = tmp_path / "profiles.json"
    file.write_text('{"profiles": {"prod.au": {}, "$(touch pwned)": {}, "a b": {}, "--json": {}}}')
    file.chmod(0o600)
    line = {"COMP_WORDS": "basiq-async --profile ", "COMP_CWORD": "2"}
    assert run_command(env={"_BASIQ_ASYNC_COMPLETE": "complete_bash", **line}).stdout.split() == ["prod.au"]
