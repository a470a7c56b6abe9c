"""Suggested lines in real shells: whatever the text of a part, the shell hands it on as it is and runs nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from basiq_async._redaction.text import ShellText, shell_line
from basiq_async.cli._shell import command_line  # private: what every line of the program is made with
from basiq_async.testing.mock._page import line_for_post, line_for_request  # private: its lines are run in shells
from tests.support.real_time import PATIENCE

SHELLS = {"bash": ["bash", "--norc"], "zsh": ["zsh", "-f"], "fish": ["fish", "--no-config"]}
PRINTF = shutil.which("printf") or "/usr/bin/printf"
NASTY = [
    "", " ", "a b", "'", "''", '"', "\\", "\\'", "'\\", "$HOME", "$(touch pwned)", "`touch pwned`", "x;touch pwned;",
    "\\'$(touch pwned)\"", "=ls", "==ls", "=\\", "~", "~root", "*", "?a=1&b=2", "{a,b}", "[x]", "!!", "!x", "#x",
    "a\nb", "\n", "\ttouch", "\x03", "\x1b[201~\ntouch pwned\n", "\x1b]0;title\x07", "\u202e", "\u200d", "\ud800",
    "é日本", "^a^b", "%1", "-rf", "--", "--json", "\x7f", "\x80", "$'x'", "a'\nb", "\\x41", "\x01" + "41", "<x",
    ">pwned", "|touch pwned", "&",
]  # fmt: skip
TEXTS = st.one_of(
    st.sampled_from(NASTY),
    st.lists(st.sampled_from([*NASTY, *"'\"\\$`;&|<>(){}[]*?!#~=%^ \n\t\x1bab1-"]), max_size=6).map("".join),
    st.text(max_size=12),
)


KEY = "a2V5 $(touch pwned)"
INSTALLED = [name for name, command in SHELLS.items() if shutil.which(command[0])]


@pytest.fixture(params=[*INSTALLED, *(pytest.param(name, marks=pytest.mark.skip(reason=f"{name} is not installed"))
                                      for name in SHELLS if name not in INSTALLED)])  # fmt: skip
def installed(request: pytest.FixtureRequest) -> list[str]:
    return SHELLS[request.param]


def run_script(shell: Sequence[str], script: str, folder: Path) -> list[str]:
    """Return the words that reach ``curl``, ``basiq-async`` or ``printf`` in a script; nothing else is done by it."""
    for name in ("curl", "basiq-async"):
        program = folder / name
        program.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
        program.chmod(0o700)
    (folder / "script").write_text(script + "\n", encoding="utf-8")
    env = {**os.environ, "LC_ALL": "C.UTF-8", "HOME": str(folder), "BASIQ_TOKEN": "it's mine", "BASIQ_API_KEY": KEY}
    env["PATH"] = f"{folder}:{env['PATH']}"
    done = subprocess.run([*shell, "script"], cwd=folder, capture_output=True, env=env, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    made = {each.name for each in folder.iterdir()} - {"curl", "basiq-async", "script", ".cache", ".config", ".local"}
    assert made == set()
    return done.stdout.decode(errors="surrogateescape").split("\0")[:-1]


def expected(word: str) -> str:
    return word.encode(errors="replace").decode().replace("\0", "\ufffd")


@settings(
    max_examples=int(os.environ.get("BASIQ_FUZZ_EXAMPLES", "800")) // 200,
    deadline=None,
    phases=[Phase.generate],  # no shrinking: each try would start a shell
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(st.lists(TEXTS, min_size=1, max_size=3), min_size=40, max_size=60))
def test_a_shell_hands_each_word_on_as_it_is(
    installed: list[str], tmp_path_factory: pytest.TempPathFactory, drawn: list[list[str]]
) -> None:
    folder = tmp_path_factory.mktemp("shell")
    lines = [*drawn, NASTY[1:]]
    if installed[0] == "fish":  # it refuses what is not printable, and would end the script
        lines = [[word for word in words if word.isprintable()] or ["x"] for words in lines]
    script = "\n".join(shell_line([PRINTF, "%s\\0", *words]) for words in lines)
    assert run_script(installed, script, folder) == [expected(word) for words in lines for word in words]


@pytest.mark.skipif("fish" not in INSTALLED, reason="fish is not installed")
def test_fish_runs_nothing_else_where_a_part_is_not_printable(tmp_path: Path) -> None:
    for text in (each for each in NASTY if not each.isprintable()):
        line = shell_line(["true", text, "\\'$(touch pwned)\"", ";touch pwned"])
        command = [*SHELLS["fish"], "-c", line]
        subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=PATIENCE, check=False)
        assert not (tmp_path / "pwned").exists(), ascii(text)


def test_the_lines_of_the_mocks_page_run_what_they_show(installed: list[str], tmp_path: Path) -> None:
    lines, shown = [], []
    for text in filter(None, NASTY):
        if installed[0] == "fish" and not text.isprintable():  # it refuses such a line
            continue
        request = {"method": "POST", "url": f"http://x/{text}", "path": "/x", "headers": {"X-Name": text}, "body": text}
        credential = {**request, "body": f"Authorization: {text}", "headers": {"authorization": "Bearer abc"}}
        lines += [
            line_for_request(request), line_for_request(credential), line_for_post("http://x", text, "secret"),
        ]  # fmt: skip
        begin = ["--globoff", "-X", "POST", f"http://x/{text}", "-H"]
        shown += [
            [*begin, f"X-Name: {text}", "--data-raw", text],
            [*begin, "Authorization: Bearer it's mine", "--data-raw", f"Authorization: {text}"],
            [
                "-X",
                "POST",
                "-H",
                f"Authorization: Basic {KEY}",
                f"http://x/{quote(text, safe='', errors='replace')}/secret",
            ],
        ]
    words = run_script(installed, "\n".join(lines), tmp_path)
    assert words == [expected(word) for each in shown for word in each]


@given(TEXTS)
def test_a_line_can_be_shown_as_it_is(text: str) -> None:
    assert shell_line([text]).isprintable()


def test_an_argument_stays_an_argument_and_a_value_a_value() -> None:
    assert command_line("webhooks get", "w1") == "basiq-async webhooks get w1"
    assert command_line("recover", "--profile", options={"--to": "http://x/?a=1&b=2", "--rate": 2.0}) == (
        "basiq-async recover --to 'http://x/?a=1&b=2' --rate 2 -- --profile"
    )
    assert command_line(
        "replay", "w", options={"--event": ["a", "--json"], "--ui": True, "--limit": None, "-x": False}
    ) == ("basiq-async replay w --event a --event=--json --ui")
    assert shell_line(["curl", ShellText('"$KEY"'), "$KEY"]) == "curl \"$KEY\" '$KEY'"
