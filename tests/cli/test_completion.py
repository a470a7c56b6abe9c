"""Completion in real shells: no name reaches the shell as code, or lands on the line. Nothing is asked of the API."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..redaction.test_shell import NASTY
from ..support.real_time import PATIENCE
from .conftest import Terminal, install

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such shells")
GOOD = "prod.au"
EVIL = [
    *(each for each in NASTY if each not in ("", "\ud800")),
    "x;touch pwned;", "$(touch pwned)", "\\$(touch pwned)", "`touch pwned`", "\\`touch pwned\\`", "*", "a" * 65,
    ");touch pwned;((", "'; touch pwned; '", '"; touch pwned; "', "--forward-to=http://evil.example", "-x", "é", "a b",
]  # fmt: skip
ASK = {
    "bash": 'COMP_WORDS=(basiq-async --profile ""); COMP_CWORD=2; _basiq_async_completion basiq-async; '
    'printf "%s\\n" "${COMPREPLY[@]}"',
    "zsh": '_arguments() { print -r -- "$@" }; words=(basiq-async --profile ""); CURRENT=3; _basiq_async_completion',
    "fish": 'complete --do-complete "basiq-async --profile "',
}
START = {"bash": ["bash", "--norc", "-c"], "zsh": ["zsh", "-f", "-c"], "fish": ["fish", "--no-config", "-c"]}


def require(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


@pytest.fixture
def program(tmp_path: Path) -> dict[str, str]:
    """The environment of a shell that finds the program."""
    return {**os.environ, "PATH": install(tmp_path / "bin"), "HOME": str(tmp_path)}


@pytest.mark.parametrize("shell", ASK)
def test_no_name_of_a_profile_changes_what_a_completion_runs(
    shell: str, program: dict[str, str], tmp_path: Path
) -> None:
    require(shell)
    file = tmp_path / "settings" / "basiq-async" / "profiles.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"profiles": {each: {} for each in (GOOD, *EVIL)}}))
    file.chmod(0o600)
    load = "basiq-async completion fish | source" if shell == "fish" else f'eval "$(basiq-async completion {shell})"'
    done = subprocess.run(
        [*START[shell], f"{load}; {ASK[shell]}"],
        env={**program, "XDG_CONFIG_HOME": str(tmp_path / "settings")},
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert {each.name for each in tmp_path.iterdir()} <= {"bin", "settings", ".cache", ".local", ".zcompdump"}, done
    shown = done.stdout.replace('"', " ").replace("(", " ").replace(")", " ").split()
    assert GOOD in shown, done
    assert "touch" not in done.stdout
    assert set(shown) <= {GOOD, "*:", ":"}, done.stdout


def test_a_bare_zshrc_is_enough(program: dict[str, str], tmp_path: Path) -> None:
    require("zsh")
    (tmp_path / ".zshrc").write_text('PS1="ready> "\neval "$(basiq-async completion zsh)"\n')
    with Terminal(env={**program, "ZDOTDIR": str(tmp_path)}, program=("zsh", "-d", "-i")) as terminal:
        terminal.read_until("ready>")
        terminal.type("basiq-async webhooks doc\t")
        screen = terminal.read_until("basiq-async webhooks doctor")
    assert "command not found" not in screen
