"""Exit codes that can be trusted: 0 only where what was asked for was done, and nothing is done unasked."""

from __future__ import annotations

from functools import partial

import pytest

from basiq_async import errors
from basiq_async.testing import FakeBasiq, Quirks

from ..support.command_line import run_command
from ..support.served import Handler, answering
from .conftest import Run, Served, Terminal, make_inbox, on_a_terminal

# --- types of event ---


def test_a_type_that_basiq_has_and_this_version_does_not_know_is_accepted() -> None:
    with Served(FakeBasiq(event_types={"user.verified": "A new one."})) as newer:
        run, kind = partial(run_command, env=newer.environment), ("--event", "user.verified")
        made = run("webhooks", "create", "--url", "https://example.com/x", *kind)
        assert run("messages", "list", made.row["id"], *kind).exit_code == 0


def test_a_beginning_subscribes_to_all_of_its_types(run: Run, served: Served) -> None:
    events = ("--event", "consent.*", "--event", "consent.revoked")
    types = run("webhooks", "create", "--url", "https://example.com/x", *events).row["subscribed_events"]
    assert sorted(types) == sorted(each for each in served.fake.event_types if each.startswith("consent."))


# --- what cannot be undone ---


@on_a_terminal
@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("\n", 1), ("\x04", 1), ("\x03", 130)])
def test_deleting_asks_on_a_terminal(served: Served, answer: str, code: int) -> None:
    webhook_id = served.fake.add_webhook("https://example.com/a")
    with Terminal("webhooks", "delete", webhook_id, env=served.environment) as terminal:
        terminal.read_until("[y/N]")
        terminal.type(answer)
        screen = terminal.end()
        assert terminal.process.returncode == code, screen
    assert bool(list(served.fake.webhooks())) == bool(code)
    assert "Traceback" not in screen


@pytest.mark.parametrize("terminal", [True, False])
def test_deleting_does_not_ask_with_yes_and_a_script_must_pass_it(run: Run, served: Served, terminal: bool) -> None:
    webhook_id = served.fake.add_webhook("https://example.com/a")
    refused = run("webhooks", "delete", webhook_id)
    assert (refused.exit_code, "pass --yes" in refused.stderr) == (2, True)
    assert list(served.fake.webhooks())
    done = run("webhooks", "delete", webhook_id, "--yes", terminal=terminal)
    assert (done.exit_code, "[y/N]" in done.stderr, list(served.fake.webhooks())) == (0, False, [])


# --- each error, and each command that gives a verdict ---

_CODES = {
    1: "BasiqError BadRequestError NotFoundError ConflictError SignatureVerificationError ReplayError TargetError",
    2: "ConfigurationError MissingExtraError",
    3: "TransportError ConnectionFailedError RequestTimeoutError APIError AuthenticationError PermissionDeniedError "
    "RateLimitError ServerError ResponseDecodeError PaginationError InboxError RecordError",
    4: "JobInUseError",
}
CODES: dict[type[BaseException], int] = {TimeoutError: 3}
CODES |= {getattr(errors, name): code for code, names in _CODES.items() for name in names.split()}
"""The exit code for each error; 3 is for what gave no usable response."""
_URL = ("--url", "https://example.com/b")
_TO = ("--to", "http://127.0.0.1:9/")
VERDICTS = {
    "doctor": ("webhooks", "doctor", "W"),
    "recover": ("recover", "W", *_TO),
    "replay": ("replay", "W", *_TO),
}
COMMANDS = {
    **VERDICTS,
    "doctor of all": ("webhooks", "doctor"),
    "recover, acknowledged": ("recover", "W", *_TO, "--acknowledged", "9d"),
    "replay, dry": ("replay", "W", "--dry-run"),
    "replay, since": ("replay", "W", *_TO, "--since", "2d"),
    "replay to a file": ("replay", "W", "--file", "file.jsonl"),
    "replay of events": ("replay", "W", *_TO, "--source", "events"),
    "webhooks list": ("webhooks", "list"),
    "webhooks get": ("webhooks", "get", "W"),
    "webhooks create": ("webhooks", "create", *_URL, "--event", "user.created"),
    "webhooks ensure": ("webhooks", "ensure", *_URL, "--event", "user.created"),
    "webhooks update": ("webhooks", "update", "W", *_URL),
    "webhooks reactivate": ("webhooks", "reactivate", "W"),
    "webhooks secret": ("webhooks", "secret", "W"),
    "webhooks delete": ("webhooks", "delete", "W", "--yes"),
    "messages list": ("messages", "list", "W"),
    "messages get": ("messages", "get", "W", "m-1"),
    "messages tail": ("messages", "tail", "W"),
    "messages resend": ("messages", "resend", "W", "m-1", *_TO),
    "events list": ("events", "list"),
    "events get": ("events", "get", "e-1"),
    "events types": ("events", "types"),
    "trigger": ("trigger", "user.created"),
    "whoami": ("whoami",),
}
"""Each command that asks Basiq and ends."""


