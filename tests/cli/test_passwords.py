"""No command shows the password of a database's or a Redis server's URL, readable or not."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import create_async_engine

from basiq_async import ConfigurationError, Webhook
from basiq_async.cli._lines import Given, find_line  # private: the lines before they are quoted
from basiq_async.receiver import SQLInbox
from basiq_async.services.diagnosis import Diagnosis

from .conftest import Run, Served

DAYS_AGO = 4

NEVER = ("geheim", "4711")
AWAY = ("postgresql+asyncpg://user:geheim@127.0.0.1:9/none", "redis://:geheim@127.0.0.1:9/0")
URLS = (
    *AWAY,
    # a character of the password is not percent-encoded
    *("postgresql+asyncpg://user:geheim@geheim@127.0.0.1:9/none", "postgresql+asyncpg://user:geheim/x@127.0.0.1:9/a"),
    *("postgresql+asyncpg://user:4711/geheim@127.0.0.1:9/none", "postgresql+asyncpg://user:geheim#x@127.0.0.1:9/none"),
    *("redis://:geheim/geheim@127.0.0.1:9/0", "redis://user:4711/geheim@127.0.0.1:9", "redis://:gehe[im@127.0.0.1:9"),
    *("redis://:4711?geheim@127.0.0.1:9/0", "unix://user:4711#geheim@/none"),
    # it is mistyped
    *("postgresql:/user:geheim@127.0.0.1:9/none", "redis:geheim@127.0.0.1", "user:geheim@127.0.0.1/none"),
    *("postgresql+none://user:geheim@127.0.0.1/none", "nosuch://user:geheim@127.0.0.1/none"),
    *("postgresql+asyncpg://user:geheim@127.0.0.1:geheim/none", "redis://:geheim@127.0.0.1:geheim/0"),
)


@pytest.mark.parametrize("url", URLS)
def test_no_command_shows_the_password_of_an_inbox(run: Run, served: Served, url: str) -> None:
    found = served.fake.add_webhook("https://user:geheim@service.example/basiq?code=4711")
    for command in (
        ("webhooks", "doctor"), ("quarantine", "list"),
        ("inbox", "get", "e-1", "--webhook", found),
    ):  # fmt: skip
        done = run("--timeout", "0.5", *command, "--inbox", url)
        assert done.exit_code in ((3,) if url in AWAY else (2, 3)), done.output
        assert [each for each in NEVER if each in done.output] == []


def test_the_lines_that_help_show_no_password() -> None:
    webhook = Webhook("w1", "https://user:geheim@service.example/basiq?code=4711", "disabled")
    database = "postgresql+asyncpg://user:geheim@db/basiq"
    found = Diagnosis(webhook, None, undelivered=1, never_sent=1)
    lines = [" ".join(find_line(problem, found, Given(inbox=database))) for problem in found.problems]
    assert any("https://service.example/basiq?…" in line for line in lines)
    assert [each for each in NEVER if each in str(lines)] == []
    assert [each for each in NEVER if each in repr(found.problems)] == []


def test_a_receiver_whose_module_raises_shows_no_password(run: Run) -> None:
    Path("a_service_with_urls.py").write_text(
        "from redis.asyncio import Redis\n"
        "def number(): Redis.from_url('redis://:geheim/4711@127.0.0.1')\n"
        "def text(): raise RuntimeError('cannot reach redis://:geheim@127.0.0.1/0 or host')\n"
    )
    with pytest.raises(ValueError, match="geheim"):  # so an error of another library can quote it
        Redis.from_url("redis://:geheim/4711@127.0.0.1")
    for place, shown in (("number", "a URL cannot be parsed"), ("text", "cannot reach redis://127.0.0.1/0 or host")):
        done = run("quarantine", "list", "--receiver", f"a_service_with_urls:{place}")
        assert shown in done.output
        assert [each for each in NEVER if each in done.output] == []


def test_an_engine_that_would_take_a_part_of_its_password_for_the_host_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="percent-encoded") as caught:
        SQLInbox(create_async_engine("postgresql+asyncpg://user:geheim@4711@127.0.0.1/none"))
    assert [each for each in NEVER if each in str(caught.value)] == []
    SQLInbox(create_async_engine("postgresql+asyncpg://user:geheim%404711@127.0.0.1/none"))


def test_a_url_of_a_database_without_an_async_driver_is_told_what_to_name(run: Run) -> None:
    done = run("inbox", "check", "--inbox", "mysql://user@127.0.0.1/none")
    assert (done.exit_code, "such as postgresql+asyncpg://" in done.stderr) == (2, True)
