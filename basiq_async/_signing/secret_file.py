"""A file as a store of a webhook's signing secrets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from .._redaction.tracebacks import hide_arguments
from .._storage.private_files import open_new, replace_private
from .._work.clock import TimeSource
from .._work.limits import limit
from ..errors import ConfigurationError
from ..models import Secret
from .secret_store import KEEP_FORMER, TIME_LIMIT, OwnStore
from .secrets import read_keys

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")

_LARGEST = 65_536
_UNTIL = "until"


class SecretFile(OwnStore):
    """A file with the signing secrets of one webhook.

    .. code-block:: python

        secret = SecretFile("basiq.secret")
        types = ["consent.revoked"]
        webhook = await basiq.webhooks.ensure(url=URL, name="consents", subscribed_events=types, secret=secret)
        receiver = WebhookReceiver(secret, webhook_id=webhook.id, inbox=inbox)

    The first line is the newest secret. A replaced one stays for 28 hours, with the time until which it is valid.

    ``read`` follows links and accepts any owner, as for a mounted secret of Kubernetes. Secrets may be separated by
    spaces or lines. ``write`` replaces the file in one step, by one that only its owner can read.

    clock: returns the time as an aware datetime; None is for the system's clock.
    """

    __slots__ = ("_clock", "path")

    def __init__(self, path: str | os.PathLike[str], *, clock: TimeSource | None = None) -> None:
        self.path = Path(path)
        self._clock = clock

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
        return tuple([Secret(text) for text, _ in await self._in_thread(self._read)])

    async def write(self, secret: Secret | str) -> None:
        """Make this the newest secret, and keep the one before for 28 hours.

        Raises ``ConfigurationError`` if the file cannot be written, or holds something else than secrets.
        """
        kept = secret if isinstance(secret, Secret) else Secret(secret)
        del secret  # error reporters show local variables
        await self._in_thread(lambda: self._write(kept))

    async def check(self) -> None:
        """Raise ``ConfigurationError`` if ``write`` would fail."""
        await self._in_thread(self._check)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        over = ConfigurationError(f"the file of secrets {str(self.path)!r} did not respond within {TIME_LIMIT:g} s")
        async with limit(TIME_LIMIT, over):
            return await asyncio.to_thread(work)

    def _now(self) -> datetime:
        return datetime.now(UTC) if self._clock is None else self._clock()

    def _read(self) -> Sequence[tuple[str, datetime | None]]:
        with self._naming_errors("read"), suppress(FileNotFoundError):
            return read_lines(self.path, self._now())
        return ()

    @hide_arguments
    def _write(self, secret: Secret) -> None:
        text = secret.reveal()
        read_keys(text)
        with self._naming_errors("written"), _locked(self.path.parent):
            former = [each for each in self._read_own() if each[0] != text]
            until = self._now() + KEEP_FORMER
            lines = [text, *[f"{each}  # {_UNTIL} {(end or until).isoformat()}" for each, end in former]]
            replace_private(self.path, "".join([f"{line}\n" for line in lines]).encode())

    def _check(self) -> None:
        with self._naming_errors("written"):
            self._read_own()
            draft = self.path.with_name(f".{self.path.name}.{os.urandom(8).hex()}")
            os.close(open_new(draft))
            draft.unlink()

    def _read_own(self) -> Sequence[tuple[str, datetime | None]]:
        """Return what the file holds. Raises ``ConfigurationError`` for what must not be replaced."""
        if self.path.is_symlink():
            raise ConfigurationError(f"{str(self.path)!r} is a link: pass the path of the file for the secret itself")
        found = self._read()
        try:
            for text, _ in found:
                read_keys(text)
        except ConfigurationError:
            raise ConfigurationError(
                f"{str(self.path)!r} holds something else than signing secrets: pass another path"
            ) from None
        return found

    @contextmanager
    def _naming_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except ConfigurationError:
            raise
        except (OSError, ValueError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else "its name holds a null character"
            raise ConfigurationError(f"the file of secrets {str(self.path)!r} cannot be {what}: {why}") from None


def read_lines(path: str | os.PathLike[str], now: datetime) -> Sequence[tuple[str, datetime | None]]:
    """Return the secrets of a file, each with the time until which it is valid, or None. Raises OSError, ValueError."""
    with open(path, "rb") as file:
        text = file.read(_LARGEST).decode("latin-1")
    found: list[tuple[str, datetime | None]] = []
    for line in text.splitlines():
        secrets, _, comment = line.partition("#")
        until = _read_until(comment)
        if until is None or now < until:
            found += [(each, until) for each in secrets.split()]
    return found


def _read_until(comment: str) -> datetime | None:
    word, _, moment = comment.strip().partition(" ")
    if word != _UNTIL:
        return None
    try:
        until = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return until if until.tzinfo is not None else until.replace(tzinfo=UTC)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one writer at a time into a folder, where the system has locks: each keeps the secret of the one before."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
