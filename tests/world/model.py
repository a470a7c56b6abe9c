"""What must be true of a service, in a model that shares no code with the package.

An effect *stands* while the inbox has its record, or its machine may still record it. An event has at most one effect
that stands. What ends one is a fault that docs/guarantees.md lists: a kill or an inbox that fails between the effect
and its record, a freeze beyond the claim, a restored backup, a flushed store. Each allows exactly one more effect.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import attrs

EVENT_ID = re.compile("[0-9a-f]{64}")
RECENT = timedelta(minutes=3)
CLOCKS = timedelta(minutes=7)
"""For so long the record of a new store is uncertain: two clocks differ by five minutes, and a yes holds for one."""
PREDECESSOR = "the program before"
KEEP_TRYING = timedelta(days=3)


class Broken(Exception):
    """The world broke a promise. The text says which, and of which event."""


@attrs.define(eq=False)
class Effect:
    machine: str
    at: datetime
    recorded: datetime | None = None
    stands: bool = True


@attrs.define(eq=False)
class Run:
    """A handler at work on an event."""

    event: Event
    machine: str
    effect: Effect | None = None
    is_stale: bool = False
    """Whether its machine froze meanwhile, for longer than its claim."""


@attrs.define(eq=False)
class Event:
    id: str
    name: str
    type: str
    at: datetime
    effects: list[Effect] = attrs.Factory(list[Effect])
    ignored: bool = False
    """Whether it was acknowledged by a version that has no handler for it."""
    dropped: bool = False
    """Whether an operator dropped it from the quarantine."""
    kept: datetime | None = None
    """When a store kept it, to be handled later or in the quarantine."""
    was_sent: bool = False
    """Whether a store was asked to keep it: a machine that died then does not know whether it does."""
    waits: datetime | None = None
    """When a store kept it to be handled later, if it does."""
    failures: int = 0
    kills: int = 0
    """How often its machine died, or was away for long, while it had claimed it."""
    deaths: dict[bool, int] = attrs.Factory(dict[bool, int])
    """How often it killed a pod, live and while it waited, since the store lost what it knows of that."""
    ended: datetime | None = None
    """When a handler was at work on it last."""
    again: int = 0
    """How often a replay may handle it once more."""
    subscribed: bool = True
    """Whether a webhook was to have its type when it happened."""
    acknowledged: bool = False
    """Whether an operator has acknowledged that it cannot be handled any more."""
    lost: bool = False
    """Whether a store that kept it was flushed: Basiq believes that it was delivered."""

    @property
    def is_over(self) -> bool:
        """Whether nobody owes anything for it."""
        return self.dropped or self.ignored or self.lost


class Model:
    def __init__(self, now: Callable[[], datetime], letter: str = "") -> None:
        self.now, self.letter = now, letter
        self.began: datetime | None = None
        """Since when the store has the records of this service; None until it was used for a live delivery."""
        self.events: dict[str, Event] = {}
        self.runs: list[Run] = []
        self.forwarded: set[str] = set()
        """The ids of the events that a job has passed on to a partner."""
        self.repeats = 0
        """How many replays have passed on what was handled."""
        self.claims: set[tuple[str, str]] = set()
        """The event and the machine of each claim whose answer came."""
        self.held: set[tuple[str, str]] = set()
        """The event and the machine of each claim that the store has, as far as it has not run out."""
        self.asking: set[str] = set()
        """The machines that have asked for claims, and have no answer: the store may have made them."""
        self.stale: dict[str, datetime] = {}
        """For each machine until when what it begins may have lost its claim; ``""`` is for all."""
        self.facts: list[tuple[datetime, str, str]] = []
        """What happened to which event: the story of a failure tells those of the events that it names."""
        self.broken: Broken | None = None
        """The first promise that was found broken: by a handler, whose errors the package catches."""

    def note(self, event: Event, text: str) -> None:
        self.facts.append((self.now(), event.name, text))

    def happen(self, event_id: str, event_type: str) -> Event:
        event = self.events[event_id] = Event(event_id, f"e{len(self.events) + 1}", event_type, self.now())
        return event

    def begin(self, event_id: str, machine: str) -> Run:
        if event_id not in self.events:
            self.breaks("a delivery that Basiq did not send was handled")
            self.events[event_id] = Event(event_id, "a stranger's", "", self.now())
        run = Run(self.events[event_id], machine)
        if (event_id, machine) not in self.claims:
            self.breaks(f"{run.event.name} was handled without a claim, by {machine}")
        run.is_stale = any(self.now() <= self.stale[name] for name in ("", machine) if name in self.stale)
        self.runs.append(run)
        self.note(run.event, f"{machine} began to handle it{' without a claim' if run.is_stale else ''}")
        return run

    def end(self, run: Run) -> None:
        self.runs.remove(run)
        run.event.ended = self.now()

    def die(self, run: Run) -> None:
        """A handler kills its machine: a pod has the fourth such attempt at most."""
        waits, deaths = run.event.waits is not None, run.event.deaths
        deaths[waits] = deaths.get(waits, 0) + run.machine.startswith("pod")
        self.note(run.event, f"its handler killed {run.machine}")
        if deaths[waits] > 4:
            self.breaks(f"{run.event.name} has killed {deaths[waits]} pods")

    def check_busy(self, event_id: str) -> None:
        """A delivery was refused because somebody is at work on the event: somebody must be, where nothing is wrong."""
        event = self.events[event_id]
        is_recent = event.ended is not None and self.now() - event.ended < timedelta(seconds=5)
        if not (event.kills or is_recent or any(run.event is event for run in self.runs)):
            self.breaks(f"{event.name} was refused because somebody had it, and nobody had")

    def take_effect(self, run: Run) -> None:
        """The handler does what it is for."""
        before = [each for each in run.event.effects if each.stands]
        run.effect = Effect(run.machine, self.now(), stands=not run.is_stale)
        run.event.effects.append(run.effect)
        self.note(run.event, f"{run.machine} handled it")
        if before and run.event.again:
            run.event.again -= 1
        elif before and not run.is_stale:
            first = f"by {before[0].machine} at {before[0].at:%d %H:%M:%S}"
            self.breaks(f"{run.event.name} was handled twice: {first}, and by {run.machine}")

    async def handle_before(self, headers: dict[str, str], body: bytes) -> int:
        """Handle a delivery as a program did that this service has replaced, and that no inbox knows."""
        for found in set(EVENT_ID.findall(body.decode())) & self.events.keys():
            event = self.events[found]
            event.effects.append(Effect(PREDECESSOR, self.now(), self.now()))
            self.note(event, "the program before handled it")
        return 200

    def forget_before(self, event_id: str = "") -> None:
        """An event, or everything, is to be passed to the handler: what the program before handled is handled again."""
        for event in self.events.values():
            for effect in event.effects:
                if effect.machine == PREDECESSOR and event_id in ("", event.id):
                    effect.stands = False

    def allow_again(self) -> None:
        """A replay with ``again`` passes what was handled to the handler."""
        self.repeats += 1
        for event in self.events.values():
            event.again += 1

    def move(self, delivered: set[str], types: set[str]) -> None:
        """The service gets a store that knows nothing. What Basiq did not see delivered is handled once more.

        What happened before, of types that the service does not handle now, is left out.
        """
        self.began = None
        for event in self.events.values():
            event.lost = event.lost or (event.type not in types and not event.effects)
            event.deaths.clear()
            for effect in event.effects:
                effect.machine, effect.stands = PREDECESSOR, effect.stands and event.id in delivered

    def count_effects(self) -> int:
        """Return how often a job has handled an event. A pod may get a delivery at the same time."""
        return sum(each.machine.startswith("job") for event in self.events.values() for each in event.effects)

    def fail(self, run: Run) -> None:
        """The handler raised, or was cancelled: what it did before may be done again."""
        run.event.failures += 1
        if run.effect is not None:
            run.effect.stands = False

    def respond(self, event_id: str, machine: str, status: int, result: str) -> None:
        """A machine has responded to a delivery. What is acknowledged is handled, or kept."""
        event = self.events.get(event_id)
        if event is None:
            if status < 400:
                self.breaks("a delivery that Basiq did not send was acknowledged")
            return
        event.ignored = event.ignored or result == "ignored"
        self.note(event, f"{machine} responded {status} ({result})")
        if status < 300 and not (event.effects or event.was_sent or event.is_over):
            self.breaks(f"{event.name} was acknowledged, and neither handled nor kept")

    def breaks(self, text: str) -> None:
        self.broken = self.broken or Broken(text)

    def record(self, key: str, machine: str) -> None:
        """The store has recorded a key as handled, for a machine."""
        for event, effect in self._unrecorded(key, machine):
            if effect.stands:
                effect.recorded = self.now()
                self.note(event, f"the store recorded what {machine} handled")

    def fail_to_record(self, key: str, machine: str) -> None:
        """The store did not record what a machine has handled."""
        for event, effect in self._unrecorded(key, machine):
            effect.stands = False
            self.note(event, f"the store did not record what {machine} handled")

    def end_claims(self, machine: str = "", *, until: datetime | None = None) -> None:
        """The claims of a machine, or of all, are over: it is gone, was frozen for long, or a store lost them.

        until: what is begun before this moment may have been claimed before.
        """
        for run in self.runs:
            run.is_stale = run.is_stale or machine in ("", run.machine)
        for event_id, holder in [each for each in self.held if machine in ("", each[1])]:
            self.held.discard((event_id, holder))
            self.events[event_id].kills += 1
        if machine in self.asking:
            for event in self.unhandled():
                event.kills += 1
        for event in self.events.values():
            for effect in event.effects:
                if machine in ("", effect.machine) and effect.recorded is None:
                    effect.stands = False
        if until is not None:
            self.stale[machine] = until

    def lose(self, since: datetime) -> None:
        """A store has lost what was recorded since a moment.

        What it kept when it was new may be lost for ever: until when Basiq delivered what no inbox knew, two clocks
        tell differently by some minutes.
        """
        for event in self.events.values():
            event.lost = event.lost or (
                event.kept is not None and (self.began is None or event.kept <= self.began + CLOCKS)
            )
            event.deaths.clear()
            if event.kept is not None and event.kept >= since:
                event.kept = event.waits = None
            for effect in event.effects:
                if effect.recorded is not None and effect.recorded >= since:
                    effect.stands = False

    def flush(self) -> None:
        """A store is empty, and new: what it kept is lost."""
        self.lose(datetime.min.replace(tzinfo=UTC))
        self.began = None
        for event in self.events.values():
            event.lost = event.lost or event.was_sent

    def give_claims(self, keys: Iterable[str], machine: str) -> None:
        """A machine got the answer that it has claimed these."""
        self.claims.update((found[0], machine) for key in keys if (found := EVENT_ID.search(key)))

    def hold(self, keys: Iterable[str], machine: str) -> None:
        """The store has made claims for a machine, which may not know it yet."""
        self.held.update(
            (found[0], machine) for key in keys if (found := EVENT_ID.search(key)) and found[0] in self.events
        )

    def let_go(self, key: str, machine: str) -> None:
        """The store has ended a claim of a machine."""
        if (found := EVENT_ID.search(key)) is not None:
            self.held.discard((found[0], machine))

    def send(self, key: str) -> None:
        """A store is asked to keep an event."""
        found = EVENT_ID.search(key)
        if found and (event := self.events.get(found[0])):
            event.was_sent = True

    def keep(self, key: str, *, waits: bool, acknowledged: bool) -> None:
        """A store has kept an event, to be handled later or in the quarantine."""
        found = EVENT_ID.search(key)
        if found and (event := self.events.get(found[0])):
            if not waits and acknowledged:  # what a job quarantines is handled by Basiq's next attempt
                self._check_quarantined(event)
            event.kept = self.now()
            event.waits = event.kept if waits else None
            self.note(event, "the store keeps it, to be handled later" if waits else "it is in the quarantine")

    def _check_quarantined(self, event: Event) -> None:
        """It takes failures and deaths of its machine, or days."""
        if event.failures + event.kills >= 3 or (event.waits and self.now() - event.waits >= KEEP_TRYING):
            return
        self.breaks(f"{event.name} was quarantined after {event.failures} failures and {event.kills} kills")

    def _unrecorded(self, key: str, machine: str) -> list[tuple[Event, Effect]]:
        found = EVENT_ID.search(key)
        event = self.events.get(found[0]) if found else None
        effects = [] if event is None else event.effects
        return [(event, each) for each in effects if each.machine == machine and each.recorded is None]  # type: ignore[misc]

    def kept(self, *, waits: bool) -> list[Event]:
        """Return the events that the store keeps, to be handled later (``waits``) or in the quarantine."""
        return [each for each in self.unhandled() if each.kept and bool(each.waits) is waits]

    def unhandled(self) -> list[Event]:
        """Return the events that nobody has handled, though it is owed."""
        return [event for event in self.events.values() if not event.effects and not event.is_over]
