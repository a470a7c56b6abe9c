"""Where a service keeps its signing secrets: a store of its own, or a ``SecretFile``. All pods read it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from basiq_async import Secret
from basiq_async._signing import secret_file
from basiq_async.receiver import SecretFile

from .machines import BEGINNING, MACHINE

KEPT_FOR = timedelta(hours=28)
"""A file keeps a replaced secret for so long."""
LOOKS_EVERY = timedelta(hours=2)
"""Pods look once an hour, by clocks that may be set back meanwhile."""


class Vault:
    """A ``SecretStore``. ``file``: where the secrets are; by default here, until operators remove them.

    What it has told a machine, that machine must not forget while it is here; and what has ended, it must.
    """

    def __init__(self, now: Callable[[], datetime], file: Path | None) -> None:
        self._now, self._file = now, None if file is None else SecretFile(file, clock=now)
        self.texts: list[str] = []
        """All that were ever here, the newest first."""
        self.ends: dict[str, datetime] = {}
        """When each one that was replaced ended, or will: its end in the file, or its removal by an operator."""
        self._told: dict[str, Sequence[str]] = {}
        """What each machine has read last."""
        self._state, self.since = "well", BEGINNING

    @property
    def state(self) -> str:
        """``well``, or ``failing``, ``hanging``, ``slow``, ``empty``."""
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        self._state, self.since = state, self._now()

    @property
    def kept(self) -> list[str]:
        return [each for each in self.texts if each not in self.ends or self.ends[each] > self._now()]

    async def read(self) -> Sequence[str]:
        await self._respond()
        if self.state == "empty":
            return ()
        found = self.kept if self._file is None else [each.reveal() for each in await self._file.read()]
        if found and (machine := MACHINE.get()) is not None:
            self._told[machine.name] = found
        return found

    async def write(self, secret: Secret) -> None:
        await self._respond()
        if self._file is not None:
            await self._file.write(secret)
        self.note(secret.reveal())

    async def _respond(self) -> None:
        if self.state == "failing":
            raise OSError(f"the vault is away that has {self.texts}")
        if seconds := {"hanging": 3_600, "slow": 3}.get(self.state):
            await asyncio.sleep(seconds)

    def note(self, text: str) -> None:
        """Note that a secret is the newest."""
        if self._file is not None:
            self.ends.update((each, self._now() + KEPT_FOR) for each in self.texts if each not in self.ends)
        if text in self.texts:
            self.texts.remove(text)
        self.texts.insert(0, text)
        self.ends.pop(text, None)

    def remove(self, used: Sequence[str]) -> int:
        """Remove what is not the newest, and not used any more. A file does that itself."""
        keys = {*map(key_of, used)}
        former = [each for each in self.kept[1:] if key_of(each) not in keys]
        if self._file is not None:
            return 0
        self.ends.update(dict.fromkeys(former, self._now()))
        return len(former)

    @property
    def over(self) -> list[str]:
        """What every machine must have forgotten: it ended, and each pod has looked since, and could."""
        if self.state != "well" or self._now() - self.since < LOOKS_EVERY:
            return []
        return [each for each, end in self.ends.items() if self._now() - end > LOOKS_EVERY]

    def must_know(self, machine: str, headers: Mapping[str, str], body: bytes) -> bool:
        """Return whether a delivery is signed with a secret that is kept, and that a machine has read last."""
        told = {*self._told.get(machine, ())} & {*self.kept}
        return any(sign(each, headers, body) in headers["webhook-signature"].split() for each in told)


def key_of(text: str) -> bytes:
    bare = text.removeprefix("whsec_")
    return base64.b64decode(bare + "=" * (-len(bare) % 4))


def sign(secret: str, headers: Mapping[str, str], body: bytes) -> str:
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key_of(secret), content, "sha256")).decode()


@contextlib.contextmanager
def without_threads() -> Iterator[None]:
    """Let files of secrets do in the loop what they do in a thread."""

    async def call(function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    with patch.object(secret_file, "asyncio", SimpleNamespace(to_thread=call, sleep=asyncio.sleep)):
        yield