def make(kind: type[BaseException]) -> BaseException:
    if issubclass(kind, errors.APIError):
        return kind("why", status=418, errors=[{"code": "why"}], path="/notifications/webhooks/w-1")
    return kind("why", method="GET", path="/x") if issubclass(kind, errors.TransportError) else kind("why")


def test_the_table_has_every_error() -> None:
    assert {kind for name, kind in vars(errors).items() if name in errors.__all__ and name != "error_class"} == {
        kind for kind in CODES if issubclass(kind, errors.BasiqError)
    }


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_each_error_ends_each_command_with_its_code(
    command: tuple[str, ...], run: Run, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_inbox()
    webhook_id = served.fake.add_webhook("https://example.com/a")
    words = [webhook_id if word == "W" else word for word in command]
    raised: list[BaseException] = []

    async def fail(*args: object, **more: object) -> None:
        raise raised[-1]

    monkeypatch.setattr("basiq_async.transports.auth.Authenticated.send", fail)
    for kind, code in CODES.items():
        raised.append(make(kind))
        done = run(*words)
        assert done.exit_code == code, (kind, done.output)
        assert "why" in done.output


TOKEN = (200, b'{"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}')
NO_ANSWERS: dict[str, tuple[tuple[int, bytes], tuple[int, bytes]]] = {
    **{str(status): ((status, b""), TOKEN) for status in (302, 408, 418)},
    "404 of a proxy": ((404, b"<html>a proxy</html>"), TOKEN),
    "400 of a proxy": ((400, b""), TOKEN),
    "409 of a proxy": ((409, b'{"message": "a proxy"}'), TOKEN),
    "a proxy's page": ((200, b"<html>a proxy</html>"), TOKEN),
    **{f"login {status}": ((200, b""), (status, b"")) for status in (404, 400, 302)},
}


@pytest.mark.parametrize("command", VERDICTS.values(), ids=VERDICTS)
@pytest.mark.parametrize(("answer", "login"), NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_no_usable_answer_is_no_verdict(
    command: tuple[str, ...], answer: tuple[int, bytes], login: tuple[int, bytes]
) -> None:
    make_inbox()

    class NoAnswer(Handler):
        def do_POST(self) -> None:
            self.respond(*login, Content_Type="application/json", Location="/elsewhere")

        def do_GET(self) -> None:
            self.respond(*answer, Content_Type="application/json", Location="/elsewhere")

    with answering(NoAnswer) as url:
        env = {"BASIQ_API_KEY": FakeBasiq.DEFAULT_API_KEY, "BASIQ_BASE_URL": url}
        done = run_command("--timeout", "0.3", *command, env=env)
    assert done.exit_code == 3, done.output


def test_a_key_that_was_deleted_is_not_a_webhook_that_is_gone(run: Run, served: Served) -> None:
    webhook_id = served.fake.add_webhook("https://example.com/a")
    served.fake.quirks = Quirks(unknown_key_response="404")
    for command in (("recover", webhook_id, *_TO), ("webhooks", "doctor", webhook_id), ("whoami",)):
        done = run(*command, env={**served.environment, "BASIQ_API_KEY": "ZGVsZXRlZA=="})
        assert (done.exit_code, "check your API key" in done.stderr) == (3, True), done.output
        assert ("continue" in done.stderr) == (command[0] == "recover")


# --- what is empty says so ---


@pytest.mark.parametrize(
    "command",
    [
        ("webhooks", "list"),
        ("events", "list"),
        ("messages", "list", "W"),
        ("messages", "tail", "W"),
        ("messages", "list", "W", "--event", "consent.*"),
        ("quarantine", "list", "--inbox", "inbox.db"),
    ],
    ids=" ".join,
)
def test_an_empty_list_says_that_it_is_empty(command: tuple[str, ...], run: Run, served: Served) -> None:
    make_inbox()
    webhook_id = served.fake.add_webhook("https://example.com/a") if "W" in command else ""
    done = run(*(webhook_id if word == "W" else word for word in command))
    assert (done.exit_code, done.stdout) == (0, ""), done.output
    assert done.stderr.count("\n") == 1
