"""Options of several commands, their completion in a shell, and what reads them: times, event types, files, secrets."""

from __future__ import annotations

import operator
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import attrs
import typer

from .._arguments import EVENT_TYPES, UnknownEventTypeWarning, check_positive, describe_unknown, match_event_types
from .._redaction.text import shell_line
from .._redaction.tracebacks import UnshownText, hide_arguments
from .._wire.hosts import show_url
from ..errors import ConfigurationError
from ._output import session, write_lines
from ._settings import names
from ._shell import PROGRAM, command_line

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..replay import Where

SECRET_VARIABLE = "BASIQ_WEBHOOK_SECRET"  # noqa: S105  # the name of a variable, not a secret


def option(help: str | None = None, *names: str, **more: Any) -> Any:
    """Return an option without a default that help could show, or a flag. Its help may be in the docstring."""
    return typer.Option(*names, help=help, show_default=False, **more)


SECONDS = {"unit": "of seconds"}
"""The metadata of an option that is a length of time."""


def above_zero(_: object, field: attrs.Attribute[Any], value: float | None) -> None:
    """Check an option that is a finite number above 0, or None. Raises ``ConfigurationError``."""
    if value is not None:
        check_positive(field.name, value, field.metadata.get("unit", ""))


# --- completion ---

_VARIABLE = "_BASIQ_ASYNC_COMPLETE"
# Completed values are put on the shell's line, and zsh evaluates them. Only names that match this pattern are given.
_PROFILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_FOR_BARE_ZSH = """\
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }
"""


def completion(
    shell: Annotated[str, typer.Argument(help="bash, zsh or fish.", autocompletion=lambda: ["bash", "zsh", "fish"])],
) -> None:
    """Print the completion script of a shell.

    bash: eval "$(basiq-async completion bash)" in ~/.bashrc; zsh: eval "$(basiq-async completion zsh)" in ~/.zshrc;
    fish: basiq-async completion fish > ~/.config/fish/completions/basiq-async.fish
    """
    if shell not in ("bash", "zsh", "fish"):
        raise ConfigurationError(f"the shell must be bash, zsh or fish, not {shell!r}")
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # re-exported without __all__

    script = get_completion_script(prog_name=PROGRAM, complete_var=_VARIABLE, shell=shell)  # nosec B604  # a shell's name
    write_lines((_FOR_BARE_ZSH + script if shell == "zsh" else script).splitlines())


def prepare_completion() -> bool:
    """Register the completion classes of typer, if a shell runs this process to get completions. Return whether."""
    if not os.environ.get(_VARIABLE):
        return False
    from typer.completion import completion_init  # type: ignore[attr-defined]  # the same

    completion_init()
    return True


def complete_event_type(incomplete: str) -> list[str]:
    """Complete an event type."""
    return [name for name in EVENT_TYPES if name.startswith(incomplete)]


def complete_profile(incomplete: str) -> list[str]:
    """Complete the name of a profile."""
    with suppress(ConfigurationError):
        return [name for name in names() if name.startswith(incomplete) and _PROFILE.fullmatch(name)]
    return []


# --- options ---

JsonOption = Annotated[
    str | None,
    option(
        "Print JSON lines, as in a pipe; errors are JSON too. --json=id,status prints only these fields.",
        metavar="[=FIELDS]",
    ),
]
LimitOption = Annotated[
    int | None,
    option("Show only the newest N; 0 for all. By default 50 in a terminal, all in a pipe.", min=0, metavar="N"),
]
IN_A_TERMINAL = 50
"""The number of items that a terminal shows of a list, without --limit."""
OldestOption = Annotated[
    int | None,
    option("Show only the oldest N; 0 for all. By default 50 in a terminal, all in a pipe.", min=0, metavar="N"),
]
RawOption = Annotated[bool, option("Show the API's own JSON.", "--raw")]
FailedOption = Annotated[bool, option("Only messages without a successful attempt.", "--failed")]
FilterOption = Annotated[str | None, option("A filter in Basiq's syntax, which Basiq applies.")]
YesOption = Annotated[bool, option("Do not ask. Needed without a terminal.", "--yes", "-y")]
WebhookId = Annotated[str, typer.Argument(help="The webhook's id.")]
LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR"],
    typer.Option(case_sensitive=False, help="The lowest level that is logged; DEBUG is for this package alone."),
]
EndpointSecretFile = Annotated[
    Path | None,
    option(f"The file with the endpoint's signing secret. By default, {SECRET_VARIABLE} is used."),
]


# --- times ---

_DURATION = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)
_WHOLE_SECOND = timedelta(seconds=1)
"""Basiq's clock is read from a header, which has whole seconds."""
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@attrs.frozen(kw_only=True, slots=False)  # with slots, it could not be one of two base classes
class Selection:
    """What is selected of events, or of messages.

    since TIME: Only what was first sent, or happened, at this time or later: a date, or how long ago (2d, 90m).
    until TIME: Only those from before this time, written as for --since.
    event: Only these event types, such as user.created or consent.*; may be repeated.
    """

    since: str | None = None
    until: str | None = None
    event: Annotated[list[str] | None, option(autocompletion=complete_event_type)] = None

    async def read(self, basiq: BasiqClient, *, failed: bool = False, limit: int = 0) -> Where | None:
        """Return the filter for the options; None if they select everything. Raises ``ConfigurationError``."""
        await check_event_types(basiq, self.event)
        first = await read_moment(basiq, self.since, "--since")
        end = await read_moment(basiq, self.until, "--until")
        if not (first or end or failed or self.event or limit):
            return None
        from .. import replay  # only here, because it is slow to import

        chosen: list[Where] = []
        if first is not None:
            chosen.append(replay.since(first))
        if end is not None:
            chosen.append(replay.until(end))
        if failed:
            chosen.append(replay.failed_only())
        if self.event:
            with warnings.catch_warnings():  # Basiq's own list has them
                warnings.simplefilter("ignore", UnknownEventTypeWarning)
                chosen.append(replay.event_types(*self.event))
        if limit:
            chosen.append(replay.limit(limit))
        return reduce(operator.and_, chosen)


