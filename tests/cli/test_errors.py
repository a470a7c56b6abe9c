"""What a wrong use is told is in the words of the command line: no argument, call or value of Python."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import SECRET, Run, Served

PYTHON = re.compile(
    r"\b[a-z]+(_[a-z]+)+\b"  # subscribed_events
    r"|\b[a-z]\w*\(\)|\b[a-z_]+=(?=[\s'\",;.]|$)"  # jobs(), api_keys=
    r"|\bNone\b|\bTrue\b|\bFalse\b|\bstr\b|\bint\b|\bdict\b|\bkwargs?\b|timedelta|datetime\("
)
TO = ("--to", "http://127.0.0.1:9/")
WRONG = [
    ("webhooks", "create", "--url", "nonsense", "--event", "user.created"),
    ("webhooks", "create", "--url", "", "--event", ""),
    ("webhooks", "create", "--url", "https://example.com/x", "--event", ""),
    ("webhooks", "get", ""),
    ("webhooks", "get", ".."),
    ("webhooks", "get", "none"),
    ("webhooks", "update", "W"),
    ("webhooks", "update", "W", "--url", "ftp://x"),
    ("webhooks", "doctor", "W", "--receiver", "nothing"),
    ("messages", "list", "W", "--since", "yesterday"),
    ("messages", "list", "W", "--since", "999999w"),
    ("messages", "list", "W", "--until", "2026-13-01"),
    ("messages", "list", "W", "--event", "consent*"),
    ("messages", "list", "W", "--event", ""),
    ("messages", "list", "W", "--filter", "\x00"),
    ("messages", "get", "W", "none"),
    ("messages", "resend", "W", "none", "--to", "nonsense"),
    ("events", "get", "none"),
    ("trigger", "user.created", "--to", "ftp://x"),
    ("trigger", "user.created", "--to", "http://u:p@x/"),
    ("trigger", ""),
    ("replay", "W"),
    ("replay", "W", *TO, "--concurrency", "0"),
    ("replay", "W", *TO, "--concurrency", "-1"),
    ("replay", "W", *TO, "--rate", "0"),
    ("replay", "W", *TO, "--rate", "nan"),
    ("replay", "W", *TO, "--on-error", "nothing"),
    ("replay", "W", *TO, "--source", "nothing"),
    ("replay", "W", *TO, "--inbox", "no/such/folder/x.db"),
    ("replay", "W", *TO, "--inbox", "."),
    ("replay", "W", *TO, "--source", "events", "--filter", "\x00"),
    ("replay", "W", "--file", "."),
    ("replay", "W", "--file", "x", "--inbox", "y"),
    ("replay", "W", *TO, "--since", "2099-01-01"),
    ("recover", "W"),
    ("recover", "W", *TO, "--rate", "-1"),
    ("recover", "W", "--receiver", "nothing:at_all"),
    ("recover", "W", *TO, "--acknowledged", "2099-01-01"),
    ("quarantine", "list", "--receiver", "nothing"),
    ("quarantine", "list", "--receiver", "nothing:receiver"),
    ("quarantine", "list", *TO),
    ("quarantine", "retry", "--inbox", "x"),
    ("quarantine", "retry", *TO),
    ("quarantine", "show", "none", *TO, "--webhook", "W"),
    ("inbox", "get", "none", "--receiver", "nothing:receiver"),
    ("listen", "--port", "99999"),
    ("listen", "--path", "x"),
    ("listen", "--forward-to", "x"),
    ("listen", "--poll", "W", "--since", "x"),
    ("sign", "--at", "99999999999999999", "none"),
    ("verify", "none"),
    ("verify", "--tolerance", "-1", "none"),
    ("login", "--base-url", "x"),
    ("--profile", "none", "logout"),
    ("--profile", "none", "whoami"),
    ("jobs", "list"),
    ("jobs", "list", "--fleet", "nothing"),
    ("jobs", "list", "--fleet", "nothing:fleet"),
    ("worker",),
    ("worker", "--fleet", "nothing"),
    ("worker", "--fleet", "nothing:fleet", "--log-level", "x"),
    ("mock", "--speed", "-1"),
    ("mock", "--speed", "0"),
    ("mock", "--api-key", ""),
    ("mock", "call", "x"),
    ("mock", "call", "advance", "x"),
    ("mock", "call", "emit", "eventTypeId=x"),
    ("mock", "call", "fail", "status=1"),
    ("mock", "call", "redeliver"),
    ("mock", "call", "redeliver", "messageId=none"),
    ("mock", "call", "seed", "messages=1", "webhookId=none"),
    ("mock", "--quirk", "x"),
    ("mock", "--state", "no/such/file"),
    ("completion", "csh"),
    ("nothing",),
]


@pytest.mark.parametrize("command", WRONG, ids=lambda command: " ".join(command).replace("\x00", "NUL"))
def test_a_failing_command_speaks_no_python(
    command: tuple[str, ...], run: Run, served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASIQ_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("BASIQ_NO_KEYRING", "1")
    monkeypatch.setattr("typer.get_app_dir", lambda name: str(tmp_path))
    webhook_id = served.fake.seed_messages(2, failed=0.5)
    words = [webhook_id if word == "W" else word for word in command]
    done = run(*words)
    assert done.exit_code in (1, 2, 3), done.output
    told = done.stderr
    for word in (webhook_id, str(tmp_path), *words):
        told = told.replace(word, "") if word else told
    assert told.strip()
    found = PYTHON.search(told)
    assert not found, f"{found[0]!r} in {told}"
