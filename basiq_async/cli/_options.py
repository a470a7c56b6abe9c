"""Options and arguments of several commands, and what they name: a time, event types, secrets, a receiver."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .._arguments import EVENT_TYPES
from .._storage.private_files import open_new
from ..errors import ConfigurationError
from ._completion import event_types, webhook_ids

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..models import Secret
    from ..receiver import WebhookReceiver
    from ..replay import Where


SECRET_VARIABLE = "BASIQ_WEBHOOK_SECRET"  # noqa: S105  # the name of a variable, no secret

Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="[FIELDS]",
        help="JSON lines, as in a pipe; errors are JSON too. FIELDS, such as id,status, shows these alone.",
        show_default=False,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="The newest N alone; 0 for all. A terminal shows 50, a pipe gets all.",
        metavar="N",
        show_default=False,
    ),
]
Raw = Annotated[bool, typer.Option("--raw", help="As the API sent it, as JSON.")]
Filter = Annotated[
    str | None, typer.Option(help="A filter in Basiq's syntax, which Basiq applies.", show_default=False)
]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="First tried then or later: 2d, 90m, or a date.", show_default=False),
]
Until = Annotated[
    str | None,
    typer.Option("--until", metavar="TIME", help="First tried before that; as --since.", show_default=False),
]
Failed = Annotated[bool, typer.Option("--failed", help="Only messages that no attempt delivered.")]
EventPattern = Annotated[
    list[str] | None,
    typer.Option(
        "--event",
        help="Only these types: exact, or a beginning such as consent.*; may be repeated.",
        show_default=False,
        autocompletion=event_types,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
WebhookId = Annotated[str, typer.Argument(help="The webhook's id.", autocompletion=webhook_ids)]
EndpointSecretFile = Annotated[
    Path | None,
    typer.Option(
        "--secret-file",
        help=f"The file with the endpoint's signing secret; else {SECRET_VARIABLE} has it.",
        show_default=False,
    ),
]


_DURATION = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def selection(
    *,
    since: str | None = None,
    until: str | None = None,
    failed: bool = False,
    event: Sequence[str] | None = None,
    limit: int | None = None,
) -> Where | None:
    """Return the filter that the options choose, None if they choose everything. Raises ``ConfigurationError``."""
    from ..replay import event_types, failed_only
    from ..replay import limit as at_most
    from ..replay import since as from_then_on
    from ..replay import until as before

    chosen: list[Where] = []
    if since is not None:
        chosen.append(from_then_on(moment(since, "--since")))
    if until is not None:
        chosen.append(before(moment(until, "--until")))
    if failed:
        chosen.append(failed_only())
    if event:
        chosen.append(event_types(*event))
    if limit:
        chosen.append(at_most(limit))
    if not chosen:
        return None
    found = chosen[0]
    for each in chosen[1:]:
        found = found & each
    return found


def moment(text: str, name: str) -> datetime | timedelta:
    """Return a length of time before now, or a date. Raises ``ConfigurationError``."""
    try:
        found = _DURATION.fullmatch(text)
        return _length(found) if found is not None else _date(text)
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{name} must be a length of time such as 2d, 12h or 90m, or a date, not {text!r}"
        ) from None


def duration(text: str, name: str) -> timedelta:
    """Return a length of time. Raises ``ConfigurationError``."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ConfigurationError(f"{name} must be a length of time such as 30s, 15m, 12h or 2d, not {text!r}")
    return _length(found)


def _length(found: re.Match[str]) -> timedelta:
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _date(text: str) -> datetime:
    read = datetime.fromisoformat(text)
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)


App = Annotated[
    str,
    typer.Option(
        "--receiver",
        metavar="MODULE:RECEIVER",
        help="Where the WebhookReceiver is, such as service.hooks:receiver; or an async context manager that makes it.",
    ),
]


@asynccontextmanager
async def open_receiver(place: str) -> AsyncIterator[WebhookReceiver]:
    """Import a receiver from a module of the current folder, or of the environment.

    Raises ``ConfigurationError`` where there is none.
    """
    from ..receiver import WebhookReceiver

    found = _load(place)
    if callable(found) and not isinstance(found, WebhookReceiver):
        found = found()
    if isinstance(found, WebhookReceiver):
        try:
            yield found
        finally:
            await found.aclose()
            close = getattr(found.inbox, "aclose", None)
            if close is not None:
                await close()
        return
    if not isinstance(found, AbstractAsyncContextManager):
        raise ConfigurationError(f"{place!r} is a {type(found).__name__}, not a WebhookReceiver")
    async with found as made:
        if not isinstance(made, WebhookReceiver):
            raise ConfigurationError(f"{place!r} makes a {type(made).__name__}, not a WebhookReceiver")
        yield made


