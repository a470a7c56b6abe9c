"""Recover from an outage: messages first, then the events that made no message; and report what is left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Generator
from datetime import datetime
from functools import partial
from typing import Any, cast

import attrs

from .._arguments import Duration
from .._wire.order import is_past, item_time
from .._work.ids import IdSet, digest_of
from .._work.inbox_calls import InboxCalls
from .._work.protocol import Inbox
from .._work.tasks import run_cancel_once, run_to_completion
from ..client import BasiqClient
from ..errors import BasiqError, ConfigurationError
from ..hooks import call_hook
from ..models import Message, Webhook
from ..services.coverage import (
    TIME_TO_APPEAR,
    Activity,
    Coverage,
    find_live_since,
    gets_type,
    is_passed_over,
    is_recent,
    latest,
    note_coverage,
    read_coverage,
    types_to_cover,
)
from ..services.details import MOST_FOR_ACTIVITY, Details, read_activity
from ..services.problems import find_status_problem, is_inactive
from ._history import History
from ._job import Job
from ._reading import Reading
from ._recovered import Recovery, RecoveryPlan
from ._report import OnProgress, Progress, make_plan
from ._service import end_known_entries, quarantined_at_service
from ._sources import (
    EventMessage,
    UnreadableMessage,
    convert_events,
    event_key,
    message_key,
)
from ._tally import REPORT_EVERY
from ._where import Predicate, Where
from .targets._adapters import AnyTarget
from .targets._http import HttpTarget

logger = logging.getLogger("basiq_async.replay")


def recover(
    client: BasiqClient,
    webhook_id: str,
    target: AnyTarget,
    *,
    inbox: Inbox | None = None,
    where: Where | Predicate | None = None,
    everything: bool = False,
    all_types: bool = False,
    acknowledged: datetime | None = None,
    since: datetime | None = None,
    concurrency: int = 32,
    rate: float | None = None,
    max_pause: Duration = 3_600.0,
) -> RecoveryRun:
    """Hand to a target what it missed, as far as Basiq lists it: messages, then events of 7 days that made no message.

    .. code-block:: python

        recovery = await recover(basiq, webhook_id, receiver)
        print(recovery.finished, recovery.problems)

        async with HttpTarget(URL, SECRET) as target, SQLiteInbox("posted.db") as inbox:
            recovery = await recover(basiq, webhook_id, target, inbox=inbox)

    The inbox decides: what it knows is not passed to the handler, and what is passed to the handler is recorded there.
    A ``WebhookReceiver`` has its own. For a function, pass the inbox of the live service; for an ``HttpTarget``, an
    inbox for what is posted to this url. If another worker is handling an event, the recovery waits for it. After an
    interruption, run the same again. Workers that recover at once share the work of a service's inbox.

    A message that Basiq delivered is passed over, and so is its event. But the service's inbox has recorded every live
    delivery since some moment: a message that was delivered after it, and that the inbox lacks, was missed.

    where: selects the messages and events to pass to the handler.
    everything: whether to handle also the messages that are passed over, and those that do not tell whether they were
        delivered.
    all_types: whether to take events of all types from the event list, as far as the receiver has handlers for them.
        By default only those of the types that the webhook is subscribed to are taken.
    acknowledged: periods that are unrecoverable before this moment, by Basiq's clock, are known, and do not count as
        unfinished. The inbox keeps it, for later recoveries and for ``webhooks.diagnose``.
    since: what happened before this moment, by Basiq's clock, is not wanted, now and later. The inbox keeps it too.

    A first recovery counts beforehand what it will pass to the handler, and logs that: see ``plan``.

    Returns an object to await; ``run`` of it takes a hook for the progress, and ``stop`` ends it early. Raises
    ``ConfigurationError`` for invalid arguments, and when it is awaited the errors of ``Replay.run``.
    """
    for name, moment in (("acknowledged", acknowledged), ("since", since)):
        if moment is not None and moment.tzinfo is None:
            raise ConfigurationError(f"{name} must be a datetime with a time zone, such as datetime.now(UTC)")
    job = Job(
        client,
        webhook_id,
        target,
        inbox=inbox,
        where=where,
        concurrency=concurrency,
        rate=rate,
        max_pause=max_pause,
    )
    if job.handling.inbox is None:
        raise ConfigurationError(
            "recover needs an inbox, because most events were messages too: pass the live service's inbox for a "
            "function, and an inbox of its own for an HttpTarget"
        )
    begins = None if since is None else since.replace(microsecond=0)  # Basiq's times have whole seconds
    http = target if isinstance(target, HttpTarget) else None
    return RecoveryRun(job, everything, all_types, acknowledged, begins, http)


@attrs.define(eq=False)
class RecoveryRun:
    """A recovery: await it, or its ``run``. ``instrument`` of ``basiq_async.otel`` observes it."""

    _job: Job
    _also_delivered: bool
    _all_types: bool
    _acknowledged: datetime | None
    _since: datetime | None
    _http: HttpTarget | None = None
    _plan: RecoveryPlan | None = None
    _on_plan: Callable[[RecoveryPlan], object] = attrs.field(default=lambda plan: logger.warning("%s", plan))
    """Called before a first recovery passes anything to the handler."""
    _passed_over: int = 0
    _began: datetime | None = None
    """Since when the inbox has recorded live deliveries, by its clock."""
    _before_joining: int = 0
    _last_before_joining: datetime | None = None
    _unknown: int = 0
    _forgotten: int = 0
    """How many messages and events a run of the job before may have handled, whose note is gone."""
    _recent: int = 0
    _details: Details | None = None
    """Reads single messages: the same for the plan and the run."""
    _history: History = attrs.field(default=attrs.Factory(lambda run: History(run._job), takes_self=True))

    def __await__(self) -> Generator[Any, None, Recovery]:
        return self.run().__await__()

    async def run(self, progress: OnProgress | None = None) -> Recovery:
        """Recover, and return what was handled and what is left. ``progress`` is called as by ``Replay.run``.

        While a first recovery counts, it has only ``read_by_id``.
        """
        return await run_cancel_once(self._run(progress))

    async def plan(self) -> RecoveryPlan:
        """Count what ``run`` would pass to the handler now. It reads both lists, and changes nothing.

        Raises ``ConfigurationError`` for an inbox of others.
        """
        job, history = self._job, self._history
        client = job.client
        await job.admission.look(self._calls)
        webhook = await client.webhooks.get(self._webhook_id)
        began, passed = job.api.now(), IdSet()
        coverage = await self._read_coverage()
        begins = self._since or coverage.begins
        await history.read_memory("recovery", applies=not self._also_delivered)
        coverage = attrs.evolve(coverage, begins=begins, acknowledged=latest(coverage.acknowledged, self._acknowledged))
        messages = await self._read_messages(coverage, began, Activity(), passed)
        where, accepts_type = job.where, job.handling.accepts_type
        first = (await make_plan(messages, where.limit, accepts_type=accepts_type)).total
        events = self._read_events(webhook, began, coverage, passed)
        plan = RecoveryPlan(coverage.read_up_to is None, first, (await make_plan(events, where.limit)).total)
        self._plan = plan
        return plan

    def stop(self) -> None:
        """Begin no more messages. ``run`` returns when the messages under way are recorded."""
        self._job.stop()

    async def _run(self, progress: OnProgress | None) -> Recovery:
        job, history, client = self._job, self._history, self._job.client
        async with job.one_run(partial(self._check, progress)):
            handling = job.handling
            self._passed_over = self._before_joining = self._unknown = self._forgotten = self._recent = 0
            self._last_before_joining = None
            if self._details is not None:  # it has what the plan read
                self._details.is_noting = True
            responses = 0 if self._http is None else self._http._responses
            webhook = await client.webhooks.get(self._webhook_id)
            job.admission.names = {webhook.id: webhook.name}
            began = job.api.now()  # by Basiq's clock, from the response above
            was_active = find_status_problem(webhook, None) is None
            coverage = await self._begin_coverage(began, active=was_active)
            activity, passed, back_to = Activity(), IdSet(), coverage.read_back_to(began)
            await history.read_memory("recovery", applies=not self._also_delivered)
            messages = await self._read_messages(coverage, began, activity, passed)
            first = history.count_decided(await job.pass_to_handler(messages, progress))
            await messages.forget_details(filtered=False)
            requested = min(began, messages.began or began)  # what is recent then was not read
            second = None
            if first.finished:
                events = self._read_events(webhook, requested, coverage, passed)
                second = history.count_decided(await job.pass_to_handler(events, progress, kind="events"))
            wanted = types_to_cover(webhook, self._accepts_type)  # others may have come since
            webhook = await client.webhooks.get(self._webhook_id)
            inactive_now = None if find_status_problem(webhook, None) is None else began
            now = job.api.now()
            if coverage.find_unknown_reach(activity, now, wanted) is not None and activity.untold <= MOST_FOR_ACTIVITY:
                listed = client.messages.list(self._webhook_id, on_unreadable=lambda item: None)
                activity = await read_activity(self._details or history.make_details(), listed)
            periods = activity.periods(coverage.seen_inactive, inactive_now)
            lost = coverage.unrecoverable(periods, now, wanted)
            unknown_reach = coverage.find_unknown_reach(activity, now, wanted)
            is_told = not self._unknown and not self._forgotten and unknown_reach is None
            if is_told and second is not None and second.finished and job.selects_everything:
                seen = None if was_active and inactive_now is None else began
                types = coverage.read_types(wanted, now)
                read = attrs.evolve(
                    coverage,
                    read_up_to=requested - TIME_TO_APPEAR,
                    seen_inactive=seen,
                    lost=lost,
                    types=types,
                    gone_before=None,
                )
                await self._note(read)
                if history.memory is not None:
                    await history.memory.note(back_to, requested)
            elif inactive_now is not None and coverage.seen_inactive is None:
                await self._note(attrs.evolve(coverage, seen_inactive=inactive_now))
            surely_active = was_active and all(
                each.until is not None and each.until < requested - TIME_TO_APPEAR for each in periods
            )
            if activity.untold:  # what the list does not tell may have ended the webhook since the last recovery
                surely_active = surely_active and activity.first_end(coverage.read_up_to) is None
            self._details = None
            if self._passed_over and (two_clocks := job.api.find_second_clock(self._began)) is not None:
                logger.warning("%s", two_clocks)
            waiting = await self._calls.count_waiting()  # first: what waits may come into the quarantine meanwhile
            at_service = await self._count_at_service()
            quarantined, oldest = await self._calls.sum_up_quarantine(handling.job)
            return Recovery(
                messages=first,
                events=second,
                passed_over=self._passed_over,
                before_joining=self._before_joining,
                unknown=self._unknown,
                forgotten=self._forgotten,
                gone_before=coverage.gone_before,
                recent=0 if surely_active else self._recent,
                at_service=max(
                    at_service,
                    sum(quarantined_at_service(each) for each in (first, second) if each and handling.job),
                ),
                quarantined=quarantined,
                quarantined_since=oldest,
                ended=now,
                waiting=waiting,
                unrecoverable=lost,
                unknown_reach=unknown_reach,
                webhook=webhook,
                refusal=None if self._http is None else self._http._explain_refusals(responses),
                was_active=was_active,
                clock_lead=job.api.clock_lead(),
                last_before_joining=self._last_before_joining,
            )

    @property
    def _webhook_id(self) -> str:
        return self._job.webhook_id

    def _accepts_type(self, event_type: str) -> bool:
        accepts_type = self._job.handling.accepts_type
        return accepts_type is None or accepts_type(event_type)

    @property
    def _calls(self) -> InboxCalls:
        return cast(InboxCalls, self._job.handling.calls)  # ``recover`` refuses a target without an inbox

    async def _check(self, progress: OnProgress | None) -> None:
        """Log how much a first recovery passes to the handler."""
        if self._plan is None and (await self._read_coverage()).read_up_to is None:
            telling = asyncio.create_task(self._tell_reading(self._job.chain_listeners(progress)))
            try:
                await self.plan()
            except ConfigurationError:
                raise
            except BasiqError:
                pass  # the run itself says what is wrong
            finally:
                telling.cancel()
                await run_to_completion(partial(asyncio.wait, (telling,)))
        if self._plan is not None and self._plan.first and self._plan.total:
            self._on_plan(self._plan)
        self._plan = None

    async def _tell_reading(self, progress: OnProgress | None) -> None:
        """Tell how many messages are read by their ids, until it is cancelled."""
        while True:
            await asyncio.sleep(REPORT_EVERY)
            if self._details is not None and self._details.count:
                call_hook(progress, Progress(read_by_id=self._details.count))

    async def _begin_coverage(self, now: datetime, *, active: bool) -> Coverage:
        """Read what earlier recoveries found out, and note what is known before anything is passed to the handler."""
        known = await self._read_coverage()
        seen = known.seen_inactive or (None if active else now)
        acknowledged = latest(known.acknowledged, self._acknowledged)
        coverage = attrs.evolve(
            known, acknowledged=acknowledged, seen_inactive=seen, begins=self._since or known.begins
        )
        if coverage != Coverage():
            await self._note(coverage)
        return coverage

    async def _read_coverage(self) -> Coverage:
        """Return what earlier recoveries of this webhook found out, and what it inherits of others of its service."""
        own = {*self._job.admission.own_webhooks, *self._job.admission.noted.webhooks}

        async def find_working() -> Collection[str]:
            return {each.id async for each in self._job.client.webhooks.list() if not is_inactive(each)}

        now = self._job.api.now
        return await read_coverage(self._calls, self._webhook_id, own, find_working, job=self._noting_job, now=now)

    async def _note(self, coverage: Coverage) -> None:
        await note_coverage(self._calls, self._webhook_id, coverage, self._noting_job, self._job.api.now)

    @property
    def _noting_job(self) -> str | None:
        """The job that posts to a place without an inbox, which has notes of its own; else None."""
        return None if self._job.admission.is_of_service else self._job.handling.job

    async def _count_at_service(self) -> int:
        """End what the service knows by now. Return how many events of the service failed there, if the job posts."""
        handling = self._job.handling
        await end_known_entries(handling)
        return await self._calls.count_quarantined() if handling.job else 0

    # --- what is read ---

    async def _read_messages(
        self, coverage: Coverage, now: datetime, activity: Activity, passed: IdSet
    ) -> Reading[Message]:
        """Return the messages to pass to the handler: those that were not delivered, as far as the inbox can tell."""
        live_since = await find_live_since(self._calls, self._job.admission.noted, self._webhook_id)
        self._began = live_since.webhook
        since, back_to, unwanted = live_since.webhook, coverage.read_back_to(now), self._find_unwanted(coverage, now)
        if self._details is None:
            self._details = self._history.make_details()

        def judge(message: Message, *, early: bool = True) -> bool | None:
            if isinstance(message, UnreadableMessage) or not self._history.has_handler(message):
                return True  # the target says so
            time, found = item_time(message), [self._history.judge(message, early=early)]
            if coverage.begins is not None or coverage.others:
                is_told = time is not None or message.delivered is not None
                found.append(not unwanted(message) if is_told else None)
            if not self._also_delivered:
                passed_over = is_passed_over(message, since)
                found.append(None if passed_over is None else not passed_over)
            return False if False in found else None if None in found else True

        def choose(message: Message) -> Message | None:
            if unwanted(message):
                passed.extend([digest_of(message_key(message.raw))])
                return None
            if self._also_delivered or isinstance(message, UnreadableMessage):
                return message
            passed_over = is_passed_over(message, since)
            if passed_over is False and coverage.is_forgotten(item_time(message)):
                self._forgotten += 1
                passed.extend([digest_of(message_key(message.raw))])
                return None
            if passed_over is False or (passed_over is None and judge(message, early=False) is not None):
                return message
            before = live_since.delivered_before_joining(message, coverage.acknowledged) if passed_over else None
            self._before_joining += before is not None
            self._last_before_joining = latest(self._last_before_joining, before)
            self._passed_over += passed_over is True and before is None
            self._unknown += passed_over is None
            passed.extend([digest_of(message_key(message.raw))])  # its event is passed over too
            return None

        is_enough = partial(is_past, since=back_to)
        options = {
            "convert": choose,
            "on_page": activity.see,
            "passed": passed,
            "is_enough": None if back_to is None else is_enough,
            "details": self._details,
            "judge": judge,
        }
        return self._history.read("messages", message_key, **options)

    def _find_unwanted(self, coverage: Coverage, now: datetime) -> Callable[[Message], bool]:
        """Return what says whether something happened before recoveries begin, or was read through another webhook."""
        if self._also_delivered:
            coverage = attrs.evolve(coverage, others=())

        def is_unwanted(message: Message) -> bool:
            if isinstance(message, UnreadableMessage):
                return False
            event_type = message.event_id and message.event_type_id  # without an id, each webhook has its own
            return coverage.is_unwanted(event_type or "", item_time(message), now)

        return is_unwanted

    def _read_events(
        self, webhook: Webhook, requested: datetime, coverage: Coverage, passed: IdSet
    ) -> Reading[Message]:
        """Return the events to pass to the handler: those that no listed message has, and that are no longer recent."""

        def is_wanted(event_type: str) -> bool:
            return self._accepts_type(event_type) and (self._all_types or gets_type(webhook, event_type))

        if self._history.memory is not None:
            self._history.memory.wants = is_wanted
        convert, unwanted = convert_events(self._webhook_id, is_wanted), self._find_unwanted(coverage, requested)

        def choose(event: Any) -> Message | None:
            message = convert(event)
            if isinstance(message, EventMessage) and unwanted(message):
                return None
            if (
                isinstance(message, EventMessage)
                and not self._also_delivered
                and coverage.is_forgotten(message.created)
            ):
                self._forgotten += 1
                return None
            if isinstance(message, EventMessage) and is_recent(message.created, requested):
                self._recent += 1
                return None
            return message

        return self._history.read("events", event_key, convert=choose, passed=passed)
