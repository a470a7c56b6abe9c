"""What people do to a service of two pods, in each kind of inbox: nothing is lost, twice, or silent."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis import Redis

from ..support.databases import engine_of
from ..support.databases import run as run_statements
from ..support.pods import Pods, handled, write_service
from ..support.servers import redis_server
from .conftest import TYPE, World

DAYS_AGO = 1
"""Inboxes have the time of this machine: what happens before is from before they began."""
OLD, NEW = "https://old.example/basiq", "https://new.example/basiq"


@pytest.fixture
def make_pods(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Pods]]:
    monkeypatch.syspath_prepend(str(Path().absolute()))
    with ExitStack() as stack:

        def make() -> Pods:
            pods = Pods(world.served)
            stack.callback(pods.end)
            return pods

        yield make


def make_webhook(w: World, url: str = OLD, *, name: str = "changes") -> str:
    """Create a webhook, whose secret is in the file of the service beside others."""
    done = w.run("webhooks", "ensure", "--url", url, "--name", name, "--event", TYPE, "--secret-file", "the secret")
    assert done.row["action"] == "created", done.output
    w.pass_time(minutes=16)
    found: str = done.row["id"]
    return found


def events_of(w: World) -> Counter[str]:
    """Every event that happened, once."""
    return Counter({message.event.id for message in w.fake.messages()})


def recover(w: World, webhook_id: str, receiver: str, *more: str, code: int = 0) -> dict[str, object]:
    done = w.run("recover", webhook_id, "--receiver", receiver, *more)
    assert done.exit_code == code, done.output
    row: dict[str, object] = done.row if code == 0 else {}
    return row


def miss(w: World, count: int, *urls: str) -> None:
    """Let events happen while the service is away."""
    for each in urls:
        w.fake.endpoint_down(each)
    w.emit(count)
    w.pass_time(minutes=3)
    for each in urls:
        w.fake.endpoint_up(each)


def test_a_webhook_and_an_inbox_that_are_renamed(world: World, place: str, make_pods: Callable[[], Pods]) -> None:
    """A new inbox knows nothing: what was delivered before it is told, and what was missed is passed to the handler."""
    w, webhook_id, pods = world, make_webhook(world), make_pods()
    pods.deploy(write_service(place, webhook_id), OLD)
    w.emit(2)
    assert w.run("webhooks", "update", webhook_id, "--name", "renamed").row["id"] == webhook_id
    w.pass_time(minutes=16)
    w.emit(2)
    again = w.run(
        "webhooks", "ensure", "--url", OLD, "--name", "renamed", "--event", TYPE, "--secret-file", "the secret"
    )
    assert (again.row["action"], len(w.fake.webhooks())) == ("unchanged", 1)
    former = w.run("webhooks", "ensure", "--url", OLD, "--name", "changes", "--event", TYPE)  # an old pod starts
    assert (former.row["id"], len(w.fake.webhooks())) == (webhook_id, 1)
    miss(w, 2, OLD)
    renamed = "renamed.db" if place == "inbox.db" else place
    receiver = write_service(renamed, webhook_id, prefix="renamed")
    pods.deploy(receiver, OLD)
    w.emit(2)
    found = recover(w, webhook_id, receiver)
    assert found["passed_over"] == 4
    looked = w.run("webhooks", "doctor", webhook_id, "--receiver", receiver)
    assert "if it was in use before, it was emptied, and what waited or was in its quarantine is gone" in looked.stderr
    assert (handled(), looked.exit_code) == (events_of(w), 0)


def test_a_second_region_that_takes_over_with_an_inbox_of_its_own_and_gives_back(
    world: World, place: str, make_pods: Callable[[], Pods]
) -> None:
    """Neither inbox has what the other region handled: doctor's line has the count, which a person allows."""
    w, webhook_id, one, two = world, make_webhook(world), make_pods(), make_pods()
    ensure = ("webhooks", "ensure", "--name", "changes", "--event", TYPE, "--secret-file", "the secret")
    first = write_service(place, webhook_id, name="first")
    second = write_service("second.db" if place == "inbox.db" else place, webhook_id, prefix="second", name="second")
    one.deploy(first, OLD)
    w.emit(3)
    miss(w, 2, OLD)  # the region fails
    two.deploy(second, NEW)
    assert w.run(*ensure, "--url", NEW, "--move-from", OLD).row["action"] == "updated"
    w.pass_time(minutes=16)
    assert recover(w, webhook_id, second)["passed_over"] == 3
    w.pass_time(days=1, hours=1)
    w.emit(3)
    w.pass_time(minutes=3)
    assert handled("first") + handled("second") == events_of(w)
    assert w.run(*ensure, "--url", OLD, "--move-from", NEW).row["action"] == "updated"
    w.pass_time(minutes=16)
    w.emit(1)
    assert handled("first") + handled("second") == events_of(w)
    line = w.help_for("unrecorded", webhook_id, "--receiver", first)
    assert line[-2] == "--unrecorded"
    before = handled("first")
    recover(w, webhook_id, first, "--unrecorded", str(int(line[-1]) - 1), code=2)
    assert handled("first") == before, "more than a person has allowed"
    done = w.run(*line)
    again = handled("first") + handled("second") - events_of(w)
    assert (done.exit_code, again.total()) == (0, int(line[-1])), "each of these a second time, as the line says"
    assert recover(w, webhook_id, first)["finished"]


