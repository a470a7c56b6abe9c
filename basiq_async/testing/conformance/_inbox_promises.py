"""The promises of an inbox, each a method. Most are scripts, of which a model knows the results."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from ..._work.protocol import Inbox, TransactionalInbox
from ._inbox_model import (
    BUSY,
    CLAIMED,
    DONE,
    LONG,
    ODD,
    SHORT,
    WALKED,
    make_delivery,
    make_odd_deliveries,
    random_walks,
)
from ._inbox_workers import Workers
from ._runner import hold

_MANY = 10_000
_NOTE = 64 * 1024
_RESENT = 66
"""Hours: the longest for which Basiq may send a message again. By its own page it is 27 h 35 min."""
_LONGEST = 100 * 24
"""Hours: an inbox that remembers for longer is asked no more."""
_HOURS = 6
_OTHERS = 100
HOUR = 3600.0


class InboxPromises(Workers[Inbox]):
    """What an inbox promises. Each public method checks the promise that its docstring is."""

    async def check_the_storage(self) -> None:
        """check() accepts a storage that works, and changes nothing"""
        await self.follow("claim a; check a; check b; claim b; complete a")

    async def claim_what_is_free(self) -> None:
        """A free key can be claimed, and then another worker's claim is BUSY"""
        await self.follow("claim a; claim b")

    async def claim_again(self) -> None:
        """The holder's token may claim a key again, and its lease begins again"""
        await self.follow("claim_shortly a; claim a; pass a; claim b")

    async def stay_completed(self) -> None:
        """A completed key stays completed for all workers, and is recorded once"""
        await self.follow("claim a; complete a; claim b; claim a; complete a; complete b; known a; known b")

    async def release(self) -> None:
        """A released key is free at once, and a second release() changes nothing"""
        await self.follow("claim a; release a; release a; claim b; release a; claim a")

    async def obey_the_holder_alone(self) -> None:
        """Only the holder can release or complete"""
        await self.follow("claim a; release b; claim b; complete b; known a; known b")

    async def stay_completed_when_released(self) -> None:
        """release() does not change a completed key"""
        await self.follow("claim a; complete a; release a; known a; known b; claim b")

    async def take_over(self) -> None:
        """After a lease has run out, another worker can claim the key, and the former holder changes nothing"""
        await self.follow("die a; claim b; release a; claim a; complete a; known a; known b; complete b")

    async def count_attempts_without_an_end(self) -> None:
        """A claim that runs out is counted by the next one; one that was released, or ended in any other way, is not"""
        await self.follow(
            "die a; claim b; release b; claim a; release a; claim b; fail b; claim a; complete a",
            "die a; die b; die a; claim b; give_up b; claim a; release a; retry b; complete b; claim a",
            "claim_shortly a; claim a; pass a; release a; claim b",
            "give_up a; die_in_retry a; retry b; release b; claim a",
        )

    async def take_an_attempt_back(self) -> None:
        """release() by the token of a claim that ran out is the end of that attempt, also after another claim"""
        await self.follow(
            "die a; claim b; release a; release b; claim a",
            "die a; claim b; fail a; release b; claim a; release a; claim b",
            "die a; die b; die c; die a; claim b; release c; release b; claim a; release a; claim b",
            "give_up a; die_in_retry a; retry b; release a; release b; claim c",
        )

    async def complete_late(self) -> None:
        """A worker whose lease has run out can still complete the key if no other worker claimed it"""
        await self.follow("die a; complete a; claim b")

    async def know(self) -> None:
        """known() has what was handled or quarantined, but not what was claimed or released"""
        await self.follow(
            "known b; claim a; known b; release a; known b; claim a; fail a; known b; complete a; give_up a 1; known b",
        )

    async def count_failures(self) -> None:
        """release(failed=True) releases the claim and counts the failure, until the key is completed"""
        await self.follow(
            "claim a; fail a; known b; claim a; fail a; claim b; fail b; claim a; release a; claim a; fail a; "
            "known a; claim a; complete a; fail a; claim b",
        )

    async def count_late_failures(self) -> None:
        """release(failed=True) by a former holder counts the failure, and the new holder's claim stays"""
        await self.follow("die a; claim b; fail a; claim a; fail b")

    async def quarantine(self) -> None:
        """A quarantined key counts as handled, and all workers can read its delivery unchanged"""
        await self.follow(
            "claim a; quarantine a; claim b; known a; known b; quarantined b; quarantine a; fail b; "
            "quarantined b; complete a; quarantined b",
        )

    async def quarantine_for_the_holder(self) -> None:
        """Only the holder can quarantine a key, and a completed key cannot be quarantined"""
        await self.follow("claim a; quarantine b; quarantined b; complete a; quarantine a; quarantined b")

    async def retry(self) -> None:
        """One worker at a time can claim a quarantined key for a retry, and complete() ends its quarantine"""
        await self.follow(
            "retry a; claim a; quarantine a; retry a; retry b; claim b; quarantined b; complete b; complete a; "
            "quarantined b; known a; known b; claim b",
        )

    async def keep_after_a_failed_retry(self) -> None:
        """After a retry that was released or failed, the quarantined delivery is unchanged"""
        await self.follow(
            "claim a; quarantine a; retry a; release a; quarantined b; claim b; retry a; fail a; quarantined b; "
            "claim b; retry b; quarantine b; quarantined b",
        )

    async def keep_after_an_expired_retry(self) -> None:
        """After a retry whose lease expired, the quarantined delivery is unchanged"""
        await self.follow("claim a; quarantine a; die_in_retry a; quarantined b; claim b; retry b")

    async def claim_what_was_quarantined(self) -> None:
        """What was quarantined and not acknowledged can be claimed, and stays there until it is completed"""
        await self.follow(
            "give_up a; known b; claim b; quarantined b; release b; quarantined b; claim b; fail b; known b; "
            "quarantined b; claim b; complete b; quarantined b; claim a",
        )

    async def claim_or_retry(self) -> None:
        """Of what was quarantined, either a live attempt or a retry is under way: the other is BUSY"""
        await self.follow(
            "give_up a; claim a; retry b; complete b; release a; retry b; claim a; give_up a; complete b; "
            "quarantined b",
        )

    async def replace_what_was_quarantined(self) -> None:
        """A later quarantine() replaces what was quarantined, and one that is acknowledged ends the attempts"""
        await self.follow(
            "give_up a; give_up b; quarantined b; claim a; quarantine a; quarantined b; claim b; retry b; "
            "complete b; quarantined a; claim a",
        )

    async def complete_what_was_quarantined(self) -> None:
        """A worker whose lease ran out can complete what was quarantined meanwhile, and it leaves the quarantine"""
        await self.follow(
            "die a; give_up b; complete a; quarantined b; claim b",
            "die a; quarantine b; complete a; quarantined b; claim b",
        )

    async def survive_a_cancellation(self) -> None:
        """A cancelled call was carried out completely or not at all, wherever it was cancelled"""
        await self.follow(
            "cancelled claim a; release a; claim b; release b",
            "claim a; cancelled complete a; complete a; known b",
            "claim a; cancelled fail a; release a; claim b; fail b",
            "cancelled quarantine a; release a; known b; quarantined b; quarantine a; cancelled retry a; "
            "release a; retry b; release b",
            "quarantine a; retry a; cancelled complete a; complete a; known b; quarantined b",
            "set_note a; cancelled set_note a; note a; note b",
            "cancelled set_first_note a; set_note b; note a; set_first_note a; note b",
        )

    async def walk(self) -> None:
        """Each call has the right result when workers act on two keys in any order, and some of them die"""
        for script in random_walks([name for name in WALKED if self.makes(name)]):
            await self.follow(script)

    async def keep_apart(self) -> None:
        """Similar keys are independent of each other, up to a length of 400 ASCII characters"""
        long = self.key.ljust(399, "x")
        alike = [*(self.key + end for end in ("", " ", "%", "'\";*")), self.key.upper(), long + "1", long + "2"]
        for number, key in enumerate(alike):
            status = await self.claim(key, f"{self.a}-{number}")
            hold(status is CLAIMED, f"a claim of the key {key!r} was {status.name}")
            recorded = await self.inbox.complete(key, f"{self.a}-{number}")
            hold(recorded is True, f"complete() of the claimed key {key!r} was {recorded}, not True")

    async def race(self) -> None:
        """If fifty workers claim a key at once, one of them gets it"""
        calls = (
            self.claim(self.key, f"{self.a}-{number}", (self.inbox, self.other)[number % 2]) for number in range(50)
        )
        found = await asyncio.gather(*calls)
        claimed, busy = found.count(CLAIMED), found.count(BUSY)
        hold((claimed, busy) == (1, 49), f"{claimed} workers got CLAIMED and {busy} BUSY, not 1 and 49")

    async def hold_on(self) -> None:
        """A claim lasts as long as its worker's inbox is open"""
        await self.claim(self.key, self.a)
        status = await self.claim(self.key, self.b, self.other)
        hold(status is BUSY, f"another worker's claim was {status.name}, not BUSY")
        close = getattr(self.inbox, "aclose", None)
        if self.leases or self.other is self.inbox or close is None:
            return
        await close()
        status = await self.claim(self.key, self.b, self.other)
        hold(status is CLAIMED, f"a claim after the first worker's inbox was closed was {status.name}, not CLAIMED")

    async def know_many(self) -> None:
        """known() takes 0, 1 and 10,000 keys in any order, and twice"""
        keys = [f"{self.key}-{number}" for number in range(_MANY)]
        expected = {*keys[:: _MANY // 10], keys[-1]}
        for key in expected:
            await self.inbox.complete(key, self.a)
        for asked in ([], keys[:1], keys[-1:], [*reversed(keys), *keys[:10]]):
            found, wanted = set(await self.other.known(asked)), expected.intersection(asked)
            hold(found == wanted, f"of {len(asked):,} keys, known() had {len(found)}, not {len(wanted)}")

    async def keep_notes(self) -> None:
        """A note is kept for all workers until another one takes its place, whatever its name and text, up to 64 kB"""
        name = f"{self.key} {ODD}"
        await self.inbox.set_note(f"{name}-2", "another")
        for text in ("first", "", ODD, "ü" * _NOTE, '{"json": [1, null]}'):
            await self.inbox.set_note(name, text)
            for inbox in (self.inbox, self.other):
                found = await inbox.note(name)
                hold(found == text, f"a note of {len(text)} characters was {None if found is None else found[:80]!a}")
        hold(await self.other.note(f"{name}-2") == "another", "a note was changed by one of another name")

    async def compare_notes(self) -> None:
        """set_note() with an expected note stores only in place of that one: of fifty workers at once, one does"""
        name = f"{self.key} {ODD}"
        for turn, expected in enumerate((None, "", ODD)):
            if expected is not None:
                await self.inbox.set_note(name, expected)
            for wrong in ("another", None, f"{expected} "):
                stored = wrong != expected and await self.inbox.set_note(name, "wrong", expected=wrong)
                hold(stored is False, f"set_note() was {stored} though the note was not the one that was expected")
            calls = [
                (self.inbox, self.other)[number % 2].set_note(name, f"{turn} {number}", expected=expected)
                for number in range(50)
            ]
            found = await asyncio.gather(*calls)
            hold(
                found.count(True) == 1, f"{found.count(True)} of 50 workers replaced the note that each expected, not 1"
            )
            winner = f"{turn} {found.index(True)}"
            for inbox in (self.inbox, self.other):
                note = await inbox.note(name)
                hold(note == winner, f"the note was {note!a}, not the one for which set_note() was True")

    async def list_in_order(self) -> None:
        """entries() has pages in order of time, though some are removed; each may have any bytes and any text"""
        stored = make_odd_deliveries(self.key)
        for each in stored:
            await self.inbox.quarantine(each.key, self.a, each)
        await self.check_order(self.other.entries, stored, lambda key: self.inbox.complete(key, self.a))

    # --- memory ---

    async def remember(self) -> None:
        """A handled key is remembered while Basiq may send its message again, and for as long as known_since() says"""
        delivery = make_delivery(f"{self.key}-quarantined", at=self.now())
        await self.inbox.quarantine(delivery.key, self.a, delivery)
        await self.wait(SHORT)
        first = f"{self.key}-0"
        await self.claim(first, self.a)
        handled = self.now()
        for number in range(_OTHERS + 1):
            await self.inbox.complete(f"{self.key}-{number}", self.a)
        status = await self.claim(first, self.b, self.other)
        hold(status is DONE, f"a claim of a key after which {_OTHERS} others were handled was {status.name}, not DONE")
        for hours in range(_HOURS, _LONGEST if self.clock is not None else 0, _HOURS):
            await self.wait(_HOURS * 3600)
            since = await self.inbox.known_since()
            if not await self.other.known([first]):
                hold(
                    hours > _RESENT,
                    f"a key was forgotten {hours} hours after it was handled; Basiq may send again for {_RESENT} h",
                )
                hold(since >= handled, f"what was handled at {handled} was forgotten, and known_since() was {since}")
                break
            status = await self.claim(first, self.b, self.other)
            hold(status is DONE, f"a claim of a key that known() has, after {hours} hours, was {status.name}")
        found = await self.list_own(self.other.entries)
        hold(found == [delivery], "a quarantined delivery was gone, though it was neither handled nor dropped")

    async def outlive_a_wrong_clock(self) -> None:
        """A clock that is 40 days or two hours ahead, or two hours behind, for an hour has nothing forgotten"""
        if self.clock is None:
            return
        await self.inbox.complete(self.key, self.a)
        for number, hours in enumerate((40 * 24, 2, -2)):
            await self.wait(HOUR)
            right = self.clock()
            self.clock.set(right + timedelta(hours=hours))
            await self.inbox.complete(f"{self.key}-{number}", self.a)
            await self.wait(HOUR)
            await self.other.complete(f"{self.key}-{number}-later", self.a)
            for when in ("with", "after"):
                found = len(await self.other.known([self.key, f"{self.key}-{number}"]))
                hold(found == 2, f"{when} a clock that was {hours} hours ahead for an hour, known() had {found} of 2")
                since = await self.inbox.known_since()
                hold(since <= right, f"{when} such a clock known_since() was {since}, later than {right}")
                self.clock.set(right + timedelta(hours=1))

    # --- transactions ---

    async def commit_together(self) -> None:
        """A handler's writes commit together with the entry, and a handler that fails leaves neither"""
        inbox = self.inbox
        if not isinstance(inbox, TransactionalInbox):
            return
        rows: list[int] = []

        async def handle(key: str, *, fails: bool) -> None:
            claim = await inbox.claim(key, self.a, lease=LONG, transaction=True)
            hold(claim.status is CLAIMED, f"claim(transaction=True) was {claim.status.name}, not CLAIMED")
            async with inbox.transaction(key, self.a) as session:
                rows.append(len(rows) if self.write is None else await self.write(session))
                if fails:
                    raise _RefusedError

        try:
            await handle(self.key, fails=True)
        except _RefusedError:
            await inbox.release(self.key, self.a, failed=True)
        else:
            raise AssertionError("the exception of a handler with a session was swallowed by transaction()")
        hold(not await self.other.known([self.key]), "after a handler with a session failed, its key was known")

        await handle(self.key, fails=False)
        status = await self.claim(self.key, self.b, self.other)
        hold(status is BUSY, f"a claim before complete() of a handler with a session was {status.name}, not BUSY")
        hold(await inbox.complete(self.key, self.a) is True, "complete() of a handler with a session was not True")
        status = await self.claim(self.key, self.b, self.other)
        hold(status is DONE, f"a claim after complete() of a handler with a session was {status.name}, not DONE")

        await handle(f"{self.key}-next", fails=False)
        await inbox.release(f"{self.key}-next", self.a)
        if self.write is not None:
            before, after_failure, after_commit = rows
            hold(after_failure == before, f"a handler that failed left {after_failure - before} of its rows, not 0")
            hold(after_commit == before + 1, f"a handler that was completed left {after_commit - before} rows, not 1")


class _RefusedError(Exception):
    """The failure of a handler."""
