"""A file as a store of a webhook's signing secrets."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TypeVar

from .._redaction.tracebacks import UnshownText, hide_arguments
from .._storage.file_locks import try_lock_beside
from .._storage.private_files import check_private, lasting_path, open_new, replace_private
from .._work.clock import TimeSource
from .._work.limits import limit
from ..errors import ConfigurationError
from ..models import Secret
from .secret_store import KEEP_FORMER, TIME_LIMIT, OwnStore
from .secrets import read_keys

logger = logging.getLogger("basiq_async.receiver")

T = TypeVar("T")
Line = tuple[Secret, datetime | None]
"""A secret, and the time until which it is valid; None if it is the newest."""

_LARGEST = 65_536
_UNTIL = "until"
_PAUSE = 0.05
"""Seconds between two attempts to lock the file for writing."""
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)


class SecretFile(OwnStore):
    """A file with the signing secrets of one webhook.

    .. code-block:: python

        secret = SecretFile("basiq.secret")
        types = ["consent.revoked"]
        webhook = await basiq.webhooks.ensure(url=URL, name="consents", subscribed_events=types, secret=secret)
        receiver = WebhookReceiver(secret, webhook_id=webhook.id, inbox=inbox)

    The first line is the newest secret. A replaced one stays for 28 hours, with the time until which it is valid.

    ``read`` follows links and accepts any owner, as for a mounted secret of Kubernetes. Secrets may be separated by
    spaces or lines. If others can write to the file, the log says so. ``write`` replaces the file in one step, by one
    that only its owner can read. It refuses a file of another user, because that user could have put a secret into it.

    clock: returns the time as an aware datetime; None is for the system's clock.
    """

    __slots__ = ("_clock", "_warned", "path")

    def __init__(self, path: str | os.PathLike[str], *, clock: TimeSource | None = None) -> None:
        self.path = lasting_path(path)
        self._clock = clock
        self._warned = False

    def __repr__(self) -> str:
        return f"SecretFile({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return self.path == other.path if isinstance(other, SecretFile) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.path)

    async def read(self) -> tuple[Secret, ...]:
        """Return the secrets, the newest first. None, if there is no such file.

        Raises ``ConfigurationError`` if the file cannot be read.
        """
        async with self._in_time():
            return tuple([secret for secret, _ in await asyncio.to_thread(self._read)])

    async def write(self, secret: Secret | str) -> None:
        """Make this the newest secret, and keep the one before for 28 hours.

        Raises ``ConfigurationError`` if the file cannot be written, belongs to another user, or holds something else
        than secrets.
        """
        kept = secret if isinstance(secret, Secret) else Secret(secret)
        del secret  # error reporters show local variables
        async with self._in_time():
            # No thread waits for the lock: the end of a program would wait for the thread.
            while not await asyncio.to_thread(self._write, kept):  # noqa: ASYNC110  # another process has the lock
                await asyncio.sleep(_PAUSE)

    async def check(self) -> None:
        """Raise ``ConfigurationError`` if ``write`` would fail."""
        async with self._in_time():
            await asyncio.to_thread(self._check)

    def _in_time(self) -> limit:
        return limit(
            TIME_LIMIT,
            ConfigurationError(f"the file of secrets {str(self.path)!r} did not respond within {TIME_LIMIT:g} s"),
        )

    def _now(self) -> datetime:
        now = datetime.now(UTC) if self._clock is None else self._clock()
        if now.tzinfo is None:
            raise ConfigurationError("the clock of a SecretFile must return a datetime with a time zone")
        return now

    def _read(self) -> Sequence[Line]:
        now = self._now()
        with self._naming_errors("read"), suppress(FileNotFoundError):
            descriptor = os.open(self.path, os.O_RDONLY | _NO_WAIT)  # a pipe without a writer would block the thread
            with os.fdopen(descriptor, "rb") as file:
                mode = os.fstat(descriptor).st_mode
                if not stat.S_ISREG(mode):
                    raise ConfigurationError(f"{str(self.path)!r} is not a regular file")
                if mode & stat.S_IWOTH and not self._warned:
                    self._warned = True
                    logger.warning(
                        "every user of this machine can write to the file of secrets %r, and so choose what your "
                        "receiver accepts: chmod 600 it",
                        str(self.path),
                    )
                return read_lines(UnshownText(file.read(_LARGEST).decode("latin-1")), now)
        return ()

    @hide_arguments
    def _write(self, secret: Secret) -> bool:
        """Write the file. Return False, and do nothing, while another writer has the lock."""
        read_keys(secret)
        with self._naming_errors("written"), try_lock_beside(self.path) as locked:
            if locked:
                former = [each for each in self._read_own() if each[0] != secret]
                until = self._now() + KEEP_FORMER
                replace_private(self.path, _content(secret, former, until))
        return locked

    def _check(self) -> None:
        with self._naming_errors("written"):
            self._read_own()
            draft = self.path.with_name(f".{self.path.name}.{os.urandom(8).hex()}")
            os.close(open_new(draft))
            draft.unlink()

    def _read_own(self) -> Sequence[Line]:
        """Return what the file holds. Raises ``ConfigurationError`` for what must not be replaced, or not be kept."""
        with suppress(FileNotFoundError):
            problem = check_private(str(self.path), mode=False)
            if problem is not None:
                raise ConfigurationError(f"the file of secrets {str(self.path)!r} cannot be written: {problem}")
        found = self._read()
        try:
            for secret, _ in found:
                read_keys(secret)
        except ConfigurationError:
            pass
        else:
            return found
        raise ConfigurationError(f"{str(self.path)!r} holds something else than signing secrets: pass another path")

    @contextmanager
    def _naming_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except ConfigurationError:
            raise
        except (OSError, ValueError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else "its name holds a null character"
        else:
            return
        raise ConfigurationError(f"the file of secrets {str(self.path)!r} cannot be {what}: {why}")


def _content(secret: Secret, former: Sequence[Line], until: datetime) -> bytes:
    kept = [f"{each.reveal()}  # {_UNTIL} {(end or until).isoformat()}" for each, end in former]
    return "".join([f"{line}\n" for line in [secret.reveal(), *kept]]).encode()


def read_lines(text: UnshownText, now: datetime) -> Sequence[Line]:
    """Return the secrets in the text of a file, each with the time until which it is valid, or None."""
    found: list[Line] = []
    for line in map(UnshownText, text.splitlines()):
        until = _read_until(UnshownText(line.partition("#")[2]))
        if until is None or now < until:
            found += [(Secret(each), until) for each in line.partition("#")[0].split()]
    return found


def _read_until(comment: UnshownText) -> datetime | None:
    word, _, moment = comment.strip().partition(" ")
    if word != _UNTIL:
        return None
    try:
        until = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return until if until.tzinfo is not None else until.replace(tzinfo=UTC)
