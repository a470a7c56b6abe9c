"""Options and arguments of several commands, and functions that read them: times, event types, secrets."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .._arguments import EVENT_TYPES
from .._redaction.text import PROGRAM, command_line, shell_line
from .._storage.private_files import open_new
from ..errors import ConfigurationError
from ._completion import event_types, option, webhook_ids
from ._output import session

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..models import Secret
    from ..replay import Where


SECRET_VARIABLE = "BASIQ_WEBHOOK_SECRET"  # noqa: S105  # the name of a variable, not a secret

Json = Annotated[
    str | None,
    option(
        "Print JSON lines, as in a pipe; errors are JSON too. --json=id,status prints only these fields.",
        "--json",
        metavar="[=FIELDS]",
    ),
]
Limit = Annotated[
    int | None,
    option("Show only the newest N; 0 for all. By default 50 in a terminal, all in a pipe.", min=0, metavar="N"),
]
Raw = Annotated[bool, option("Show the API's own JSON.", "--raw")]
Filter = Annotated[str | None, option("A filter in Basiq's syntax, which Basiq applies.")]
Since = Annotated[
    str | None,
    option(
        "Only what was first sent, or happened, at this time or later: a date, or 2d or 90m ago.",
        "--since",
        metavar="TIME",
    ),
]
Until = Annotated[
    str | None,
    option(
        "Only what was first sent, or happened, before this time, written as for --since.", "--until", metavar="TIME"
    ),
]
Failed = Annotated[bool, option("Only messages without a successful attempt.", "--failed")]
EventPattern = Annotated[
    list[str] | None,
    option(
        "Only these event types, such as user.created or consent.*; may be repeated.",
        "--event",
        autocompletion=event_types,
    ),
]
Yes = Annotated[bool, option("Do not ask. Needed without a terminal.", "--yes", "-y")]
WebhookId = Annotated[str, typer.Argument(help="The webhook's id.", autocompletion=webhook_ids)]
EndpointSecretFile = Annotated[
    Path | None,
    option(f"The file with the endpoint's signing secret. By default, {SECRET_VARIABLE} is used.", "--secret-file"),
]


_DURATION = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def selection(
    *,
    since: str | datetime | None = None,
    until: str | datetime | None = None,
    failed: bool = False,
    event: Sequence[str] | None = None,
    limit: int | None = None,
) -> Where | None:
    """Return the filter for the options; None if they select everything. Raises ``ConfigurationError``."""
    from ..replay import event_types, failed_only
    from ..replay import limit as at_most
    from ..replay import since as from_then_on
    from ..replay import until as before

    chosen: list[Where] = []
    if since is not None:
        chosen.append(from_then_on(moment(since, "--since") if isinstance(since, str) else since))
    if until is not None:
        chosen.append(before(moment(until, "--until") if isinstance(until, str) else until))
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


async def selection_at_basiq(
    basiq: BasiqClient, *, since: str | None = None, until: str | None = None, failed: bool = False,
    event: Sequence[str] | None = None,
) -> Where | None:  # fmt: skip
    """Return the filter for the options, with times such as ``2d`` counted back by Basiq's clock."""
    first = await moment_at_basiq(basiq, since, "--since")
    end = await moment_at_basiq(basiq, until, "--until")
    return selection(since=first, until=end, failed=failed, event=event)


async def moment_at_basiq(basiq: BasiqClient, text: str | None, name: str) -> datetime | None:
    """Parse a date, or a duration, which is counted back by Basiq's clock: it costs one request."""
    found = None if text is None else moment(text, name)
    if isinstance(found, timedelta):
        await basiq.event_types.list().first()
        return basiq._now() - found
    return found


def moment(text: str, name: str) -> datetime | timedelta:
    """Parse a duration, which is counted back from now, or a date. Raises ``ConfigurationError``."""
    try:
        found = _DURATION.fullmatch(text)
        return _length(found) if found is not None else _date(text)
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{name} must be a length of time such as 2d, 12h or 90m, or a date, not {text!r}"
        ) from None


