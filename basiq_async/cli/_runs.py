"""What ``replay``, ``recover`` and ``quarantine retry`` share: options, what is shown meanwhile, and how a run ends."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Self, TypeVar

import attrs
import typer

from .._redaction.text import amount
from .._wire.hosts import show_place
from .._work.failures import failure_text
from ..errors import BasiqError, ConfigurationError, JobInUseError
from ._inboxes import (
    INBOX_TIMEOUT,
    ReceiverOption,
    ToOption,
    check_webhook_ids,
    first_of,
    inbox_file_of,
    open_inbox,
    open_receiver,
)
from ._lines import Words
from ._options import SECONDS, EndpointSecretFile, WebhookId, above_zero, program_line, read_moment, read_secrets
from ._output import live, say, session
from ._problems import note_target
from ._results import Row, count_details
from ._run import stopping

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..models import Message
    from ..receiver import Inbox, WebhookReceiver
    from ..replay import Progress, RecoveryRun, Replay, Target

T = TypeVar("T")

_NOT_SHOWN = frozenset({"in_flight", "remaining", "eta", "paused", "reason", "down", "pages_left"})
"""What a progress has beyond a report."""


@attrs.frozen(kw_only=True)
class RunOptions:
    """The options of a replay and of a recovery.

    inbox URL|FILE: With --to: the inbox that records what was posted; by default a file that is named after the webhook
        and the target.
    job NAME: With --to: names the record of what was posted in place of the URL, if a key in its query changes.
    concurrency: Maximum messages under way at once.
    rate: Maximum messages per second.
    max_pause N: Stop when the target has been down, or asks for a pause, for N seconds.
    """

    command: ClassVar[str]
    once: ClassVar[frozenset[str]] = frozenset({"webhook_id"})
    """The fields that are not repeated in the line that continues the run, or are not options."""

    webhook_id: WebhookId
    to: ToOption = None
    receiver: ReceiverOption = None
    inbox: str | None = None
    job: str | None = None
    concurrency: Annotated[int, typer.Option(min=1)] = 32
    rate: float | None = attrs.field(default=None, validator=above_zero)
    max_pause: float = attrs.field(default=3_600.0, validator=above_zero, metadata=SECONDS)
    secret_file: EndpointSecretFile = None

    async def fix_moments(self, basiq: BasiqClient) -> Self:
        """Return these options with moments in place of lengths of time, which would be others when it is continued."""
        moments: dict[str, Any] = {}
        for name in ("since", "until", "acknowledged"):
            moment = await read_moment(basiq, getattr(self, name, None), f"--{name}")
            if moment is not None:
                moments[name] = moment.isoformat()
        return attrs.evolve(self, **moments)

    def line(self) -> str:
        """Return the line that continues the run. An option that has its default is left out."""
        options: dict[str, object] = {
            "--" + field.name.replace("_", "-"): _shown(field.name, value)
            for field in attrs.fields(type(self))
            if field.name not in self.once and (value := getattr(self, field.name)) != field.default
        }
        return program_line(self.command, self.webhook_id, options={**options, "--json": session().json})

    def show_line(self, introduction: str = "to continue:") -> None:
        """Show the line that continues the run on standard error."""
        show_line(
            introduction, self.line(), has_full_urls=all(_is_shown_in_full(each) for each in (self.to, self.inbox))
        )

    def show_retry(self, count: int, at_service: int = 0, *, said: bool = False) -> None:
        """Show the line that tries again what is in the quarantine, and that for what failed at the service.

        said: whether it was said already what is in the quarantine.
        """
        if at_service:
            show_at_service(at_service)
        if not count:
            return
        is_posted = self.receiver is None
        options = {
            "--receiver": self.receiver,
            "--to": _shown("to", self.to),
            "--job": self.job,
            "--inbox": _shown("inbox", self.inbox),
            "--webhook": self.webhook_id if is_posted else None,
            "--secret-file": self.secret_file if is_posted else None,
        }
        show_line(
            "run:"
            if said
            else amount(count, "message or delivery is", "messages or deliveries are")
            + " in the quarantine; try again with:",
            program_line("quarantine retry", options=options),
            has_full_urls=all(_is_shown_in_full(each) for each in (self.to, self.inbox)),
        )


def show_at_service(count: int) -> None:
    """Show the line that tries again what failed at the service: only its receiver can."""
    what = amount(count, "delivery failed at the service, and is", "deliveries failed at the service, and are")
    show_line(
        f"{what} in its quarantine; its receiver tries again:",
        program_line("quarantine retry", options={"--receiver": "MODULE:RECEIVER"}),
    )


def show_line(introduction: str, line: str, *, has_full_urls: bool = True) -> None:
    """Show a line that helps on standard error. ``has_full_urls``: whether it has each URL as it was given."""
    if not has_full_urls:
        introduction = f"{introduction.removesuffix(':')} (put back what is not shown of its URL):"
    if session().json:
        say(introduction, command=line)
    else:
        say(introduction)
        say("  " + line)


def _shown(name: str, value: object) -> object:
    """Return a value of an option. A query or a password in a URL, which can be a key, is not shown."""
    return show_place(value) if isinstance(value, str) and name in ("to", "inbox") else value


def _is_shown_in_full(place: str | None) -> bool:
    return place is None or show_place(place) == place


def check_places(options: Any, targets: Mapping[str, str | None]) -> None:
    """Check what needs neither Basiq nor the target. Raises ``ConfigurationError``.

    Exactly one target must be named, and ``--inbox`` only for ``--to``.
    """
    if sum(each is not None for each in targets.values()) != 1:
        raise ConfigurationError(f"name the target with one of {' or '.join(targets)}")
    if options.inbox is not None and options.to is None:
        raise ConfigurationError("--inbox is for --to: a receiver has its own inbox, and a file is its own record")
    check_webhook_ids(getattr(options, "webhook_id", getattr(options, "webhook", None)))
    if options.secret_file is not None:
        read_secrets(options.secret_file)


async def open_target(
    stack: AsyncExitStack,
    webhook_id: str | None,
    options: Any,
    *,
    concurrency: int = 32,
    write: bool = True,
    once: bool = False,
) -> tuple[Target | WebhookReceiver, Inbox | None]:
    """Open the target that the options name, and the record of what is posted to it. A receiver has its own.

    write: whether it must be possible to write to the record: a full disk then ends the run before it begins.
    once: whether each message is posted with one attempt.
    """
    from .._work.limits import inbox_limit
    from ..replay import HttpTarget
    from ..transports.retry import RetryPolicy

    if options.to is None:
        receiver = await stack.enter_async_context(open_receiver(options.receiver or "", webhook_id, make=write))
        if write:
            async with inbox_limit(INBOX_TIMEOUT):
                await receiver.inbox.check()
        return receiver, None
    if "?…" in options.to:
        raise ConfigurationError("put back what is not shown of --to: a URL of a line that helps ends before its query")
    secrets = read_secrets(options.secret_file)
    retry = RetryPolicy(max_retries=0) if once else None
    target = HttpTarget(options.to, secrets, name=options.job, retry=retry, connections=concurrency)
    place = options.inbox or inbox_file_of(first_of(webhook_id or ""), options.job or options.to)
    inbox = await stack.enter_async_context(open_inbox(place, make=True))
    await note_target(inbox, options.to, options.job)
    return await stack.enter_async_context(target), inbox


def tell_refusals(target: object, basiq: BasiqClient) -> None:
    """Say it if an endpoint has responded 401 to all that was posted: this clock is wrong, or the secret is."""
    from ..replay import HttpTarget
    from ..services.problems import find_clock_problem

    if isinstance(target, HttpTarget) and (refusal := target._explain_refusals()) is not None:
        clock = find_clock_problem(basiq._api.clock_lead())
        say(f"{refusal}; --secret-file names the service's secret" if clock is None else clock.text)


def tell_not_handled(options: RunOptions, counts: Mapping[str, int]) -> None:
    """Say what a service has acknowledged and not handled, by its own responses, and how it is handled again."""
    if options.to is None:
        return
    if count := counts.get("duplicate", 0):
        what = amount(
            count, "message was a duplicate: the service knows it", "messages were duplicates: the service knows them"
        )
        named = {"--receiver": "MODULE:RECEIVER", "--again": "NAME"}
        show_line(
            f"{what}, and has handled nothing again. Its own receiver does, with a selection such as --since 2d:",
            program_line("replay", options.webhook_id, options=named),
        )
    if count := counts.get("ignored", 0):
        say(f"the service has no handler for {amount(count, 'message', 'messages')}, and has ignored them")


# --- what is shown of a run ---


def report_row(report: Progress, *, finished: bool | None = None) -> dict[str, Any]:
    """Return a report as JSON shows it. ``finished`` is for a run that ended before there was a report."""
    found = {name: value for name, value in attrs.asdict(report).items() if name not in _NOT_SHOWN}
    found["duration"], found["rate"] = round(report.duration, 1), round(report.rate, 1)
    return found if finished is None else {**found, "finished": finished}


def report_details(row: Row) -> Iterable[tuple[str, Any]]:
    """Yield the names and values of a report for people."""
    return count_details(row, "order")


def progress_text(now: Progress) -> str:
    """Return the progress of a run as text."""
    words = [f"{now.handled + now.failed + sum(now.skipped.values()):,} done"]
    if now.read_by_id:
        words.append(f"{now.read_by_id:,} read by id")
    if now.failed:
        words.append(f"{now.failed:,} failed")
    words.append(f"{now.rate:,.0f}/s")
    if now.paused:
        words.append(f"paused for {now.paused:.0f} s{f', down for {now.down:.0f} s' if now.down else ''}")
    return "  ".join(words)


@attrs.frozen
class _Counted:
    """A target whose errors are counted by their texts."""

    _inner: Target
    _errors: Counter[str]

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        try:
            return await self._inner.deliver(message)
        except Exception as exc:
            text = failure_text(exc, longest=_LONGEST_TEXT)
            if text in self._errors or len(self._errors) < _MOST_TEXTS:
                self._errors[text] += 1
            raise


_SAY_EVERY = 60.0
_MOST_TEXTS = 1_000
_LONGEST_TEXT = 300


class Watch:
    """Observes a run: shows its progress, and has it when the run ends, however it ends.

    A line says when the target stops and starts to respond, and once a minute what the run waits for.
    """

    def __init__(self) -> None:
        self.options: Any = None
        """The options of the run with moments in place of lengths of time; None before they are known."""
        self._errors = Counter[str]()
        self._run: Replay | RecoveryRun | None = None
        self.store: Words = ()
        """The words that name the file in which the service keeps its secrets."""
        self.lists: list[Progress] = []
        """The last progress for each list that was read."""
        self._down = False
        self._noted_at = 0.0

    def follow(self, run: Replay | RecoveryRun) -> None:
        """Observe this run."""
        self._run = run
        run._job.observe(self)

    def stop(self) -> bool:
        """Let the run begin no more messages. Return False if it has begun nothing, so that it can end at once."""
        if self._run is None or not self.lists:
            return False
        self._run.stop()
        return True

    # --- as an ``Observer`` ---

    def wrap(self, target: Target) -> Target:
        """Count the errors of the target."""
        from ..replay import BulkTarget

        return target if isinstance(target, BulkTarget) else _Counted(target, self._errors)

    def say_errors(self) -> None:
        """Say with which error most messages failed, if any did."""
        failed = sum(each.failed for each in self.lists)
        if failed and self._errors:
            say(f"{amount(failed, 'message', 'messages')} failed; most often: {self._errors.most_common(1)[0][0]}")

    def begin(self, source: str) -> None:
        """Begin with a list that is read: first the messages, then the events."""
        from ..replay import Progress

        self.lists.append(Progress())

    def on_progress(self, now: Progress) -> None:
        """Show the progress of the run."""
        self.lists[-1] = now
        down = bool(now.down)
        if down != self._down:
            self._down, self._noted_at = down, time.monotonic()
            if down:
                say(f"the target does not respond: {now.reason}; one message is tried in {math.ceil(now.paused)} s")
            else:
                say("the target responds again")
        elif now.paused and time.monotonic() - self._noted_at >= _SAY_EVERY:
            self._noted_at = time.monotonic()
            why = f"which has been down for {now.down:.0f} s" if down else "which asked for a pause"
            tried = f"the next message is tried in {math.ceil(now.paused)} s"
            say(f"waiting for the target, {why}: {now.reason}; {tried}")
        live(progress_text(now))


# --- how a run ends ---


@attrs.frozen
class RunEnd(Generic[T]):
    """The end of a run: its result, or the error that ended it. ``signal`` is that of a signal, or 0."""

    result: T | None
    error: Exception | None
    signal: int

    @property
    def early(self) -> bool:
        """Whether it ended before its end."""
        return self.result is None or self.signal != 0

    def exit(self, code: int) -> int:
        """Return the exit code: that of the signal, or ``code``. Raises the error."""
        if self.signal:
            return 128 + self.signal
        if self.error is not None:
            raise self.error
        return code


async def run_watched(watch: Watch, work: Callable[[], Awaitable[T]]) -> RunEnd[T]:
    """Do the work of a run, and return how it ended.

    At the first signal the messages under way are finished. A second one, or the first one while nothing has begun,
    ends it at once. Raises ``ConfigurationError`` and ``JobInUseError``: then there was no run.
    """
    result, error, signals = None, None, list[int]()
    try:
        with stopping(watch.stop) as signals:
            result = await work()
    except (ConfigurationError, JobInUseError):
        raise
    except (BasiqError, TimeoutError) as exc:
        error = exc
    except typer.Exit:  # a signal ended it at once
        pass
    finally:
        live(None)
    return RunEnd(result, error, signals[0] if signals else 0)
