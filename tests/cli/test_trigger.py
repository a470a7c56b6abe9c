"""``trigger``, ``messages resend``, ``sign`` and ``verify``: deliveries from here, signed as Basiq's; completion."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from ..support.command_line import run_command
from ..support.deliveries import OTHER_SECRET, SECRET, payload
from ..support.served import Handler, answering
from .conftest import Endpoint, Run, Served


def test_a_delivery_is_signed_and_sent_from_here_without_basiq(run: Run, served: Served, endpoint: Endpoint) -> None:
    ids = ("--event-id", "e-1", "--user-id", "u-1", "--entity-id", "c-1", "--id", "msg-1")
    done = run("trigger", "consent.revoked", "--to", endpoint.url, *ids)
    assert done.exit_code == 0, done.output
    row = done.row
    assert (row["id"], row["event_id"], row["status"], row["accepted"]) == ("msg-1", "e-1", 204, True)
    assert endpoint.ids == ["msg-1"]  # which also verified it
    assert not served.fake.requests


def test_an_event_that_exists_can_be_fetched_and_another_one_is_told_to_be_a_404(
    run: Run, served: Served, endpoint: Endpoint
) -> None:
    for options, shown in (
        ((), True),
        (("--user-id", "u-1"), True),
        (("--event-id", "e-1"), False),
    ):
        done = run("trigger", "consent.revoked", "--to", endpoint.url, *options)
        assert done.exit_code == 0, done.output
        assert ("is a 404" in done.stderr) is shown
    links = [json.loads(body)["links"]["event"] for body in endpoint.bodies]
    assert [link.endswith("/events/e-1") for link in links] == [False, False, True]
    done = run("trigger", "consent.revoked", "--to", endpoint.url, "--event-id", "../users")
    assert (done.exit_code, "one segment" in done.stderr) == (2, True)


def test_basiq_is_asked_for_a_test_message_to_all_or_to_one(run: Run, served: Served) -> None:
    served.fake.add_webhook("https://example.org/a", ["user.created"])
    for options in (("--text", "hello"), ("--url", "https://example.org/a")):
        assert run("trigger", "user.created", *options).row == {"event_type_id": "user.created", "asked": True}
    assert sum(request.url.endswith("/notifications/messages/test") for request in served.fake.requests) == 2


def test_a_delivery_that_is_not_accepted_ends_with_1(run: Run, endpoint: Endpoint) -> None:
    endpoint.status = 500
    done = run("trigger", "user.created", "--to", endpoint.url)
    assert (done.exit_code, done.row["status"]) == (1, 500)
    done = run("trigger", "user.created", "--to", "http://127.0.0.1:9/")
    assert (done.exit_code, done.row["status"]) == (1, None)


def test_a_service_that_responds_401_is_told_of_its_clock_and_its_secret(run: Run, endpoint: Endpoint) -> None:
    endpoint.status = 401
    done = run("trigger", "user.created", "--to", endpoint.url)
    assert (done.exit_code, done.row["status"]) == (1, 401)
    assert "it has another secret, or a clock that is wrong. If the service's log says too-old" in done.stderr

    class Late(Handler):
        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(time.time() - 3_600)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.respond(401)

    with answering(Late) as url:
        late = run("trigger", "user.created", "--to", url)
    assert "behind this machine's: set the clocks first" in late.stderr


def test_messages_are_posted_again_and_what_is_not_accepted_ends_with_1(
    run: Run, served: Served, endpoint: Endpoint
) -> None:
    webhook_id = served.fake.seed_messages(5)
    ids = [row["id"] for row in run("messages", "list", webhook_id, "--limit", "2").rows]
    done = run("messages", "resend", webhook_id, *ids, "--to", endpoint.url)
    assert done.exit_code == 0, done.output
    assert [row["accepted"] for row in done.rows] == [True, True]
    assert endpoint.ids == ids
    endpoint.status = 400
    refused = run("messages", "resend", webhook_id, ids[0], "--to", endpoint.url)
    assert refused.exit_code == 1
    assert refused.row["error"].startswith("the target")
    assert run("messages", "resend", webhook_id, "none", "--to", endpoint.url).exit_code == 1


def test_an_unknown_id_keeps_no_other_message_from_being_posted_again(
    run: Run, served: Served, endpoint: Endpoint
) -> None:
    webhook_id = served.fake.seed_messages(5)
    ids = [row["id"] for row in run("messages", "list", webhook_id, "--limit", "2").rows]
    unknown = "00000000-0000-4000-8000-000000000000"
    done = run("messages", "resend", webhook_id, ids[0], unknown, "none", ids[1], "--to", endpoint.url)
    assert done.exit_code == 1
    assert [row["accepted"] for row in done.rows] == [True, False, False, True]
    assert endpoint.ids == ids


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_completion_script_for_each_shell(run: Run, shell: str) -> None:
    assert "_BASIQ_ASYNC_COMPLETE" in run("completion", shell).stdout


def complete(*words: str) -> list[str]:
    """What a shell that asks for the last of these words gets."""
    line = {"COMP_WORDS": " ".join(["basiq-async", *words]), "COMP_CWORD": str(len(words))}
    done = run_command(env={"_BASIQ_ASYNC_COMPLETE": "complete_bash", **line})
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout.split()


def test_commands_event_types_and_operations_are_completed() -> None:
    assert complete("trigger", "consent.re") == ["consent.reminder", "consent.revoked"]
    assert complete("web") == ["webhooks"]
    assert complete("mock", "call", "expire") == ["expireTokens"]


def test_the_query_of_an_endpoint_is_not_shown(run: Run, endpoint: Endpoint) -> None:
    done = run("trigger", "user.created", "--to", f"{endpoint.url}?code=geheim")
    assert done.exit_code == 0
    assert done.row["url"] == f"{endpoint.url}?\u2026"
    assert "geheim" not in done.output


def test_where_nothing_will_come_that_is_said_at_once(run: Run, served: Served) -> None:
    pending = served.fake.add_webhook("https://example.com/a", ["user.created"], active=False)
    done = run("trigger", "user.created")
    assert done.exit_code == 0
    assert f"nothing will come to the webhook {pending}: it is pending-approval" in done.stderr
    other = run("trigger", "consent.revoked")
    assert (other.exit_code, "no webhook is subscribed to consent.revoked" in other.stderr) == (0, True)


# --- sign and verify ---


def checked(*arguments: str, given: bytes = b"", secret: str = SECRET, code: int = 0) -> str:
    result = run_command(*arguments, stdin=given, env={"BASIQ_WEBHOOK_SECRET": secret, "COLUMNS": "200"})
    assert result.exit_code == code, result.output
    assert SECRET not in result.output
    return result.output


def test_what_is_signed_on_the_command_line_verifies_on_it(tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(payload())
    (tmp_path / "headers").write_text(checked("sign", str(tmp_path / "body"), "--id", "msg_1"))
    assert checked("verify", str(tmp_path / "body"), "--headers", str(tmp_path / "headers")) == '{"genuine":true}\n'


def test_a_body_comes_from_the_standard_input() -> None:
    Path("headers").write_text(checked("sign", "--at", "1767614400", given=b"\xff\x00"))
    options = ("--headers", "headers")
    assert checked("verify", *options, "--at", "1767614700", given=b"\xff\x00") == '{"genuine":true}\n'
    assert "no signature matches" in checked("verify", *options, "--at", "1767614400", given=b"\xff", code=1)
    assert "301 s ago" in checked("verify", *options, "--at", "1767614701", given=b"\xff\x00", code=1)
    checked("verify", *options, "--at", "1767614701", "--tolerance", "301", given=b"\xff\x00")


def test_a_delivery_that_is_not_genuine_ends_with_1_and_the_reason() -> None:
    Path("headers").write_text(checked("sign", given=b"{}"))
    options = ("--headers", "headers")
    assert "no signature matches" in checked("verify", *options, given=b"{}", secret=OTHER_SECRET, code=1)
    Path("headers").write_text("")
    assert "webhook-id" in checked("verify", *options, given=b"{}", code=1)
