"""Read messages by their ids where their list does not tell their attempts, and remember what they told.

Basiq's reference shows attempts as objects for a single message. For a list its schema has ids, its example nothing.
So a recovery, a diagnosis and a selection by state or time ask the message itself, and note in the inbox what cannot
change: when it was attempted first, and when it was delivered. That note goes when the list no longer has the message.
"""

from __future__ import annotations

import asyncio
import json
import logging
import struct
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import attrs

from .._wire.codec import Unreadable, read_message
from .._wire.order import raw_time
from .._wire.paging import is_too_large
from .._work.failures import reason_text
from .._work.ids import digest_of
from ..errors import (
    BadRequestError,
    ConfigurationError,
    NotFoundError,
    PermissionDeniedError,
    ResponseDecodeError,
    TransportError,
)
from ..models import Message
from ..pagination import Paginator
from .api import Api
from .coverage import Activity
from .resources import MESSAGES

Judge: TypeAlias = Callable[[Message], bool | None]
"""Says whether a message is wanted; None if it does not tell."""

logger = logging.getLogger("basiq_async.messages")
_AT_ONCE = 8
_FACT = struct.Struct(">8sII")
"""A digest of the message's id, the time of its first attempt, and that of its last success or 0, in seconds."""
_IN_A_NOTE, _MOST_NOTES = 2_800, 36
"""A note has at most 64 kB."""
MOST_FOR_ACTIVITY = 2_000
"""The number of messages that are read by their ids only to find out when the webhook was active."""
_LONGEST = timedelta(days=120)
"""For how long a message is remembered that readings of a filtered list do not show."""


class RawMessages(list[Any]):
    """Messages as Basiq listed them. ``repr`` does not show them: error reports show local variables."""

    def __repr__(self) -> str:
        return f"<{len(self)} messages>"


@attrs.frozen(repr=False)
class RememberedMessage(Message):
    """A message of a list with the times of attempts that it told earlier. It has no other attempts."""


def tells_attempts(message: Message) -> bool:
    """Return whether a message shows its attempts. A list that does not tell them may show none."""
    return message.delivered is not None and message.raw.get("attempts") != []