def test_two_services_that_share_a_prefix_by_mistake_after_the_server_was_emptied(
    tmp_path: Path, world: World, make_pods: Callable[[], Pods], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever finds it empty founds it. The other one is refused, within a minute if it is there already."""
    w, a, b = world, make_webhook(world, OLD, name="a"), make_webhook(world, NEW, name="b")
    one, two = make_pods(), make_pods()
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as server, Redis.from_url(server.url) as redis:
        first = write_service(server.url, a, name="first")
        second = write_service(server.url, b, name="second")
        one.deploy(first, OLD)
        two.deploy(second, NEW)
        assert ["inbox join" in each for each in two.refused] == [True, True]
        w.emit(2)
        assert (handled("first"), handled("second")) == (events_of(w), Counter())
        redis.flushall()
        monkeypatch.setattr("basiq_async._work.gate._HOLDS", 0)  # a minute later
        two.deploy(second, NEW)
        w.emit(2)
        w.pass_time(minutes=6)
        assert (one.is_ready(), two.is_ready()) == (False, True)
        recover(w, a, first, code=2)
        assert "not-joined" in w.codes(a, "--inbox", server.url)
        recover(w, b, second)
        assert handled("second") == events_of(w)
        own = write_service(server.url, a, name="first", prefix="first")
        one.deploy(own, OLD)
        recover(w, a, own)
        assert handled("first") == handled("second") == events_of(w)


def copy_database(place: str) -> str:
    """Copy what a service has, as a person does who makes staging."""
    if place == "inbox.db":
        shutil.copy(place, "staging.db")
        return "staging.db"
    server, _, name = place.rpartition("/")

    async def copy() -> None:
        async with engine_of(f"{server}/postgres", isolation_level="AUTOCOMMIT") as engine:
            await run_statements(engine, f"CREATE DATABASE {name}_staging TEMPLATE {name}")

    asyncio.run(copy())
    return f"{place}_staging"


@pytest.mark.parametrize("place", ["sqlite", "postgresql"], indirect=True)
def test_staging_on_a_copied_database_is_refused_until_it_has_an_inbox_of_its_own(
    world: World, place: str, make_pods: Callable[[], Pods]
) -> None:
    """What waited, and what production missed, is not handled by staging, also not by the lines that it is shown."""
    w, webhook_id, one, two = world, make_webhook(world), make_pods(), make_pods()
    production = write_service(place, webhook_id, name="production")
    one.deploy(production, OLD)
    w.emit(2)
    miss(w, 2, OLD)
    one.end()
    copied = copy_database(place)
    one.deploy(production, OLD)
    staging_id = make_webhook(w, NEW, name="staging")
    staging = write_service(copied, staging_id, name="staging")
    two.deploy(staging, NEW)
    w.emit(2)
    assert ["of another service" in each for each in two.refused] == [True, True]
    recover(w, staging_id, staging, code=2)
    line = w.help_for("not-joined", staging_id, "--inbox", copied)
    asked = w.run(*line[:-1], copied)  # the line does not show who logs in to a database
    assert (asked.exit_code, f"the webhook {webhook_id}, at {OLD}, with live" in asked.stderr) == (2, True), asked
    assert handled("staging") == Counter()
    own = write_service("own.db" if place == "inbox.db" else copied, staging_id, name="staging", prefix="staging")
    two.deploy(own, NEW)
    w.pass_time(minutes=6)
    recover(w, staging_id, own)
    recover(w, webhook_id, production)
    assert handled("production") == events_of(w)
    assert handled("staging") == events_of(w), "as another service, which has the events of a week"


@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_doctor_says_since_when_a_server_that_was_emptied_has_records_and_what_is_gone(
    world: World, place: str, make_pods: Callable[[], Pods]
) -> None:
    w, webhook_id, pods = world, make_webhook(world), make_pods()
    receiver = write_service(place, webhook_id)
    pods.deploy(receiver, OLD)
    w.emit(2)
    with Redis.from_url(place) as redis:
        redis.flushall()
    for at in (("--inbox", place), ("--receiver", receiver)):
        looked = w.run("webhooks", "doctor", webhook_id, *at)  # nobody has used it since
        assert (looked.exit_code, "no inbox has written to it since it was made or emptied" in looked.stderr) == (
            3,
            True,
        )
    pods.deploy(receiver, OLD)
    for _ in range(2):
        for at in (("--inbox", place), ("--receiver", receiver)):
            looked = w.run("webhooks", "doctor", webhook_id, *at)
            assert looked.exit_code == 0, looked.output
            assert looked.row["passed_over"] == 2
            assert "the inbox has records since 20" in looked.stderr
            assert "it was emptied, and what waited or was in its quarantine is gone" in looked.stderr
        assert recover(w, webhook_id, receiver)["passed_over"] == 2
        pods.deploy(receiver, OLD)
    assert handled() == events_of(w)


def test_a_restored_backup_is_noticed_by_what_basiq_delivered_and_the_line_has_the_count(
    world: World, make_pods: Callable[[], Pods]
) -> None:
    w, webhook_id, pods = world, make_webhook(world), make_pods()
    receiver = write_service("inbox.db", webhook_id)
    pods.deploy(receiver, OLD)
    w.pass_time(days=1, hours=1)
    w.emit(2)
    pods.end()
    shutil.copy("inbox.db", "backup.db")
    pods.deploy(receiver, OLD)
    w.emit(3)
    pods.end()
    shutil.copy("backup.db", "inbox.db")
    at = (webhook_id, "--receiver", receiver)
    for _ in range(2):
        looked = w.run("webhooks", "doctor", *at)
        (problem,) = looked.row["problems"]
        assert (problem["code"], "it is a copy or a restored backup" in problem["text"]) == ("unrecorded", True)
        assert problem["command"].endswith("--unrecorded 3")
        pods.deploy(receiver, OLD)
        w.emit(1)  # the service goes on
        pods.end()
    recover(w, webhook_id, receiver, "--unrecorded", "2", code=2)
    assert handled() == events_of(w)
