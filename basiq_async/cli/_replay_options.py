"""Running a replay job: signals, the bar, the report, and the line that resumes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from .._redaction.text import command_line
from ..errors import ReplayError
from ._output import Output, Shape, cell_text, is_terminal, live, note, session
from ._run import stopping

if TYPE_CHECKING:
    from ..replay import Plan, Progress, Replay, Report
    from ._replay_page import Settle

_BAR = 24


class CommandLine:
    """The command that resumes a job: the options that were given, without those that are for one run alone."""

    def __init__(self, command: str, *arguments: str, options: Mapping[str, object]) -> None:
        self._command = command
        self._arguments = arguments
        self._options = dict(options)

    def text(self, *flags: str) -> str:
        """Return the line, quoted for a shell, with more flags."""
        return command_line(self._command, *self._arguments, options={**self._options, **dict.fromkeys(flags, True)})

    def show(self, *flags: str, introduction: str = "to go on:") -> None:
        """Show the line on standard error."""
        if session().json:
            note(introduction, command=self.text(*flags))
        else:
            note(introduction)
            note("  " + self.text(*flags))


def named_options(
    given: Mapping[str, object], names: Mapping[str, str] | None = None, defaults: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Return the options that are not as by default, by the names that they have on the line."""
    known, usual = names or {}, defaults or {}
    return {
        known.get(name, "--" + name.replace("_", "-")): value
        for name, value in given.items()
        if name not in usual or usual[name] != value
    }


async def run_job(
    job: Replay,
    work: Callable[[Callable[[Progress], None]], Awaitable[Report]],
    again: CommandLine,
    output: Output,
    *,
    going_on: tuple[str, ...] = (),
    settle: Settle | None = None,
) -> int:
    """Run to the end, show the report, return the exit code. The first signal finishes what is under way.

    ``settle`` returns the report that is shown.
    """
    import asyncio

    with stopping(job.stop) as stopped:
        try:
            report = await work(ProgressLine())
        except asyncio.CancelledError:
            if not stopped:
                raise
            live("")
            again.show(*going_on)
            return 128 + stopped[0]
        except ReplayError as exc:
            live("")
            if exc.report is not None:
                output.one(exc.report, REPORT)
                again.show(*going_on)
            raise
        finally:
            live("")
    if settle is not None:
        report = await settle(report, not stopped)
    output.one(report, REPORT)
    if stopped:
        again.show(*going_on)
        return 128 + stopped[0]
    return finish(report, again)


def finish(report: Report, again: CommandLine) -> int:
    """Say what is left; return 1 where something is."""
    for each in report.inactive:
        note(str(each))
    if report.dead:
        again.show("--retry-dead", introduction=f"{report.dead:,} messages failed and are kept; try them again with:")
        return 1
    if report.failed:
        note(f"{report.failed:,} messages failed")
        return 1
    return 0


class ProgressLine:
    """Shows how a run goes: a line in a terminal, and in every case a note when the target goes down and returns."""

    def __init__(self) -> None:
        self._down = False

    def __call__(self, now: Progress) -> None:
        """Show where the run stands."""
        if bool(now.down) != self._down:
            self._down = bool(now.down)
            if self._down:
                note(f"the target does not respond; waiting {now.paused:.0f} s, then one message is tried")
            else:
                note("the target responds again")
        live(progress_text(now))


def progress_text(now: Progress) -> str:
    """Return how a run goes: with a bar and the time left where a plan was made."""
    done = now.handled + now.failed + now.skipped
    words: list[str] = []
    if now.remaining is not None and done + now.remaining > 0:
        total = done + now.remaining
        words += [bar(done / total), f"{done:,}/{total:,}"]
    else:
        words.append(f"{done:,} done")
    if now.failed:
        words.append(f"{now.failed:,} failed")
    words.append(f"{now.rate:,.0f}/s")
    if now.paused:
        words.append(f"paused for {now.paused:.0f} s{f', down for {now.down:.0f} s' if now.down else ''}")
    elif now.eta is not None:
        words.append(f"{_clock(now.eta)} left")
    return "  ".join(words)


def bar(share: float) -> str:
    """Return a bar that is filled by a share from 0 to 1."""
    filled = round(max(0.0, min(1.0, share)) * _BAR)
    return "[" + "#" * filled + "." * (_BAR - filled) + "]"


async def make_plan(job: Replay, *, wanted: bool) -> Plan | None:
    """Make a plan first, in a terminal: it gives the bar its end."""
    import sys

    if not wanted or not is_terminal(sys.stderr) or session().json:
        return None
    live("counting the messages; --no-plan begins at once")
    try:
        return await job.plan()
    finally:
        live("")


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole >= 3600:
        return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"
    return f"{whole // 60}:{whole % 60:02}"


def report_row(report: Report) -> dict[str, Any]:
    """Return a report as JSON shows it."""
    row = attrs.asdict(report, recurse=False)
    row["duration"] = round(report.duration, 3)
    row["rate"] = round(report.rate, 1)
    row["inactive"] = _periods(report)
    return row


def _plan_row(plan: Plan) -> dict[str, Any]:
    row = attrs.asdict(plan, recurse=False)
    row["by_day"] = {str(day) if day else "unknown": count for day, count in plan.by_day.items()}
    row["inactive"] = _periods(plan)
    return row


def _periods(found: Report | Plan) -> list[dict[str, Any]]:
    return [{"since": period.since, "until": period.until} for period in found.inactive]


def _details(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if name == "cursor" or value is None or value == []:
            continue
        if name == "inactive":
            for period in value:
                yield "not active", f"{cell_text(period['since'])} to {cell_text(period['until']) or 'the end'}"
            continue
        for key, each in value.items() if isinstance(value, dict) else [("", value)]:
            yield f"{name.replace('_', ' ')} {key}".strip(), f"{each:,}" if type(each) is int else each


REPORT: Shape[Report] = Shape(
    (
        "handled", "skipped", "failed", "repeated", "duration", "cursor", "position", "finished", "dead",
        "handled_in_all", "inactive", "reach", "order", "rate",
    ),
    report_row,
    details=lambda report: _details(report_row(report)),
)  # fmt: skip
PLAN: Shape[Plan] = Shape(
    ("total", "by_type", "by_day", "skipped", "first", "last", "position", "dead", "inactive", "reach", "order"),
    _plan_row,
    details=lambda plan: _details(_plan_row(plan)),
)
