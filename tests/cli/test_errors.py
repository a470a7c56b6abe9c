"""A command that is used wrongly: its exit code, one line that says what is wrong, and nothing done.

The line is in the words of the command line: it has no argument, call or value of Python.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ..support.command_line import commands
from .conftest import Run, Served

PYTHON = re.compile(
    r"\b[a-z]+(_[a-z]+)+\b"  # subscribed_events
    r"|\b[a-z]\w*\(\)|\b[a-z_]+=(?=[\s'\",;.]|$)"  # jobs(), api_keys=
    r"|\bNone\b|\bTrue\b|\bFalse\b|\bstr\b|\bint\b|\bdict\b|\bkwargs?\b|timedelta|datetime\("
)
NO_LISTENER = "http://127.0.0.1:9/"
USES: dict[str, str] = {
    "webhooks create --url nonsense --event user.created": "url must be an absolute http or https url",
    "webhooks create --url https://example.com/x --event ''": "'' is not an event type that Basiq documents",
    "webhooks get ''": "webhook id must not be empty, '.' or '..'",
    "webhooks update W": "pass at least one of --url, --event, --name, --description and --secret-file",
    "webhooks update W --url ftp://x": "url must be an absolute http or https url",
    "webhooks doctor W --receiver nothing": "a receiver must be named as module:variable",
    "messages list W --since yesterday": "--since must be a length of time such as 2d, 12h or 90m, or a date,",
    "messages list W --since 999999w": "--since is too long ago: '999999w'",
    "messages list W --until 2026-13-01": "--until must be a length of time such as 2d, 12h or 90m, or a date,",
    "messages list W --event 'consent*'": "'consent*' matches no event type that Basiq documents (did you mean",
    "messages list W --event 'cosnent.*'": "'cosnent.*' matches no event type",
    "webhooks update W --event '*.created'": "'*.created' is not an event type",
    "replay W --to NO_LISTENER --secret-file nowhere": "--secret-file 'nowhere' cannot be read: No such file",
    "trigger user.created --to NO_LISTENER --secret-file empty": "--secret-file 'empty' is empty",
    "listen --secret-file empty": "--secret-file 'empty' is empty",
    "recover W --to NO_LISTENER --receiver a:b": "name the target with one of --to or --receiver",
    "recover W --receiver a:b --inbox x.db": "--inbox is for --to: a receiver has its own inbox",
    "messages resend W none --to nonsense": "url must be an absolute http or https url",
    "trigger user.created --to ftp://x": "url must be an absolute http or https url",
    "trigger user.created --to http://u:p@x/": "url must not hold a user or password",
    "trigger ''": "'' is not an event type that Basiq documents",
    "replay W": "name the target with one of --to or --receiver or --file",
    "replay W --to NO_LISTENER --concurrency 0": "Invalid value for '--concurrency'",
    "replay W --to NO_LISTENER --rate nan": "rate must be a finite number above 0",
    "replay W --to NO_LISTENER --on-error nothing": "Invalid value for '--on-error': Value error, 'nothing' is not",
    "replay W --to NO_LISTENER --source nothing": "Invalid value for '--source': Value error, 'nothing' is not one",
    "replay W --to NO_LISTENER --max-pause -1": "max pause must be a finite number of seconds above 0",
    "quarantine retry --to NO_LISTENER --webhook W --max-pause inf": "max pause must be a finite number of seconds",
    "messages list W --json=id --raw": "--raw shows the API's own JSON whole: pass --json without names",
    "replay W --file x --inbox y": "--inbox is for --to: a receiver has its own inbox, and a file is its own",
    "replay W --to NO_LISTENER --since 2099-01-01": "--since is in the future:",
    "recover W": "name the target with one of --to or --receiver",
    "recover W --to NO_LISTENER --rate -1": "rate must be a finite number above 0",
    "recover W --receiver nothing:at_all": "'nothing:at_all' cannot be used",
    "recover W --to NO_LISTENER --acknowledged 2099-01-01": "--acknowledged is in the future:",
    "quarantine list --receiver nothing": "a receiver must be named as module:variable",
    "quarantine list --receiver nothing:receiver": "cannot be used: ModuleNotFoundError: No module named",
    "quarantine list --to NO_LISTENER": "--to needs --webhook, or BASIQ_WEBHOOK_ID: the record is of one webhook",
    "quarantine retry --inbox x": "name the target with one of --receiver or --to",
    "quarantine retry --to NO_LISTENER": "--to needs --webhook, or BASIQ_WEBHOOK_ID: the record is of one webhook",
    "quarantine show none --to NO_LISTENER --webhook W": "the inbox file 'basiq-W-084fd42e.db' does not exist",
    "listen --port 99999": "Invalid value for '--port'",
    "listen --path x": "--path must begin with a /, not 'x'",
    "listen --forward-to http://user:hunter2@127.0.0.1/hook": "url must not hold a user or password",
    "listen --forward-to x": "url must be an absolute http or https url",
    "listen --poll W --since x": "--since must be a length of time such as 2d, 12h or 90m, or a date, not 'x'",
    "sign --at 99999999999999999 none": "--at must be a time within the years 1 to 9999",
    "verify none --headers none": "the file 'none' cannot be read: No such file or directory",
    "verify --headers x --tolerance -1 none": "--tolerance must be a number of seconds, 0 or more",
    "login --base-url x": "base url must be an absolute http or https url without credentials, query or",
    "--profile none logout": "there is no profile 'none'",
    "--profile none whoami": "there is no profile 'none'; make it with: basiq-async --profile none login",
    "mock --speed -1": "speed must be above 0 and at most 1e+06, not -1.0",
    "mock --speed 0": "speed must be above 0 and at most 1e+06, not 0.0",
    "mock --api-key ''": "--api-key is empty",
    "mock call advance x": "the field x has no value: write x=VALUE",
    "mock call emit eventTypeId=x": "there is no event type 'x'",
    "mock call fail status=1": "status must be from 100 to 999",
    "mock call redeliver": "redeliver needs messageId=VALUE: The message's id.",
    "mock call seed messages=1 webhookId=none": "there is no webhook 'none'",
    "mock --quirk x": "--quirk must be one of messages-path=plain|slash",
    "mock --port 0 --ready-file no/such/file": "the ready file no/such/file cannot be written: No such file",
    "completion csh": "the shell must be bash, zsh or fish, not 'csh'",
    "nothing": "No such command 'nothing'.",
    "replay W --dry-run --limit -1": "Invalid value for '--limit'",
    "sign /": "cannot be read: Is a directory",
    "sign --at -5": "timestamp must not be before 1970",
    "sign --id a.b": 'message id must be printable ASCII, without spaces and without a "."',
    "listen --host 256.0.0.1": "cannot listen on 256.0.0.1 port 8080: Name or service not known",
    "trigger user.created --to NO_LISTENER --text x": "--text and --url are for Basiq's test messages: omit",
    "trigger user.created --event-id e-1": "--event-id, --user-id, --entity-id, --id and --secret-file require --to",
    "trigger user.created --url https://example.org/a --text x": "--text and --url cannot be used together:",
    "trigger user.created --to NO_LISTENER --event-id ../users": "the event id must be one segment of a path",
    "mock call advence": "there is no operation 'advence' (did you mean 'advance'?)",
    "mock call emit eventType=x eventTypeId=x": "there is no field 'eventType'; the fields are: eventTypeId,",
    "mock call emit": "eventTypeId is missing: The event type",
    "mock call fail 'headers=[]'": "headers must be a JSON object",
    "mock call advance days=soon": "days must be a number",
    "mock call removeState": "the first state of a mock cannot be removed",
    "listen --since 1h": "--since and --inbox require --poll",
    "listen --poll w --every inf": "--every must be a finite number of seconds",
    "quarantine list --receiver json:none": "'json:none' cannot be used: there is no 'none'. Name a receiver, or",
    "quarantine list --receiver json:decoder": "'json:decoder' is a module, not a WebhookReceiver",
    "webhooks list --json=id,colour": "the fields are id, url, status, subscribed_events, name, description",
    "quarantine list --inbox none.db": "the inbox file 'none.db' does not exist",
    "inbox check --inbox none.db": "the inbox file 'none.db' does not exist",
    "inbox waiting": "name the inbox with --inbox or --receiver, or with --to and --webhook",
    "work": "name the receiver with --receiver MODULE:RECEIVER",
    "webhooks create --url https://x.example --event user.deleted --event user.craeted": "did you mean 'user.created'?",
    "webhooks ensure --url https://x.example --event user.craeted": "did you mean 'user.created'?",
    "webhooks update W --event user.craeted": "did you mean 'user.created'?",
    "trigger user.craeted": "did you mean 'user.created'?",
    "trigger user.craeted --to NO_LISTENER": "did you mean 'user.created'?",
    "messages list W --event user.craeted": "did you mean 'user.created'?",
    "messages tail W --event user.craeted": "did you mean 'user.created'?",
    "replay W --to NO_LISTENER --event user.craeted": "did you mean 'user.created'?",
    "mock call emit eventTypeId=user.craeted": "did you mean 'user.created'?",
}
"""What is said, for each line; W is the id of a webhook."""
FAILURES: dict[str, tuple[int, str]] = {
    "webhooks doctor 00000000-0000-4000-8000-000000000000": (1, "404 "),
    "webhooks get none": (1, "400 path-parameter-not-valid: The webhookId is not valid."),
    "messages list W --filter '\x00'": (1, "400 parameter-not-valid: The filter is not valid: expected"),
    "messages get W none": (1, "400 path-parameter-not-valid: The messageId is not valid."),
    "events get none": (1, "404 resource-not-found: There is no event with this id."),
    "replay W --to NO_LISTENER --inbox no/such/folder/x.db": (
        3,
        "/no/such/folder/x.db' cannot be opened: No",
    ),
    "replay W --to NO_LISTENER --inbox .": (3, "' cannot be opened"),
    "replay W --to NO_LISTENER --source events --filter '\x00'": (
        1,
        "400 parameter-not-valid: The filter is not valid:",
    ),
    "replay W --file no/such/out.jsonl": (3, "cannot be written: No such file or directory"),
    "replay W --file .": (3, "' cannot be written: Is a directory"),
    "inbox get none --receiver nothing:receiver": (2, "No module named 'nothing'"),
    "mock call redeliver messageId=a/../b": (1, "there is no message 'a/../b'"),
}
"""The same with the exit code, for lines that fail while they work."""


@pytest.mark.parametrize("line", [*USES, *FAILURES], ids=lambda line: line.replace("\x00", "NUL"))
def test_what_is_wrong_is_one_line_in_the_words_of_the_command_line(
    line: str, run: Run, served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("typer.get_app_dir", lambda name: str(tmp_path))
    webhook_id = served.fake.seed_messages(2, failed=0.5)
    before = list(served.fake.webhooks())
    Path("empty").touch()
    words = [{"W": webhook_id, "NO_LISTENER": NO_LISTENER}.get(word, word) for word in shlex.split(line)]
    done = run(*words, stdin="[]")
    code, shown = FAILURES[line] if line in FAILURES else (2, USES[line])
    assert (done.exit_code, shown in done.stderr.replace(webhook_id, "W")) == (code, True), done.output
    assert code != 2 or done.stdout == ""
    assert "hunter2" not in done.output
    (found,) = [each for each in done.stderr.splitlines() if each.startswith(("error: ", '{"error":'))]
    for word in (webhook_id, str(tmp_path), *words):
        found = found.replace(word, "") if word else found
    python = PYTHON.search(found.removeprefix('{"error"'))
    assert not python or found.startswith("{"), f"{python and python[0]!r} in {found}"
    assert list(served.fake.webhooks()) == before
    records = tmp_path.glob("basiq-*.db") if code != 2 else ()
    assert {*tmp_path.iterdir()} == {tmp_path / "empty", *records}


PRINTING = {
    words: each
    for words, each in commands()
    if not getattr(each, "no_args_is_help", False) and any(one.name == "json" for one in each.params)
}
"""Each command that has ``--json``."""


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_an_unknown_field_is_refused_with_the_known_ones_before_anything_is_done(
    words: tuple[str, ...], run: Run, served: Served, tmp_path: Path
) -> None:
    needed = [each for each in PRINTING[words].params if each.required]
    given = [word for each in needed for word in ([*each.opts[:1], "x"] if each.opts[0][0] == "-" else ["x"])]
    if words == ("mock", "call"):
        given = ["state"]
    done = run(*words, *given, "--json=id,nonsense,url", stdin="x")
    assert done.exit_code == 2, done.output
    assert re.search(r"--json has no field '(id|nonsense)' here; the fields are \w+", done.stderr), done.stderr
    assert (done.stdout, len(served.fake.requests), list(tmp_path.iterdir())) == ("", 0, [])


def test_there_are_commands_that_print() -> None:
    assert len(PRINTING) > 25