def _load(place: str) -> object:
    name, colon, attribute = place.partition(":")
    if not colon or not name or not attribute:
        raise ConfigurationError(f"a receiver is named module:variable, such as service.hooks:receiver, not {place!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: object = importlib.import_module(name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ConfigurationError(f"{place!r} cannot be imported: {exc}") from exc
    return found


async def expand_event_types(basiq: BasiqClient, given: Sequence[str]) -> list[str]:
    """Return the types that were given, in the place of a beginning such as ``consent.*`` those that Basiq has.

    Raises ``ConfigurationError`` for a name that is not an event type, and for a pattern that none matches.
    """
    if not any(each not in EVENT_TYPES for each in given):
        return list(given)
    known = await _ask(basiq)
    _require_known(given, known)
    found = [name for each in given for name in ([each] if not each.endswith("*") else _beginning(each, known))]
    return list(dict.fromkeys(found))


async def check_event_types(basiq: BasiqClient, given: Sequence[str] | None) -> None:
    """Raise ``ConfigurationError`` for a name that is not an event type, or a pattern that none matches."""
    if any(not _is_known(each, EVENT_TYPES) for each in given or ()):
        _require_known(given or (), {*EVENT_TYPES, *await _ask(basiq)})


def check_documented(given: Iterable[str] | None, advice: str = "") -> None:
    """Like ``check_event_types``, without asking Basiq: only the documented event types are known."""
    _require_known(given or (), EVENT_TYPES, advice)


def name_nearest(name: str, known: Iterable[str]) -> str:
    """Return ``(did you mean ...?)`` with the nearest of the known names; empty if none is near."""
    nearest = get_close_matches(name, list(known), n=1)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""


async def _ask(basiq: BasiqClient) -> list[str]:
    return [each.id async for each in basiq.event_types.list()]


def _beginning(pattern: str, known: Iterable[str]) -> list[str]:
    return [name for name in known if name.startswith(pattern[:-1])]


def _is_known(given: str, known: Iterable[str]) -> bool:
    if given.endswith("*"):
        return (given == "*" or given.endswith(".*")) and bool(_beginning(given, known))
    return given in known


def _require_known(given: Iterable[str], known: Iterable[str], advice: str = "") -> None:
    beginnings = {"*", *(name.partition(".")[0] + ".*" for name in known)}
    wrong = [
        f"{each!r} is not {'the beginning of any type' if each.endswith('*') else 'a type'} of event"
        + name_nearest(each, beginnings if each.endswith("*") else known)
        for each in given
        if not _is_known(each, known)
    ]
    if wrong:
        raise ConfigurationError(f"{', '.join(wrong)}; 'basiq-async events types' lists them{advice}")


class SecretFile:
    """A new file that is open already, so that a secret that exists once only has a place to go."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self.written = False

    def write(self, secret: Secret) -> None:
        """Write the secret, durably."""
        try:
            os.write(self._descriptor, secret.reveal().encode())
            os.fsync(self._descriptor)
        except OSError as exc:
            raise ConfigurationError(
                f"the secret could not be written to {str(self._path)!r}: {exc.strerror}; "
                "'basiq-async webhooks secret' shows it again"
            ) from None
        self.written = True


@contextmanager
def new_secret_file(path: Path | None) -> Iterator[SecretFile | None]:
    """Create the file, for its owner alone. One that nothing was written to is removed again.

    Raises ``ConfigurationError`` where it exists already, as a link too, or cannot be made.
    """
    if path is None:
        yield None
        return
    try:
        descriptor = open_new(path)
    except FileExistsError:
        raise ConfigurationError(f"{str(path)!r} exists already; name a new file for the secret") from None
    except OSError as exc:
        raise ConfigurationError(f"{str(path)!r} cannot be made for the secret: {exc.strerror}") from None
    except ValueError:
        raise ConfigurationError("the name of the file for the secret holds a null character") from None
    file = SecretFile(path, descriptor)
    try:
        yield file
    finally:
        os.close(descriptor)
        if not file.written:
            with contextlib.suppress(OSError):
                path.unlink()


def read_secrets(file: Path | None, given: list[str] | None = None) -> list[str]:
    """Return the signing secrets: those given and one a line of the file, else the environment's.

    ``given`` may be what the environment has, as typer passes it: a file that is named comes before that. Raises
    ``ConfigurationError`` where there is none, or the file cannot be read.
    """
    if given and file is None:
        return given
    found = _read_text(file)
    if isinstance(found, ConfigurationError):
        del given  # this frame may be in a traceback
        raise found
    if file is not None and not found.strip():
        raise ConfigurationError(f"--secret-file {str(file)!r} is empty")
    named = given if given and given != os.environ.get(SECRET_VARIABLE, "").split() else []
    secrets = [*named, *found.split()]
    if not secrets:
        raise ConfigurationError(
            f"the endpoint's signing secret is needed, in {SECRET_VARIABLE} or in a --secret-file; "
            "'basiq-async webhooks secret' shows it again"
        )
    return secrets


def _read_text(file: Path | None) -> str | ConfigurationError:
    try:
        return os.environ.get(SECRET_VARIABLE, "") if file is None else file.read_text(encoding="utf-8")
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
        return ConfigurationError(f"--secret-file {str(file)!r} cannot be read: {reason}")
