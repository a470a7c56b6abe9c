"""All arguments of each command that does something are checked before it does anything."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support.command_line import commands
from .conftest import World, receive

DAYS_AGO = 0
LINES = (
    "replay W --to URL --secret-file SECRET",
    "replay W --receiver SERVICE",
    "replay W --file out.jsonl",
    "recover W --to URL --secret-file SECRET",
    "recover W --receiver SERVICE",
    "trigger user.created",
    "trigger user.created --to URL --secret-file SECRET",
    "webhooks create --url https://x.example --event user.created",
    "webhooks ensure --url https://x.example --event user.created",
    "webhooks update W --name n",
    "webhooks reactivate W",
    "webhooks secret W --show",
    "webhooks delete W --yes",
    "webhooks doctor W --test --secret-file SECRET",
    "messages resend W M --to URL --secret-file SECRET",
    "quarantine retry --receiver SERVICE",
    "inbox retry --receiver SERVICE",
    "quarantine drop e-bad --inbox inbox.db --yes",
    "quarantine export out.jsonl --inbox inbox.db",
    "inbox join W --inbox inbox.db --yes",
    "listen --poll W --forward-to URL --secret-file SECRET --since 1h",
    "listen --forward-to URL --secret-file SECRET --port 0",
    "work --receiver SERVICE",
)
"""Each command that does something, as it does it."""
READ_ONLY = {
    *(
        "whoami",
        "profiles",
        "completion",
        "sign",
        "verify",
        "demo",
        "mock",
        "mock call",
        "mock wait",
        "login",
        "logout",
    ),
    *("webhooks list", "webhooks get", "webhooks wait", "messages list", "messages get", "messages tail"),
    *("events list", "events get", "events types", "quarantine list", "quarantine show"),
    *("inbox waiting", "inbox check", "inbox get"),
}
"""The others: they look, or touch nothing of a service."""
BAD = {
    **dict.fromkeys(("webhook_id", "message_ids", "webhook", "poll"), "a/b"),
    **dict.fromkeys(("url", "to", "move_from", "forward_to"), "nonsense"),
    **dict.fromkeys(("since", "until", "acknowledged"), "yesterday"),
    **dict.fromkeys(("event", "event_type"), "user.craeted"),
    **dict.fromkeys(("secret_file", "inbox", "file"), "no/such/folder/file"),
    **dict.fromkeys(("limit", "max_failures", "unrecorded", "max_pause", "rate", "port"), "-1"),
    **dict.fromkeys(("source", "on_error", "log_level"), "nothing"),
    "receiver": "nothing:receiver",
    "concurrency": "0",
    "every": "inf",
    "path": "x",
    "host": "256.0.0.1",
    "event_id": "../users",
    "message_id": "a.b",
}
ANY_TEXT = {
    *("name", "description", "filter", "text", "job", "id", "ids", "again", "user_id", "entity_id"),
    "json",  # another test has its fields
}


SEEN_LATER = {("listen", "host"), ("listen", "every")}
"""What only the network or the use of another option shows."""


LEAVES = {" ".join(path): each for path, each in commands() if not getattr(each, "no_args_is_help", False)}


def command_of(line: str) -> str:
    return max((each for each in LEAVES if line == each or line.startswith(f"{each} ")), key=len)


def cases() -> Iterator[Any]:
    """Each line with one argument that is wrong."""
    for line in LINES:
        name = command_of(line)
        for each in LEAVES[name].params:
            if each.name in BAD and not getattr(each, "is_flag", False) and (name, each.name) not in SEEN_LATER:
                yield pytest.param(line, each, id=f"{line}, {each.name}")


def spoil(line: str, parameter: Any) -> list[str]:
    """Put the wrong value of a parameter into a line; after what is right, where there may be several."""
    name, words, wrong = command_of(line), shlex.split(line), BAD[parameter.name]
    if parameter.opts[0].startswith("-"):
        option = max(parameter.opts, key=len)
        if option in words and not parameter.multiple:
            words[words.index(option) + 1] = wrong
        else:
            words += [option, wrong]
    else:
        place = len(name.split()) + [p for p in LEAVES[name].params if not p.opts[0].startswith("-")].index(parameter)
        words[place : place + 1] = [words[place], wrong] if parameter.nargs == -1 else [wrong]
    return words


def test_each_command_is_one_that_does_something_or_one_that_looks_and_each_argument_has_a_wrong_value() -> None:
    assert {command_of(line) for line in LINES} == LEAVES.keys() - READ_ONLY
    named = {each.name for line in LINES for each in LEAVES[command_of(line)].params if not getattr(each, "is_flag", 0)}
    assert named - {*BAD} == ANY_TEXT | {"help"} - {*BAD} - {"help"}


@pytest.mark.parametrize(("line", "parameter"), [*cases()])
def test_one_wrong_argument_is_refused_before_anything_is_done(line: str, parameter: Any, world: World) -> None:
    w, webhook_id = world, world.webhook("user.created")
    receive(webhook_id, "e-good", "e-bad", bad=("e-bad",), quarantine_after=1)
    place = w.service(webhook_id)
    w.fake.endpoint_down(w.endpoint.url)
    w.emit(2, "user.created")
    w.pass_time(minutes=10)
    w.fake.endpoint_up(w.endpoint.url)
    (message_id, _) = [row["id"] for row in w.run("messages", "list", webhook_id).rows]
    given = {"W": webhook_id, "URL": w.endpoint.url, "SECRET": "the secret", "SERVICE": place, "M": message_id}
    words = [given.get(word, word) for word in spoil(line, parameter)]
    before, asked = _state(w), len(w.fake.requests)
    done = w.run(*words)
    assert done.exit_code in ((1, 2, 3) if parameter.name == "file" else (2, 3)), done.output
    assert len([each for each in done.stderr.splitlines() if each.startswith("error: ")]) == 1 or "Usage" in done.stderr
    changing = [each for each in [*w.fake.requests][asked:] if each.method != "GET" and not each.url.endswith("/token")]
    assert (changing, w.endpoint.ids, _state(w)) == ([], [], before)


def _state(w: World) -> Any:
    """The files of the folder, what the service has handled and quarantined, and the webhooks."""
    files = {each.name for each in Path().iterdir() if not re.search(r"-(shm|wal)$|__pycache__", each.name)}
    entries = w.run("quarantine", "list", "--inbox", "inbox.db").rows
    return files, w.handled(), [each["event_id"] for each in entries], list(w.fake.webhooks())
