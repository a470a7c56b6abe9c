"""A resume point saves requests, and never costs an item."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

import attrs
import pytest

from basiq_async._wire.codec import Reader, Unreadable
from basiq_async._work.places import MOST_RESUME_POINTS, Places
from basiq_async.errors import NotFoundError, PaginationError, ResponseDecodeError
from basiq_async.receiver import MemoryInbox
from basiq_async.replay._listed import _MOST_TEXT as MOST_TEXT  # private: no caller sees how long a resume point may be
from basiq_async.replay._listed import ListedPage, _check  # private: their users are in this package
from basiq_async.replay._reading import Reading  # private: its users are in this package
from tests.support.changing_lists import NOON, Item, KnownKeys, Lists, key_of
from tests.support.histories import Recorder, history

ORDERS = pytest.mark.parametrize("order", ["oldest-first", "newest-first"])
PAGINGS = pytest.mark.parametrize("paging", ["cursor", "seek", "offset"])


@attrs.define
class Job:
    """Runs that read a list, one after the other."""

    lists: Lists
    record: KnownKeys = attrs.Factory(KnownKeys)
    now: Any = NOON + timedelta(days=30)
    resume_point: str | None = None
    last: Reading[Any] | None = None

    def reading(self, **options: Any) -> Reading[Any]:
        options = {
            "resume_point": self.resume_point,
            "selection": "s",
            "now": lambda: self.now,
            "key_of": key_of,
            **options,
        }
        self.last = Reading(self.lists.paginator(), known=self.record.known, **options)
        return self.last

    async def run(self, most: int = 10_000, **options: Any) -> list[str]:
        """Record what one run yields, at most so many items; return their ids."""
        reading, handed = self.reading(**options), list[str]()
        try:
            while len(handed) < most and (batch := await reading.advance()) is not None:
                for item in batch.items[: most - len(handed)]:
                    handed.append(item["id"])
                    self.record.keys.add(key_of(item))
                    batch.mark_done()
        finally:
            self.resume_point = reading.resume_point() or self.resume_point
            await reading.aclose()
            await asyncio.sleep(0)
        return handed

    def check_finished(self) -> None:
        """Check that the last run says finished, and that all that is listed is recorded."""
        assert self.last is not None
        assert self.last.finished
        assert {key_of({"id": each}) for each in self.lists.ids} <= self.record.keys

    async def requests(self, **options: Any) -> int:
        """Return the number of requests of a run that has nothing new."""
        before = self.lists.requests
        assert await self.run(**options) == []
        assert self.last is not None
        assert self.last.finished
        return self.lists.requests - before


def a_job(count: int, order: str = "newest-first", paging: str = "cursor", size: int = 10, times: str = "right") -> Job:
    lists = Lists(order, paging, size, times)
    for _ in range(count):
        lists.grow()
    return Job(lists)


@ORDERS
@PAGINGS
async def test_a_run_with_nothing_new_asks_for_at_most_three_pages(order: str, paging: str) -> None:
    for count in (1, 10, 95, 203, 204):
        job = a_job(count, order, paging)
        assert len(await job.run()) == count
        assert await job.requests() <= (3 if count > 40 else 2 + count // 10)
        job.lists.grow()
        assert len(await job.run()) == 1
        if count > 40:
            assert await job.requests() <= 3


@PAGINGS
async def test_a_list_without_an_order_is_read_whole_by_each_run_and_nothing_is_repeated(paging: str) -> None:
    job = a_job(300, "none", paging)
    handed = await job.run()
    for _ in range(4):
        for _ in range(5):
            job.lists.grow()
        handed += await job.run()
        assert job.last is not None
        assert job.last.finished
        assert job.last.read_count == len(job.lists.listed)
    assert len(handed) == len(set(handed)) == 320


@ORDERS
@PAGINGS
async def test_what_expires_between_two_runs_costs_one_reading_at_most(order: str, paging: str) -> None:
    job = a_job(1_000, order, paging)
    await job.run()
    for _ in range(5):
        job.lists.expire(30)
        for _ in range(30):
            job.lists.grow()
        before = job.lists.requests
        assert len(await job.run()) == 30
        job.check_finished()
        most = 10 if order == "oldest-first" and paging != "offset" else 110
        assert job.lists.requests - before <= most, "where what was read last has gone, the list is read to its end"


async def test_what_slips_by_several_pages_at_once_while_a_list_is_proven_is_found_on_the_pages_before() -> None:
    job = a_job(200, "newest-first", "offset")
    goes = {10: 1, 30: 25}  # one slips to a page that was read, and in the proof so do those of two pages and a half

    def change() -> None:
        del job.lists.listed[: goes.get(job.lists.requests, 0)]

    job.lists.before_request = change
    assert len(await job.run()) == 200
    job.check_finished()
    assert job.lists.requests == 20 + 1 + 18 + 17 + 2, "after each page but the first, the one before; once, three"


@PAGINGS
async def test_a_run_that_ends_above_what_was_read_before_leaves_it_known_to_the_next_one(paging: str) -> None:
    job = a_job(300, "newest-first", paging)
    await job.run()
    for _ in range(60):
        job.lists.grow()
    assert len(await job.run(15)) == 15
    before = job.lists.requests
    assert len(await job.run()) == 45
    job.check_finished()
    assert job.lists.requests - before <= 10


async def test_a_list_that_expires_at_every_request_is_proven_with_two_passes() -> None:
    job = a_job(1_400, "oldest-first", "offset")
    job.lists.before_request = lambda: job.lists.expire(1)
    await job.run()
    job.check_finished()
    assert job.lists.requests < 3 * 140


async def test_what_slips_away_between_the_two_pages_of_a_list_is_read() -> None:
    job = a_job(20, "oldest-first", "offset")
    first = job.lists.requests
    job.lists.before_request = lambda: job.lists.expire(1 if job.lists.requests == first + 1 else 0)
    assert len(await job.run()) == 20
    job.check_finished()


@pytest.mark.parametrize("vanishing", [None, {1: 1, 6: 15}], ids=["steadily", "past where it began"])
async def test_what_slips_away_in_a_tail_is_read(vanishing: dict[int, int] | None) -> None:
    job = a_job(100, "oldest-first", "offset")
    await job.run()
    for _ in range(45):
        job.lists.grow()
    first = job.lists.requests
    job.lists.before_request = lambda: job.lists.expire(
        1 if vanishing is None else vanishing.get(job.lists.requests - first, 0)
    )
    await job.run()
    job.check_finished()


async def test_what_slipped_away_in_a_run_that_was_killed_is_read_by_the_next_one() -> None:
    job = a_job(200, "oldest-first", "offset")

    def kill() -> None:
        job.lists.expire(1)
        if job.lists.requests == 8:
            raise RuntimeError("killed")

    job.lists.before_request = kill
    with suppress(RuntimeError):
        await job.run()
    job.lists.before_request = lambda: None
    await job.run()
    job.check_finished()


async def test_what_slipped_away_in_a_tail_is_read_though_the_run_ended_in_the_middle_of_the_proof() -> None:
    """No resume point calls what was read proven because of items that were read after something slipped away."""
    job = a_job(100, "oldest-first", "offset")
    await job.run()
    for _ in range(45):
        job.lists.grow()
    first = job.lists.requests

    def slip_and_end() -> None:
        number = job.lists.requests - first
        job.lists.expire(number == 2)
        if number == 9:
            raise RuntimeError("in the proof")

    job.lists.before_request = slip_and_end
    with pytest.raises(RuntimeError):
        await job.run()
    job.lists.before_request = lambda: None
    assert len(await job.run()) == 1
    job.check_finished()


async def test_a_pass_that_cannot_be_proven_is_not_finished() -> None:
    job = a_job(60, "oldest-first", "offset", size=3)

    def shift() -> None:
        job.lists.expire(2)  # between two pages are two items and both sides of the border: more than a page
        job.lists.grow()
        job.lists.grow()

    job.lists.before_request = shift
    await job.run()
    assert job.last is not None
    assert not job.last.finished


@ORDERS
@PAGINGS
async def test_a_job_that_is_always_killed_early_gets_on(order: str, paging: str) -> None:
    job = a_job(400, order, paging)
    for number in range(60):
        first = job.lists.requests

        def kill(first: int = first) -> None:
            if job.lists.requests - first >= 7:
                raise RuntimeError("killed")

        job.lists.before_request = kill
        if number == 30:
            for _ in range(200 if order == "oldest-first" else 40):  # new ones before all others fit into a run
                job.lists.grow()
        with suppress(RuntimeError):
            await job.run()
    job.check_finished()


@ORDERS
async def test_the_whole_list_is_read_a_day_after_the_last_whole_reading(order: str) -> None:
    job = a_job(300, order)
    await job.run()
    job.lists.listed.insert(150, Item("m9999", (job.lists.listed[149].key + job.lists.listed[150].key) / 2, None))
    for _ in range(3):
        job.now += timedelta(hours=7)
        assert await job.run() == []
    job.now += timedelta(hours=7)
    assert await job.run() == ["m9999"]
    assert await job.requests() <= 3


@ORDERS
async def test_what_a_record_lost_is_passed_again_within_a_day(order: str) -> None:
    job = a_job(100, order)
    await job.run()
    assert await job.requests() <= 3
    backup = set(job.record.keys)
    for _ in range(60):
        job.lists.grow()
    assert len(await job.run()) == 60
    job.record.keys = set(backup)
    job.now += timedelta(hours=25)
    assert len(await job.run()) == 60
    job.record.keys = set()
    job.now += timedelta(hours=25)
    assert len(await job.run()) == 160


@ORDERS
async def test_a_resume_point_of_another_selection_or_that_is_damaged_is_ignored(order: str) -> None:
    job = a_job(100, order)
    await job.run()
    resume_point = job.resume_point
    assert resume_point is not None
    for each in (
        "",
        "x",
        resume_point[:-1],
        resume_point.replace("true", "fals", 1),
        "2" + resume_point[1:],
        resume_point + " ",
    ):
        job.resume_point = each
        assert await job.requests() >= 10
    job.resume_point = resume_point
    assert await job.requests(selection="another") >= 10
    job.resume_point = resume_point
    assert await job.requests(selection=None) >= 10
    job.resume_point = resume_point
    assert await job.requests() <= 3


FOREIGN: list[Any] = [
    None,
    7,
    [],
    {},
    {"since": 7},
    {"since": "2026-01-05T12:00:00"},
    {"link": "https://elsewhere.example/events"},
    {"link": 7},
    {"first": None},
    {"first": [7]},
    {"last": []},
    {"page": 0},
    {"page": "10"},
    {"page": None},
    {"steps": [1]},
    {"steps": ["a", "b"]},
    {"more": True},
]


@pytest.mark.parametrize("foreign", FOREIGN, ids=str)
async def test_a_resume_point_that_another_program_wrote_is_a_resume_point_or_none(foreign: Any) -> None:
    job = a_job(100)
    await job.run()
    assert job.resume_point is not None
    fields = json.loads(job.resume_point.partition(" ")[2])
    body = json.dumps({**fields, **foreign} if isinstance(foreign, dict) and foreign else foreign)
    job.resume_point = f"{_check(body, 'list s')} {body}"
    assert await job.requests() >= 10
    job.check_finished()


async def test_the_age_of_a_resume_point_is_basiqs() -> None:
    job = a_job(300)
    clocks = [job.now]  # the local clock, until a response was read
    fetch = job.lists.fetch

    async def answer(url: str) -> Any:
        clocks[0] = job.now
        return await fetch(url)

    job.lists.fetch = answer  # type: ignore[method-assign]
    assert len(await job.run(now=lambda: clocks[0])) == 300
    clocks[0] = job.now + timedelta(days=3)
    assert await job.requests(now=lambda: clocks[0]) <= 3
    clocks[0] = job.now
    job.now += timedelta(hours=25)
    assert await job.requests(now=lambda: clocks[0]) >= 30


@pytest.mark.parametrize("form", ["{}" * 9_000, "\U0001f600" * 150 + "{}", '"\n\\{}'])
async def test_ids_of_any_length_and_content_fit_into_a_resume_point(form: str) -> None:
    job = a_job(0, "newest-first", "offset", size=100)
    job.lists.listed = [
        Item(form.replace("{}", str(n)), n, (NOON - timedelta(minutes=n)).isoformat()) for n in range(600)
    ]
    options = {"key_of": lambda item: item["id"][-20:]}
    reading = job.reading(**options)
    while (batch := await reading.advance()) is not None:
        job.record.keys.update(each["id"][-20:] for each in batch.items)
        batch.mark_done(len(batch.items))
    job.resume_point = reading.resume_point()
    assert job.resume_point is not None
    assert job.resume_point.isascii()
    assert len(job.resume_point) <= MOST_TEXT
    await reading.aclose()
    assert await job.requests(**options) <= 3


def test_an_id_is_shortened_in_the_same_way_whatever_else_its_page_shows() -> None:
    ids = ["a" * 48, "b" * 49, "\u00e9", "line\nbreak", "plain"]
    items: list[Any] = [{"id": each} for each in ids]

    def short_ids(*shown: Any) -> list[str]:
        return ListedPage("", list(shown), None, None).ids

    alone = [short_ids(item)[0] for item in items]
    assert short_ids(*items) == short_ids(*items, "text")[:-1] == short_ids(*items, {"no": "id"})[:-1] == alone
    assert [short == each for short, each in zip(alone, ids, strict=True)] == [True, False, False, False, True]
    assert all(len(short) <= 48 and short.isascii() and short.isprintable() for short in alone)


async def test_the_record_is_asked_once_a_page_and_at_most_500_keys_at_once() -> None:
    job = a_job(1_500, "newest-first", "offset", size=500)
    await job.run()
    assert job.record.asked == 3
    job = a_job(1_300, "newest-first", "offset", size=1_300)
    await job.run()
    assert job.record.asked == 3


async def test_the_next_page_is_requested_while_the_record_is_asked() -> None:
    job, requests = a_job(30, "newest-first"), list[int]()
    known = job.record.known

    async def ask(keys: Sequence[str]) -> Collection[str]:
        await asyncio.sleep(0)
        requests.append(job.lists.requests)
        return await known(keys)

    job.record.known = ask  # type: ignore[method-assign]
    assert len(await job.run()) == 30
    assert requests == [2, 3, 3]


async def test_items_that_are_not_selected_are_done_and_are_read_again_under_another_selection() -> None:
    job = a_job(100, "newest-first")
    odd = {"convert": lambda item: item["id"] if int(item["id"][1:]) % 2 else None, "selection": "odd"}
    reading = job.reading(**odd)
    while (batch := await reading.advance()) is not None:
        job.record.keys.update("k" + each[1:] for each in batch.items)
        batch.mark_done(len(batch.items))
    job.resume_point = reading.resume_point()
    assert reading.finished
    assert (reading.read_count, reading.known_count) == (100, 0)
    assert await job.requests(**odd) <= 3
    assert len(await job.run()) == 50


async def test_an_item_that_is_not_selected_is_looked_at_once_though_its_page_is_read_again() -> None:
    job = a_job(200, "oldest-first", "offset")
    job.lists.before_request = lambda: job.lists.expire(1)
    looked_at: list[str] = []
    assert await job.run(convert=lambda item: looked_at.append(item["id"])) == []
    assert job.lists.requests > 20
    assert len(looked_at) == len(set(looked_at)) > 150


async def test_each_item_is_counted_and_noted_once() -> None:
    job = a_job(200, "oldest-first", "offset")
    job.lists.before_request = lambda: job.lists.expire(1)
    noted: list[str] = []
    await job.run(most=50)
    known = len(job.record.keys)
    reading = job.reading(resume_point=None, on_page=lambda items, times: noted.extend(item["id"] for item in items))
    handed = 0
    while (batch := await reading.advance()) is not None:
        handed += len(batch.items)
    assert len(noted) == len(set(noted)) == reading.read_count
    assert 0 < reading.known_count == reading.read_count - handed <= known
    await reading.aclose()


async def test_a_reading_that_is_closed_cancels_the_request_for_the_next_page() -> None:
    job, cancelled = a_job(100), list[str]()
    fetch = job.lists.fetch

    async def hang(url: str) -> Any:
        if not job.lists.requests:
            return await fetch(url)
        try:
            return await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(url)
            raise

    job.lists.fetch = hang  # type: ignore[method-assign]
    reading = job.reading()
    await reading.advance()
    await asyncio.sleep(0)
    await reading.aclose()
    await asyncio.sleep(0)
    assert len(cancelled) == 1


@pytest.mark.parametrize(
    ("link", "said"), [("?next=10&0-1", "loops"), ("https://elsewhere.example/events", "not followed")]
)
async def test_a_link_that_leads_nowhere_raises_after_the_items_of_its_page(link: str, said: str) -> None:
    job = a_job(100, "newest-first", "offset")
    fetch = job.lists.fetch

    async def mislead(url: str) -> Any:
        page = await fetch(url)
        return attrs.evolve(page, next_link=link) if "next=30" in url else page

    job.lists.fetch = mislead  # type: ignore[method-assign]
    with pytest.raises(PaginationError, match=said):
        await job.run()
    assert len(job.record.keys) == 40
    assert job.last is not None
    assert not job.last.finished
    assert await job.last.advance() is None


async def test_links_that_are_always_refused_end_a_run() -> None:
    job = a_job(100, "newest-first", "offset")
    job.lists.before_request = lambda: setattr(job.lists, "generation", job.lists.generation + 1)
    with pytest.raises(NotFoundError):
        await job.run()
    assert len(job.record.keys) == 10
    assert 20 <= job.lists.requests <= 24


async def test_an_item_that_cannot_be_read_is_raised_after_those_before_it() -> None:
    job = a_job(30, "oldest-first")

    def read(value: Any, _: object) -> Any:
        if value["id"] == "m15":
            raise Unreadable("odd")
        return value

    paginator = job.lists.paginator()
    paginator._listing = attrs.evolve(paginator._listing, reader=Reader(dict, read))
    job.lists.paginator = lambda: paginator  # type: ignore[method-assign]
    with pytest.raises(ResponseDecodeError, match="odd"):
        await job.run()
    assert len(job.record.keys) == 14
    paginator._on_unreadable = lambda item: {"id": item.id}
    assert len(await job.run()) == 16


async def test_what_slips_away_in_a_tail_is_read_though_the_page_where_it_began_moved_up_past_it() -> None:
    job = a_job(100, "oldest-first", "offset")
    await job.run()
    for _ in range(45):
        job.lists.grow()
    first = job.lists.requests
    job.lists.before_request = lambda: job.lists.expire({1: 1, 6: 15}.get(job.lists.requests - first, 0))
    await job.run()
    job.check_finished()


@pytest.mark.parametrize("held", [True, False])
async def test_no_resume_point_passes_an_item_that_was_held_or_is_not_done(held: bool) -> None:
    job = a_job(100, "newest-first")
    reading = job.reading()
    for number in range(10):
        batch = await reading.advance()
        assert batch is not None
        for item in batch.items:
            if item["id"] != "m75":
                job.record.keys.add(key_of(item))
                batch.mark_done()
            elif held:
                batch.keep_unread()
                batch.mark_done()
        job.resume_point = reading.resume_point()
        assert (job.resume_point is None) == (number == 0), "the first page needs no resume point"
    assert await reading.advance() is None
    job.resume_point = reading.resume_point()
    await reading.aclose()
    assert await job.run() == ["m75"]


@pytest.mark.parametrize("raw_items", [False, True])
@pytest.mark.parametrize("keys", [7, 10], ids=["on its page", "on another page"])
async def test_a_key_that_occurs_again_is_passed_once(keys: int, raw_items: bool) -> None:
    job = a_job(100, "oldest-first")
    reading = job.reading(key_of=lambda item: str(int(item["id"][1:]) % keys), raw_items=raw_items)
    handed: list[str] = []
    while (batch := await reading.advance()) is not None:
        handed += [item["id"] for item in batch.items]
    assert handed == [f"m{n}" for n in range(1, keys + 1)]
    await reading.aclose()


async def test_a_record_keeps_some_resume_points_and_those_that_were_used_last() -> None:
    inbox, dates = MemoryInbox(), [f"message.eventTypeId.ne('no.{number}')" for number in range(40)]
    async with history(30, page_size=3) as h:
        daily = "message.eventTypeId.ne('no')"
        for each in dates:
            for filter in (daily, each):
                await h.replay(Recorder(), inbox=inbox, filter=filter).run()
        resume_points = [name for name in inbox._notes if name.startswith("reading")]
        assert len(resume_points) == MOST_RESUME_POINTS + 1, resume_points

    name = f"reading {json.dumps(['messages', h.webhook_id])}"
    places = Places(inbox.note, inbox.set_note, "reading", MOST_RESUME_POINTS, partial(datetime.now, UTC))
    kept = [each for each in (daily, *dates) if (await places.read(f"{name} {each}")).text is not None]
    assert kept == [daily, *dates[-MOST_RESUME_POINTS + 1 :]]


@pytest.mark.parametrize("text", ["", "x", "[]", '{"places": {}}', "[" * 100_000])
async def test_a_list_of_resume_points_that_another_program_wrote_is_begun_again(text: str) -> None:
    inbox = MemoryInbox()
    async with history(30, page_size=3) as h:
        await h.replay(Recorder(), inbox=inbox).run()
        noted = [name for name in inbox._notes if name.startswith("reading")]
        await inbox.set_note("reading", text)
        assert (await h.replay(Recorder(), inbox=inbox).run()).finished
        assert [name for name in inbox._notes if name.startswith("reading")] == noted
        assert json.loads(inbox._notes["reading"])["places"]


async def test_whether_the_first_item_is_still_listed_is_asked_of_few_items() -> None:
    async with history(1_200, failed=1.0) as job:
        report = await job.replay(Recorder()).run()
    assert (report.finished, report.handled) == (True, 1_200)
    limits = [parse_qs(urlsplit(each.url).query).get("limit") for each in job.fake.requests if "/messages" in each.url]
    assert limits[-4:] == [["500"], None, None, ["32"]]  # the next links are opaque


async def test_the_list_of_events_is_asked_for_no_limit_which_its_reference_does_not_have() -> None:
    async with history(30, page_size=10) as job:
        report = await job.replay(Recorder(), source="events").run()
        assert report.finished
        asked = [each.url for each in job.fake.requests if urlsplit(each.url).path == "/events"]
    assert len(asked) > 3
    assert not any("limit" in url for url in asked)


async def test_a_list_of_which_the_record_knows_all_shows_its_order_without_a_resume_point() -> None:
    inbox, target = MemoryInbox(), Recorder()
    async with history(30, page_size=10) as h:
        first = await h.replay(target, inbox=inbox).run()
        for name in [name for name in inbox._notes if name.startswith("reading")]:
            await inbox.set_note(name, "")
        again = await h.replay(target, inbox=inbox).run()
    assert (first.order, again.order) == ("oldest-first", "oldest-first")
    assert again.skipped == {"handled-before": 30}
