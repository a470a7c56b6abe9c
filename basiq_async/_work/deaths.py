"""Whether a process of this machine that used an inbox was killed: it began, and never said that it ended.

A handler with a session is claimed by its transaction, which a kill rolls back: it leaves no trace of the attempt. A
trace for each attempt would cost each event a statement and a commit. So they are left only after a process was killed.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from ..errors import InboxError
from .calls import HOST
from .inbox_calls import InboxCalls

NOTE = "processes"
"""The name of the note."""
_LONG = timedelta(days=3)
"""For how long a death matters: Basiq sends a message again for less."""
_MOST = 200
"""The number of processes that are noted; the oldest of other machines may be gone."""
_TRIES = 100
_START = secrets.token_hex(8)
_NUMBERS = itertools.count()


@attrs.frozen
class _Processes:
    """``open``: who has begun, and not ended. ``died``: when it was last seen that one was killed."""

    open: tuple[str, ...] = ()
    died: datetime | None = None

    @classmethod
    def read(cls, text: str | None) -> _Processes:
        """Return what a note holds; nothing for one that is damaged."""
        try:
            found: Any = json.loads(text or "{}")
            died = found.get("died")
            moment = None if died is None else datetime.fromisoformat(died)
            if moment is None or moment.tzinfo is not None:
                return cls(tuple(map(str, found.get("open", ()))), moment)
        except (ValueError, TypeError, AttributeError, RecursionError):
            pass
        return cls()

    def write(self) -> str:
        return json.dumps({"open": self.open, "died": None if self.died is None else self.died.isoformat()})


class Deaths:
    """One use of an inbox by this process, from ``begin`` to ``end``."""

    def __init__(self, calls: InboxCalls) -> None:
        self._calls = calls
        self._id = ""

    async def begin(self, *, may_end: bool = True, job: bool = False) -> bool:
        """Note that this process begins. Return whether one of this machine was killed in the last three days.

        ``may_end``: whether ``end`` is called, unless the process is killed. All other uses are one. ``job``: it is a
        run, which may have another machine each time: one of another machine that has not ended may be killed too.
        """
        now = datetime.now(UTC)
        number = f"{next(_NUMBERS)}/{f'{now:%Y%m%dT%H%M%S}' if job else ''}" if may_end else "lasting"
        self._id = self._id or f"{HOST}/{os.getpid()}/{_START}/{number}".rstrip("/")

        def add(known: _Processes) -> _Processes:
            left = [each for each in known.open if not _is_dead(each) and abs(now - (_began(each) or now)) < _LONG]
            died = now if any(map(_is_dead, known.open)) else known.died
            died = None if died is None or abs(now - died) > _LONG else died
            return _Processes((*_without(left, self._id)[1 - _MOST :], self._id), died)

        found = await self._change(add)
        return found.died is not None or (job and any(_began(each) and not _is_here(each) for each in found.open))

    async def end(self) -> None:
        """Note that this use has ended in order. Does not raise: what is not noted seems to be killed."""
        if self._id:
            try:
                await self._change(lambda known: attrs.evolve(known, open=_without(known.open, self._id)))
            except Exception:  # the inbox is away
                return
            self._id = ""

    async def _change(self, change: Callable[[_Processes], _Processes]) -> _Processes:
        for _ in range(_TRIES):
            text = await self._calls.note(NOTE)
            known = _Processes.read(text)
            changed = change(known)
            if changed == known or await self._calls.set_note(NOTE, changed.write(), expected=text):
                return changed
        raise InboxError("other programs change the inbox's note of its processes again and again")


def _without(ids: Sequence[str], id: str) -> tuple[str, ...]:
    return tuple(each for each in ids if each != id)


def _is_here(id: str) -> bool:
    return id.partition("/")[0] == HOST


def _began(id: str) -> datetime | None:
    """Return when a run began; None for any other use."""
    text = id.rpartition("/")[2]
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC) if "T" in text else None
    except ValueError:
        return None


def _is_dead(id: str) -> bool:
    """Return whether a process that has begun runs no more, as far as this machine can tell."""
    pid, _, start = id.partition("/")[2].partition("/")
    if not _is_here(id) or not pid.isdigit():
        return False
    if int(pid) == os.getpid():
        return not start.startswith(_START)
    return not _runs(int(pid))


def _runs(pid: int) -> bool:
    if os.name != "posix":  # there, a signal of 0 is no question
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
