"""The commands for webhooks, messages and events: one call each, JSON lines out, errors as one line."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from basiq_async import BasiqClient, InMemoryTransport, __version__
from basiq_async._wire.order import read_newest
from basiq_async.cli import main
from basiq_async.cli._app import build  # private: which commands there are shows in no output
from basiq_async.cli._history import follow_after  # private: on the command line its polls are seconds apart
from basiq_async.services.resources import RESOURCES, Resource
from basiq_async.testing import FakeBasiq, Quirks
from tests.support.environment import unmeasured

from ..support.command_line import HASTY, program
from .conftest import Run, Served, Terminal, on_a_terminal, wait_until

pytestmark = pytest.mark.documented_world(
    "it compares lists with what was emitted", "attempts", "message_order", "event_order"
)

URL = "https://example.com/basiq"


def create(run: Run, *more: str) -> dict[str, Any]:
    result = run("webhooks", "create", "--url", URL, "--event", "user.created", "--name", "n", *more)
    assert result.exit_code == 0, result.output
    return result.rows[0]


def test_the_life_of_a_webhook(run: Run, served: Served) -> None:
    made = create(run)
    assert (made["url"], made["status"], made["subscribed_events"]) == (URL, "pending-approval", ["user.created"])
    assert run("webhooks", "list").rows == [made]
    assert run("webhooks", "get", made["id"]).rows == [made]
    changed = run("webhooks", "update", made["id"], "--url", URL, "--event", "user.deleted").rows[0]
    assert changed["subscribed_events"] == ["user.deleted"]
    same = run("webhooks", "ensure", "--url", URL, "--event", "user.deleted").rows[0]
    assert same == {**changed, "action": "unchanged", "joined": None}
    timed_out = run("webhooks", "wait", made["id"], "--timeout", "0")
    assert timed_out.exit_code == 1
    assert "RequestTimeoutError" in timed_out.stderr
    served.run(served.fake.advance(minutes=15))
    assert run("webhooks", "wait", made["id"]).row["status"] == "active"
    assert run("webhooks", "delete", made["id"], "--yes").rows == [{"id": made["id"], "deleted": True}]
    assert run("webhooks", "list").rows == []


def test_the_secret_goes_to_a_private_file_and_nowhere_else(run: Run, served: Served, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    made = create(run, "--secret-file", str(file))
    secret = file.read_text().rstrip("\n")
    assert file.read_text() == secret + "\n"
    assert secret == served.fake.secret(made["id"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    other = tmp_path / "other"
    ensured = run("webhooks", "ensure", "--url", URL, "--event", "user.deleted", "--secret-file", str(other))
    assert other.read_text() == secret + "\n"
    unchanged = run("webhooks", "ensure", "--url", URL, "--event", "user.deleted", "--secret-file", str(tmp_path / "3"))
    assert (unchanged.exit_code, (tmp_path / "3").exists()) == (2, False)
    assert secret not in ensured.output + unchanged.output + json.dumps(made)


def test_ensure_moves_a_webhook_to_a_new_url_and_makes_no_second_one_of_the_same_name(run: Run) -> None:
    words = ("webhooks", "ensure", "--event", "user.deleted", "--name", "n", "--url")
    first = run(*words, URL).row
    moved = run(*words, f"{URL}/new", "--move-from", URL)
    assert (moved.row["id"], moved.row["url"], moved.row["action"]) == (first["id"], f"{URL}/new", "updated")
    rolled_back = run(*words, URL)
    assert (rolled_back.exit_code, rolled_back.row["id"], rolled_back.row["action"]) == (0, first["id"], "elsewhere")
    assert "has another URL, and this one gets no deliveries" in rolled_back.stderr
    create(run)
    both = run(*words, f"{URL}/new", "--move-from", URL)
    assert (both.exit_code, both.row["id"], both.row["action"]) == (0, first["id"], "unchanged"), both.output


def test_ensure_lets_a_webhook_join_the_inbox_of_its_service_or_says_how(run: Run, tmp_path: Path) -> None:
    words = (
        "webhooks",
        "ensure",
        "--event",
        "user.deleted",
        "--url",
        URL,
        "--inbox",
        str(tmp_path / "inbox.db"),
        "--name",
    )
    first = run(*words, "n")
    assert (first.exit_code, first.row["joined"], "join" in first.stderr) == (0, True, False), first.output
    assert run("webhooks", "delete", first.row["id"], "--yes").exit_code == 0
    again = run(*words, "n")
    assert (again.exit_code, again.row["joined"]) == (0, True)
    assert run("webhooks", "delete", again.row["id"], "--yes").exit_code == 0
    other = run(*words, "another")
    assert (other.exit_code, other.row["joined"]) == (0, False)
    assert f"inbox join {other.row['id']}" in other.stderr
    (tmp_path / "inbox.db").write_text("no inbox")
    away = run(*words[:5], f"{URL}/new", *words[6:], "more")
    assert (away.exit_code, len(run("webhooks", "list").rows)) == (3, 1), away.output


@pytest.mark.parametrize("command", ["ensure", "update", "reactivate", "secret"])
def test_a_secret_file_keeps_the_secret_before_for_a_day(
    run: Run, served: Served, tmp_path: Path, command: str
) -> None:
    file, arguments = tmp_path / "secret", ("--url", URL, "--event", "user.created")
    made = run("webhooks", "ensure", *arguments, "--secret-file", str(file)).row
    first = served.fake.secret(made["id"])
    served.fake.quirks = Quirks(signing_key_on_update="new")
    again = run("webhooks", "ensure", *arguments, "--secret-file", str(file))
    assert (again.exit_code, again.row["action"], file.read_text()) == (0, "unchanged", first + "\n")
    assert "keeps the secret that it has" in again.stderr
    words = {"ensure": arguments}.get(command, (made["id"],))
    if command in ("ensure", "update"):
        words = (*words, "--event", "user.updated")
    changed = run("webhooks", command, *words, "--secret-file", str(file))
    second = served.fake.secret(made["id"])
    assert (changed.exit_code, file.read_text().split("\n")[0]) == (0, second)
    assert file.read_text().split("\n")[1].startswith(f"{first}  # until 20")
    assert "keeps the one before for 28 hours" in changed.stderr
    assert [stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()] == [0o600]
    assert not {first, second} & set((again.output + changed.output).split())


@pytest.mark.parametrize("content", ["notes of mine", "\xff"])
def test_no_secret_is_written_over_another_file(run: Run, tmp_path: Path, content: str) -> None:
    file = tmp_path / "notes"
    file.write_text(content, encoding="latin-1")
    for command in ("ensure", "create"):
        refused = run("webhooks", command, "--url", URL, "--event", "user.created", "--secret-file", str(file))
        assert (refused.exit_code, file.read_text(encoding="latin-1")) == (2, content)
        assert "holds something else than signing secrets" in refused.stderr
    assert run("webhooks", "list").rows == []


def test_messages(run: Run, served: Served) -> None:
    webhook_id = served.fake.seed_messages(603, failed=0.5)
    some = run("messages", "list", webhook_id, "--limit", "3").rows
    assert len(some) == 3
    assert list(some[0]) == [
        "id", "event_type_id", "event_id", "webhook_id", "delivered", "last_status_code", "last_attempt", "attempts",
    ]  # fmt: skip
    everything = run("messages", "list", webhook_id, "--limit", "0", "--json").rows
    assert len({row["id"] for row in everything}) == 603
    raw = run("messages", "list", webhook_id, "--limit", "1", "--raw").rows
    assert raw[0]["payload"]["eventTypeId"]
    one = run("messages", "get", webhook_id, some[0]["id"]).rows
    assert one == [some[0]]
    assert run("messages", "get", webhook_id, some[0]["id"], "--raw").rows == raw
    wrong = run("messages", "list", webhook_id, "--limit", "-1")
    assert wrong.exit_code == 2
    filtered = run("messages", "list", webhook_id, "--filter", "message.eventId.eq('none')")
    assert filtered.stdout == ""


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.name)
def test_each_resource_is_listed_and_shown(resource: Resource[Any], run: Run, served: Served) -> None:
    """The commands are named as the resource is, and their arguments are the ids in its path."""
    parents = {"webhook_id": served.fake.add_webhook(URL), "user_id": "one"}
    for event_type in served.fake.event_types:
        served.fake.emit(event_type, user_id=parents["user_id"])
    words = {"event_types": ("events", "types")}.get(resource.name, (resource.name, "list"))
    ids = [parents[name] for name in re.findall(r"{(\w+)}", resource.path)]
    done = run(*words, *ids)
    assert done.stdout, f"basiq-async {' '.join(words)} shows nothing: {done.stderr}"
    first = done.rows[0]
    if words[-1] == "list":  # an event type has no more to show
        assert run(resource.name, "get", *ids, first["id"]).rows == [first]


PARTS = {f"basiq_async.{each}" for each in ("client", "services", "receiver", "replay", "testing")}


@pytest.mark.parametrize(
    ("words", "unneeded", "printed"),
    [
        ("--version", {"typer", "rich", "aiohttp"}, f"basiq-async {__version__}\n"),
        ("--help", {"asyncio", "aiohttp", "cattrs", "sqlite3", "orjson", *PARTS}, "webhooks"),
        ("whoami", {f"basiq_async.cli._{each}" for each in ("jobs", "listen", "mock", "webhooks")}, "no API"),
    ],
)
def test_a_command_waits_for_nothing_that_it_does_not_need(words: str, unneeded: set[str], printed: str) -> None:
    code = (
        f"import sys; sys.argv = ['basiq-async', {words!r}]\n"
        "from basiq_async.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print(sorted({unneeded} & set(sys.modules)), file=sys.stderr)"
    )
    # A process that is measured loads sqlite3 for its measurements.
    env = {name: value for name, value in unmeasured().items() if not name.startswith("BASIQ_")}
    env |= {"HOME": os.getcwd(), "XDG_CONFIG_HOME": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stderr.endswith("[]\n")
    assert printed in done.stdout + done.stderr


def test_the_program_has_each_command_that_its_words_may_mean() -> None:
    found = get_command(build(["--profile", "listen", "webhooks", "list"]))
    assert set(found.commands) == {"listen", "webhooks"}
    assert len(get_command(build(["webhoks"])).commands) == len(program().commands)


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["basiq-async", "demo"])
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit, match=r"pip install '.*\[cli\]'"):
        main()


def test_the_version_also_stands_before_other_options(run: Run) -> None:
    for words in (("--version",), ("--version", "demo")):
        assert run(*words).stdout == f"basiq-async {__version__}\n"


def test_a_secret_file_that_cannot_be_made_leaves_no_webhook(run: Run, served: Served, tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for file in (tmp_path / "missing" / "x", tmp_path / "dangling", tmp_path):
        refused = run("webhooks", "create", "--url", URL, "--event", "user.created", "--secret-file", str(file))
        assert refused.exit_code == 2
        assert refused.stderr.count("\n") == 1
    assert run("webhooks", "list").rows == []
    assert not (tmp_path / "nowhere").exists()


def test_a_secret_file_is_removed_where_nothing_was_created(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    create(run)
    for event_type, code in (("no.such", 2), ("user.created", 1)):  # a wrong use, and a url that has a webhook
        failed = run("webhooks", "create", "--url", URL, "--event", event_type, "--secret-file", str(file))
        assert failed.exit_code == code
        assert not file.exists()


def test_update_changes_only_what_is_named_and_keeps_the_rest(run: Run, served: Served) -> None:
    made = create(run, "--description", "d")
    changed = run("webhooks", "update", made["id"], "--name", "other").rows[0]
    assert changed == {**made, "name": "other"}
    nothing = run("webhooks", "update", made["id"])
    assert (nothing.exit_code, "pass at least one of --url" in nothing.stderr) == (2, True)


def test_the_secret_of_a_webhook_is_shown_again_and_where_it_goes_is_said(
    run: Run, served: Served, tmp_path: Path
) -> None:
    arguments = ("--url", URL, "--event", "user.created")
    made = run("webhooks", "create", *arguments)
    webhook_id, secret = made.row["id"], served.fake.secret(made.row["id"])
    assert run("webhooks", "secret", webhook_id).stdout == secret + "\n"
    assert run("webhooks", "secret", webhook_id, "--json").rows == [{"id": webhook_id, "secret": secret}]
    for command, shown in (("secret", []), ("update", [made.row])):
        file = tmp_path / command
        written = run("webhooks", command, webhook_id, "--secret-file", str(file))
        assert (written.exit_code, written.rows, file.read_text()) == (0, shown, secret + "\n")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert re.search(f"get it with: basiq-async --base-url .* webhooks secret {webhook_id} ", made.stderr)
    unchanged = run("webhooks", "ensure", *arguments, "--secret-file", str(tmp_path / "none"))
    assert (unchanged.exit_code, "Copy it from where this service ran before" in unchanged.stderr) == (2, True)
    assert not (tmp_path / "none").exists()


def test_json_has_fields_after_an_equals_sign(run: Run, served: Served) -> None:
    webhook_id = served.fake.add_webhook(URL)
    assert run("webhooks", "list", "--json=id,status").rows == [{"id": webhook_id, "status": "active"}]
    assert run("webhooks", "list", "--json=url").rows == [{"url": URL}]
    assert run("webhooks", "get", "--json", webhook_id).rows[0]["id"] == webhook_id  # a word after it is an argument
    done = run("mock", "call", "emit", "--json", "eventTypeId=user.created")
    assert list(done.rows[0]) == ["eventId", "messageIds"]
    assert run("webhooks", "get", webhook_id, "--json=url,nonsense").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (("webhooks", "get", "00000000-0000-4000-8000-000000000000", "--json"), 1, "NotFoundError"),
        (("webhooks", "create", "--json"), 2, "UsageError"),
        (("nonsense", "--json"), 2, "UsageError"),
        (("replay", "w", "--json"), 2, "ConfigurationError"),
    ],
)
def test_with_json_an_error_is_json_on_standard_error(
    run: Run, arguments: tuple[str, ...], code: int, kind: str
) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    error = json.loads(result.stderr.splitlines()[0])["error"]
    assert (error["type"], error["exit_code"]) == (kind, code)
    if kind == "NotFoundError":
        assert error["status"] == 404
        assert error["correlation_id"]


def test_messages_are_selected(run: Run, served: Served) -> None:
    webhook_id = served.fake.seed_messages(100)
    assert run("messages", "list", webhook_id, "--failed").rows == []
    some = run("messages", "list", webhook_id, "--event", "consent.*", "--since", "2026-01-01").rows
    assert {row["event_type_id"].partition(".")[0] for row in some} == {"consent"}


@pytest.mark.parametrize("order", ["oldest-first", "newest-first"])
@pytest.mark.parametrize("command", ["list", "tail"])
def test_a_limit_gives_the_newest_first_at_the_cost_of_a_page_if_they_are_there(
    command: str, order: Any, run: Run, served: Served
) -> None:
    webhook_id = served.fake.seed_messages(1_600)
    everything = run("messages", "list", webhook_id).rows
    served.fake.quirks = Quirks(message_order=order)
    asked = len(served.fake.requests)
    assert run("messages", command, webhook_id, "--limit", "3").rows == everything[:-4:-1]
    pages = [request for request in served.fake.requests[asked:] if "/messages" in request.url]
    assert len(pages) <= 2 or order == "oldest-first"  # the second was asked for ahead


@pytest.mark.parametrize("form", ["objects", "strings", "absent"])
def test_a_list_shows_what_the_messages_tell_and_selects_by_it(form: Any, run: Run, served: Served) -> None:
    webhook_id = served.fake.seed_messages(20, failed=0.5)
    everything = run("messages", "list", webhook_id).rows
    failed = [each["id"] for each in everything if each["delivered"] is False]
    served.fake.quirks = Quirks(attempts=form)
    listed = run("messages", "list", webhook_id)
    told = [True, False] if form == "objects" else [None]
    assert (listed.exit_code, {each["delivered"] for each in listed.rows}) == (0, set(told))
    chosen = run("messages", "list", webhook_id, "--failed")
    assert (chosen.exit_code, [each["id"] for each in chosen.rows]) == (0, failed)
    assert {each["delivered"] for each in chosen.rows} == {False}
    lately = run("messages", "list", webhook_id, "--since", everything[5]["last_attempt"], "--event", "*").rows
    assert [each["id"] for each in lately] == [each["id"] for each in everything[5:]]
    assert run("messages", "get", webhook_id, failed[0]).row["delivered"] is False


def test_a_list_of_what_no_message_tells_ends_with_3_and_shows_unknown(run: Run, served: Served) -> None:
    webhook_id = served.fake.seed_messages(3)
    served.fake.quirks = Quirks(attempts="absent", attempts_by_id="strings")
    chosen = run("messages", "list", webhook_id, "--failed")
    assert (chosen.exit_code, chosen.rows) == (3, [])
    assert "Basiq does not tell of 3 messages whether the selection has them" in chosen.stderr
    assert {each["attempts"] for each in run("messages", "list", webhook_id).rows} == {None}
    found = run("replay", webhook_id, "--file", "out.jsonl", "--failed")
    assert (found.exit_code, found.row["skipped"], found.row["finished"]) == (3, {"unknown": 3}, False)


@pytest.mark.parametrize("order", ["oldest-first", "newest-first"])
@pytest.mark.parametrize("count", [0, 3, 25, 70])
async def test_what_is_new_in_a_history_is_found_once_whichever_its_order_and_length(count: int, order: Any) -> None:
    fake = FakeBasiq(page_size=20, quirks=Quirks(message_order=order))
    webhook_id = fake.seed_messages(count)
    async with BasiqClient(fake.DEFAULT_API_KEY, transport=InMemoryTransport(fake)) as basiq:
        begun = await read_newest(basiq.messages.list(webhook_id), 2)
        assert len(begun.items) == min(2, count)
        poll = follow_after(begun, basiq, webhook_id)
        for number in (0, 1, 3, 0, 30, 1):
            sent: list[str] = []
            for _ in range(number):
                await fake.advance(seconds=1)
                sent += (await fake.emit("user.created")).message_ids
            assert [message.id for message in await poll()] == sent


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_followed_messages_appear_once_each_as_they_come_until_a_signal(
    run: Run, served: Served, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    monkeypatch.setattr("basiq_async.cli._run._FIRST_WAIT", 0.02)
    fake = served.fake
    webhook_id = fake.seed_messages(20)

    def asked() -> int:
        return sum(request.url.partition("?")[0].endswith("/messages") for request in fake.requests)

    async def emit() -> None:
        for event_type in ("user.created", "consent.revoked", "consent.expired"):
            fake.emit(event_type)

    def follow() -> None:
        try:
            wait_until(lambda: asked() >= 2)  # the history, and then whether there is more
            served.run(emit())
            before = asked()
            wait_until(lambda: asked() >= before + 3)
        finally:
            os.kill(os.getpid(), number)

    with ThreadPoolExecutor() as pool:
        following = pool.submit(follow)
        done = run("messages", "tail", webhook_id, "--follow", "--limit", "3", "--event", "consent.*")
        following.result()
    assert done.exit_code == code, done.output
    rows = done.rows
    assert [row["event_type_id"] for row in rows[3:]] == ["consent.revoked", "consent.expired"]
    assert len({row["id"] for row in rows}) == 5
    assert {row["event_type_id"].partition(".")[0] for row in rows[:3]} == {"consent"}


@on_a_terminal
def test_following_continues_though_basiq_cannot_be_asked_for_a_while(run: Run, served: Served) -> None:
    webhook_id = served.fake.seed_messages(1)
    with Terminal("messages", "tail", webhook_id, "--follow", program=HASTY, env={}) as terminal:
        terminal.read_until("waiting for new messages")
        served.fake.fail_next(1, status=429, retry_after=31, path="*/messages")
        terminal.read_until("next request in 31 s")
        terminal.type("\x03")
        terminal.end()
        assert terminal.process.returncode == 130


def test_retries_are_reported_as_they_happen(run: Run, served: Served) -> None:
    served.fake.fail_next(1, status=503, path="/events/types")
    done = run("events", "types")
    assert done.exit_code == 0
    assert "GET /events/types: status 503, next attempt in" in done.stderr


@pytest.mark.parametrize(
    "words",
    ["webhooks list", "messages list W", "events list", "events types", "whoami", "replay W --dry-run",
     "mock call state", "mock call next"],
)  # fmt: skip
def test_every_field_that_a_command_shows_can_be_named_after_json(run: Run, served: Served, words: str) -> None:
    webhook_id = served.fake.seed_messages(2)
    served.fake.emit("user.created")
    assert run("mock", "call", "advance", "seconds=1").exit_code == 0  # which delivers it
    command = [webhook_id if word == "W" else word for word in words.split()]
    shown = run(*command, "--json").rows[0]
    for name, value in shown.items():
        done = run(*command, f"--json={name}")
        assert done.exit_code == 0, done.output
        assert list(done.rows[0]) == [name]
        if name == "id":
            assert done.rows[0] == {name: value}


def test_events_are_selected_by_time_and_type(run: Run, served: Served) -> None:
    served.fake.add_webhook(URL)
    first = served.fake.emit("consent.revoked").event_id
    served.run(served.fake.advance(hours=3))
    second = served.fake.emit("user.created").event_id

    def ids(*options: str) -> list[str]:
        done = run("events", "list", *options)
        assert done.exit_code == 0, done.output
        return [row["id"] for row in done.rows]

    assert ids("--event", "consent.*") == [first]
    assert ids("--since", "1h") == [second]  # by the clock of the API, which stands in another year than this machine's
    assert ids("--until", "1h") == [first]
    assert ids("--since", "2025-01-01") == [first, second]
    assert run("events", "list", "--event", "user.craeted").exit_code == 2


def test_a_limit_of_time_is_for_every_call(run: Run, served: Served) -> None:
    served.fake.fail_next(1, path="/events/types", delay=3600)
    done = run("--timeout", "0.5", "events", "types")
    assert done.exit_code == 3
    assert "RequestTimeoutError" in done.stderr
    assert re.search(r"within 0\.[0-5]\d* s", done.stderr), done.stderr  # and not within the usual 30 s


@pytest.mark.parametrize("listed", ["objects", "strings", "absent"])
@pytest.mark.parametrize("more", [("--failed",), ("--failed", "--since", "2d"), ()], ids=" ".join)
def test_a_list_costs_a_request_a_page_and_one_for_each_message_that_does_not_tell_what_is_asked(
    run: Run, served: Served, listed: Any, more: tuple[str, ...]
) -> None:
    webhook_id = served.fake.seed_messages(1_100, failed=0.1)
    served.fake.quirks = Quirks(attempts=listed)
    before = len(served.fake.requests)
    assert run("messages", "list", webhook_id, *more).exit_code == 0
    asked = [each.url.partition("?")[0] for each in [*served.fake.requests][before:] if each.method == "GET"]
    alone = 0 if listed == "objects" or not more else 1_100
    pages = sum(each.endswith("/messages") for each in asked)
    assert (pages, sum("/messages/" in each for each in asked)) == (3, alone)