async def read_moment(basiq: BasiqClient, text: str | None, name: str) -> datetime | None:
    """Parse a date, or a length of time that is counted back from now. Now is by Basiq's clock: it costs one request.

    Raises ``ConfigurationError``, also for a moment in the future.
    """
    if text is None:
        return None
    found = _parse_moment(text, name)
    await basiq.event_types.list().first()
    now = basiq._api.now()
    try:
        moment = (now - found).replace(microsecond=0) if isinstance(found, timedelta) else found
    except OverflowError:
        raise ConfigurationError(f"{name} is too long ago: {text!r}") from None
    if moment > now + _WHOLE_SECOND:
        raise ConfigurationError(f"{name} is in the future: by Basiq's clock it is {now:%Y-%m-%d %H:%M:%S} UTC")
    return moment


def _parse_moment(text: str, name: str) -> datetime | timedelta:
    try:
        if _DURATION.fullmatch(text):
            return duration(text, name)
        found = datetime.fromisoformat(text)
        return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{name} must be a length of time such as 2d, 12h or 90m, or a date, not {text!r}"
        ) from None


def duration(text: str, name: str) -> timedelta:
    """Parse a duration such as 15m. Raises ``ConfigurationError``."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ConfigurationError(f"{name} must be a length of time such as 30s, 15m, 12h or 2d, not {text!r}")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


# --- event types ---


async def expand_event_types(basiq: BasiqClient, given: Sequence[str]) -> list[str]:
    """Return event types. A pattern such as ``consent.*`` is replaced by all of Basiq's event types that match it.

    Raises ``ConfigurationError`` for a name that is not an event type, and for a pattern that matches none.
    """
    if set(given) <= set(EVENT_TYPES):
        return list(given)
    known = [each.id async for each in basiq.event_types.list()]
    check_known(given, known)
    return list(dict.fromkeys(name for each in given for name in match_event_types(each, known)))


async def check_event_types(basiq: BasiqClient, given: Sequence[str] | None) -> None:
    """Raise ``ConfigurationError`` for a name that is not an event type, and for a pattern that matches none."""
    if not all(match_event_types(each) for each in given or ()):
        check_known(given, [*EVENT_TYPES, *[each.id async for each in basiq.event_types.list()]])


def check_known(given: Iterable[str] | None, known: Sequence[str] = EVENT_TYPES, advice: str = "") -> None:
    """Check event types as ``check_event_types`` does, by default against the documented ones, without a request."""
    wrong = describe_unknown(given or (), known)
    if wrong:
        raise ConfigurationError(f"{', '.join(wrong)}; 'basiq-async events types' lists all types{advice}")


# --- lines for a shell ---


def program_line(command: str, *arguments: str, options: Mapping[str, object] | None = None) -> str:
    """Return a line for a shell that runs a command of this program, with the profile or base URL of this one."""
    return command_line(command, *arguments, options=options).replace(PROGRAM, shell_line(_this_program()), 1)


def help_line(words: Sequence[str]) -> str:
    """Return a command that helps with a problem as a line for a shell, with the profile or base URL of this one."""
    return shell_line([*_this_program(), *words[1:]])


def _this_program() -> list[str]:
    profile = session().profile
    if profile is None and not os.environ.get("BASIQ_API_KEY"):
        profile = os.environ.get("BASIQ_PROFILE")
    if profile:
        return [PROGRAM, "--profile", profile]
    base_url = session().base_url or os.environ.get("BASIQ_BASE_URL")
    return [PROGRAM, "--base-url", show_url(base_url)] if base_url else [PROGRAM]


# --- files and secrets ---


def explain(exc: OSError | ValueError) -> str:
    """Return why a file could not be opened, read or written. The text holds nothing of what is in the file."""
    if isinstance(exc, OSError):
        return exc.strerror or type(exc).__name__
    return "it is not text" if isinstance(exc, UnicodeError) else "its name holds a null character"


def read_file(path: str | Path, what: str) -> bytes:
    """Return the bytes of a file, of which an error says ``what`` it is. Raises ``ConfigurationError``."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"{what} {str(path)!r} cannot be read: {explain(exc)}") from None


@hide_arguments
def read_secrets(file: Path | None) -> list[str]:
    """Return the signing secrets of ``--secret-file``, or else of the environment, separated by spaces or lines.

    Raises ``ConfigurationError`` if there are no secrets, or the file cannot be read.
    """
    if file is None:
        secrets = os.environ.get(SECRET_VARIABLE, "").split()
    else:
        from .._signing.secret_file import read_lines

        lines = read_lines(UnshownText(read_file(file, "--secret-file").decode("latin-1")), datetime.now(UTC))
        secrets = [secret.reveal() for secret, _ in lines]
    if not secrets and file is not None:
        raise ConfigurationError(f"--secret-file {str(file)!r} is empty")
    if not secrets:
        raise ConfigurationError(
            f"the endpoint's signing secret is needed, in {SECRET_VARIABLE} or in a --secret-file; "
            "'basiq-async webhooks secret' shows it again"
        )
    return secrets