def duration(text: str, name: str) -> timedelta:
    """Parse a duration such as 15m. Raises ``ConfigurationError``."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ConfigurationError(f"{name} must be a length of time such as 30s, 15m, 12h or 2d, not {text!r}")
    return _length(found)


def _length(found: re.Match[str]) -> timedelta:
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _date(text: str) -> datetime:
    read = datetime.fromisoformat(text)
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)


async def expand_event_types(basiq: BasiqClient, given: Sequence[str]) -> list[str]:
    """Return event types. A pattern such as ``consent.*`` is replaced by all of Basiq's event types that match it.

    Raises ``ConfigurationError`` for a name that is not an event type, and for a pattern that matches none.
    """
    if not any(each not in EVENT_TYPES for each in given):
        return list(given)
    known = await _ask(basiq)
    _require_known(given, known)
    found = [name for each in given for name in ([each] if not each.endswith("*") else _beginning(each, known))]
    return list(dict.fromkeys(found))


async def check_event_types(basiq: BasiqClient, given: Sequence[str] | None) -> None:
    """Raise ``ConfigurationError`` for a name that is not an event type, and for a pattern that matches none."""
    if any(not _is_known(each, EVENT_TYPES) for each in given or ()):
        _require_known(given or (), {*EVENT_TYPES, *await _ask(basiq)})


def check_documented(given: Iterable[str] | None, advice: str = "") -> None:
    """Check event types as ``check_event_types`` does, but only against the documented ones, without a request."""
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
        f"{each!r} {'matches no event type' if each.endswith('*') else 'is not an event type'}"
        + name_nearest(each, beginnings if each.endswith("*") else known)
        for each in given
        if not _is_known(each, known)
    ]
    if wrong:
        raise ConfigurationError(f"{', '.join(wrong)}; 'basiq-async events types' lists all types{advice}")


def program_line(command: str, *arguments: str, options: Mapping[str, object] | None = None) -> str:
    """Return a line for a shell that runs a command of this program, with the profile of this invocation."""
    line = command_line(command, *arguments, options=options)
    profile = session().profile
    if profile is None:
        return line
    return line.replace(PROGRAM, shell_line([PROGRAM, "--profile", profile]), 1)


class SecretFile:
    """A new file for a secret. It is opened before the request, because Basiq sends the secret only once."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self.written = False

    def write(self, secret: Secret) -> None:
        """Write the secret and flush it to the disk. Raises ``ConfigurationError`` if that fails."""
        try:
            os.write(self._descriptor, secret.reveal().encode() + b"\n")
            os.fsync(self._descriptor)
        except OSError as exc:
            raise ConfigurationError(
                f"the secret could not be written to {str(self._path)!r}: {exc.strerror}; "
                "'basiq-async webhooks secret' shows it again"
            ) from None
        self.written = True


@contextmanager
def new_secret_file(path: Path | None) -> Iterator[SecretFile | None]:
    """Create a file that only its owner can read, and remove it at the end if no secret was written.

    Raises ``ConfigurationError`` if the file (or a link of this name) exists, or cannot be created.
    """
    if path is None:
        yield None
        return
    try:
        descriptor = open_new(path)
    except FileExistsError:
        raise ConfigurationError(f"{str(path)!r} exists already; name a new file for the secret") from None
    except OSError as exc:
        raise ConfigurationError(f"the file {str(path)!r} for the secret cannot be created: {exc.strerror}") from None
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
    """Return the signing secrets of the options ``--secret`` and ``--secret-file``, or else of the environment.

    ``given`` holds the secrets of ``--secret``. typer fills it from the environment if the option is missing; the
    environment's secrets are not used if a file is named. Raises ``ConfigurationError`` if there are no secrets, or the
    file cannot be read.
    """
    if given and file is None:
        return given
    found = _read_text(file)
    if isinstance(found, ConfigurationError):
        del given  # this frame may be in a traceback
        raise found
    if file is not None and not found.strip():
        raise ConfigurationError(f"--secret-file {str(file)!r} is empty")
    if file is not None and any(len(line.split()) > 1 for line in found.splitlines()):
        del given, found
        raise ConfigurationError(f"--secret-file {str(file)!r} has several words in a line: write one secret in a line")
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