class Details:
    """Fills in what the messages of a list do not tell of their attempts.

    note, set_note: read and write a note of the record; None if there is none, or if nothing may be written.
    is_noting: whether what is read is noted now.
    """

    def __init__(
        self,
        api: Api,
        webhook_id: str,
        *,
        note: Callable[[str], Awaitable[str | None]] | None = None,
        set_note: Callable[[str, str], Awaitable[object]] | None = None,
        is_noting: bool = True,
    ) -> None:
        self._api, self._webhook_id, self._note, self._set_note = api, webhook_id, note, set_note
        self.is_noting = is_noting
        self._facts: dict[bytes, tuple[int, int]] | None = None
        """What earlier messages told, by a digest of their ids; None before it was read."""
        self._met = set[bytes]()
        self._saved = self._notes = 0
        self.count = 0
        """How many messages were read by their ids."""
        self.is_refused = False
        """Whether the API key may not read single messages."""

    async def fill(self, items: RawMessages, places: Iterable[int], judge: Judge | None = None) -> None:
        """Replace the messages at ``places`` that do not tell whether they are wanted by what is known of them.

        Without ``judge``, all that do not show their attempts are replaced.
        What is remembered of a message only leaves it out: one that may be wanted is read again. Raises the errors of
        requests.
        """
        unread: list[int] = []
        for place in places:
            message = _read(items[place])
            if message is None or tells_attempts(message):
                continue
            remembered = await self._remember(message)
            found = None if judge is None else judge(message)
            if found is False or (found is not None and message.delivered is None):
                continue
            is_enough = remembered is not None and (
                remembered.delivered is True if judge is None else judge(remembered) is False
            )
            if remembered is not None and is_enough:
                items[place] = remembered.raw
            else:
                unread.append(place)
        if unread:
            await self._read_all(items, unread)
            await self._save()

    async def _read_all(self, items: RawMessages, unread: Sequence[int]) -> None:
        places, failures = iter(unread), list[Exception]()

        async def work() -> None:
            for place in places:
                if failures or self.is_refused:
                    return
                try:
                    await self._read_one(items, place)
                except Exception as exc:
                    failures.append(exc)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, len(unread))):
                group.create_task(work())
        if failures:
            raise failures[0]

    async def _read_one(self, items: RawMessages, place: int) -> None:
        """Add to a message what its own answer tells, if that can be read."""
        message_id = str(items[place]["id"])
        self.count += 1
        try:
            one = self._api.at(MESSAGES.one, webhook_id=self._webhook_id, message_id=message_id)
            alone = await self._api.get(dict[str, Any], one)
            listed = {name: part for name, part in items[place].items() if part}
            message = _read({**alone, **listed, **{name: alone[name] for name in ("id", "attempts") if name in alone}})
        except PermissionDeniedError as exc:
            if not self.is_refused:
                logger.warning("what the list of messages does not tell cannot be read from the messages: %s", exc)
            self.is_refused = True
        except (BadRequestError, NotFoundError, ResponseDecodeError, ConfigurationError):
            pass  # it stays as it is listed
        except TransportError as exc:
            if not is_too_large(exc):  # else it stays as it is listed, too
                raise
        else:
            if message is not None and message.id == message_id:
                self._keep(message)
                items[place] = message.raw

    # --- what is remembered ---

    async def _remember(self, message: Message) -> RememberedMessage | None:
        if self._facts is None:
            await self._load()
        name = _name_of(message.id)
        found = None if self._facts is None else self._facts.get(name)
        if found is None:
            return None
        self._met.add(name)
        first, success = found
        attempts: list[dict[str, str]] = [] if first == success else [{"timestamp": _moment(first).isoformat()}]
        if success:
            attempts.append({"timestamp": _moment(success).isoformat(), "status": "Success"})
        return RememberedMessage(message.id, {**message.raw, "attempts": attempts})

    def _keep(self, message: Message) -> None:
        first = message.first_attempt
        if self._note is None or self._facts is None or first is None or first.timestamp is None:
            return
        successes = [each.timestamp for each in message.attempts if each.succeeded is True and each.timestamp]
        fact = int(first.timestamp.timestamp()), int(max(successes).timestamp()) if successes else 0
        name = _name_of(message.id)
        self._met.add(name)
        if all(0 <= each < 2**32 for each in fact) and len(self._facts) < _IN_A_NOTE * _MOST_NOTES:
            if self._facts.get(name, fact) != fact:
                self._saved = 0
            self._facts[name] = fact

    async def _load(self) -> None:
        self._facts = {}
        while self._note is not None and self._notes < _MOST_NOTES:
            text = await self._note(self._note_name(self._notes))
            if not text:
                break
            self._notes += 1
            try:
                packed = b64decode(text, validate=True)
                self._facts.update((name, (first, success)) for name, first, success in _FACT.iter_unpack(packed))
            except (ValueError, struct.error):
                continue  # another program has written it
        self._saved = len(self._facts)

    async def _save(self) -> None:
        """Note what was read since the last time."""
        if not self.is_noting or self._set_note is None or self._facts is None or self._saved == len(self._facts):
            return
        facts = [_FACT.pack(name, *fact) for name, fact in self._facts.items()]
        begin = self._saved // _IN_A_NOTE
        texts = [
            b64encode(b"".join(facts[start : start + _IN_A_NOTE])).decode()
            for start in range(begin * _IN_A_NOTE, len(facts), _IN_A_NOTE)
        ]
        texts += [""] * (self._notes - begin - len(texts))
        try:
            for number, text in enumerate(texts, begin):
                await self._set_note(self._note_name(number), text)
        except Exception as exc:
            why = reason_text(exc)
            logger.warning("what messages told could not be noted, so the next run reads them again: %s", why)
            return
        self._saved, self._notes = len(facts), -(-len(facts) // _IN_A_NOTE)

    async def forget(self, *, filtered: bool) -> None:
        """Forget the messages that this reading, which was finished, has not met.

        filtered: whether the list had a filter, so that it does not show them all. Then only the oldest are forgotten.
        """
        if not self._facts:
            return
        oldest = int((self._api.now() - _LONGEST).timestamp()) if filtered else 2**32
        kept = {name: fact for name, fact in self._facts.items() if name in self._met or max(fact) >= oldest}
        if len(kept) < len(self._facts):
            self._facts, self._saved = kept, 0
            await self._save()

    def _note_name(self, number: int) -> str:
        return f"attempts {json.dumps(self._webhook_id)} {number}"


async def read_activity(details: Details, messages: Paginator[Message]) -> Activity:
    """Return what the whole history shows of when the webhook was active. Messages are read by their ids for that."""
    activity = Activity()
    async for page in messages.pages():
        items = RawMessages(each.raw for each in page.items)
        await details.fill(items, range(len(items)))
        activity.see(items, list(map(raw_time, items)))
    return activity


def _read(item: Any) -> Message | None:
    try:
        return read_message(item)
    except Unreadable:
        return None


def _name_of(message_id: str) -> bytes:
    return digest_of(message_id)[:8]


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
