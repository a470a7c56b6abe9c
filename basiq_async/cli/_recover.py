"""``basiq-async recover``: what a service missed, as far as Basiq lists it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import attrs

from .._redaction.text import amount
from ..errors import ConfigurationError, NotFoundError
from ._command import command
from ._inboxes import find_secret_file
from ._lines import acknowledge_reach, acknowledge_until, count_everything, status_line
from ._options import option
from ._output import is_terminal, live, say, session
from ._problems import IF_HANDLED, problem_rows, show_head, show_problem, tell_passed_over
from ._results import Output, Row, View, as_row, count_details
from ._run import DONE, NO_ANSWER, WRONG, confirm, exit_code, make_client
from ._runs import (
    RunEnd,
    RunOptions,
    Watch,
    check_places,
    open_target,
    progress_text,
    report_row,
    run_watched,
    tell_not_handled,
)

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..receiver import Inbox
    from ..replay import Recovery
    from ..services.problems import Problem


@attrs.frozen(kw_only=True)
class RecoverOptions(RunOptions):
    """The options of a recovery."""

    command: ClassVar[str] = "recover"

    everything: Annotated[
        bool,
        option(
            "Include messages that Basiq delivered, and that the inbox need not know, and those of which it does not "
            "tell that.",
            "--everything",
        ),
    ] = False
    all_types: Annotated[
        bool, option("Include events of types that the webhook is not subscribed to.", "--all-types")
    ] = False
    acknowledged: Annotated[
        str | None,
        option("Accept that events before this time are unrecoverable: a date, or how long ago (9d).", metavar="WHEN"),
    ] = None
    unrecorded: Annotated[
        int | None,
        option(
            "Handle up to N messages that Basiq delivered and the inbox lacks, with --everything also those that it "
            "need not know, and none at all if there are more: another inbox may have handled them. A terminal is "
            "asked without it.",
            min=0,
            metavar="N",
        ),
    ] = None
    since: Annotated[
        str | None,
        option(
            "Leave out what happened before this time, now and later: a date, or how long ago (2d).", metavar="TIME"
        ),
    ] = None


_RECOVERY: View[Recovery] = View(
    "finished messages events unrecoverable status quarantined at_service waiting waiting_age passed_over "
    "before_joining unknown recent problems",
    messages=lambda found: report_row(found.messages),
    events=lambda found: None if found.events is None else report_row(found.events),
    unrecoverable=lambda found: [as_row(each) for each in found.unrecoverable],
    status=lambda found: found.webhook.status,
    waiting=lambda found: found.waiting.count,
    waiting_age=lambda found: found.waiting.age,
    problems=lambda found: [],  # a line depends on how the command was called
)


def _row(found: Recovery, watch: Watch) -> Row:
    problems = problem_rows(found.problems, lambda each: status_line(each, found.webhook, watch.store))
    return {**_RECOVERY.row(found), "problems": problems}


def _partial_row(watch: Watch) -> Row:
    """Return the row of a recovery that ended early: under the heading of each list, what was read of it."""
    lists = dict(zip(("messages", "events"), [report_row(each, finished=False) for each in watch.lists], strict=False))
    return {**dict.fromkeys(_RECOVERY.names), "finished": False, "unrecoverable": [], "problems": [], **lists}


def _details(row: Row) -> Iterable[tuple[str, Any]]:
    for source in ("messages", "events"):
        counts = {name: (row[source] or {}).get(name) for name in ("handled", "failed", "skipped")}
        yield from ((f"{source} {name}", value) for name, value in count_details(counts))
    yield "finished", row["finished"]


@command(shows=_RECOVERY)
async def recover(output: Output, options: RecoverOptions) -> int:
    """Recover what a service missed, as far as Basiq lists it: from the message history, then the events of 7 days.

    What the inbox knows is left out, and what is passed to the handler is recorded there: after an interruption, run
    the same line. Messages that Basiq delivered are passed over, unless the inbox would know them. The exit code is 1
    if something is left or unrecoverable, and 3 if that is only what Basiq does not tell.
    """
    check_places(options, {"--to": options.to, "--receiver": options.receiver})
    watch = Watch()
    ended = await run_watched(watch, lambda: _recover(options, watch))
    row = _partial_row(watch) if ended.result is None else _row(ended.result, watch)
    lines = _lines(watch.options or options, ended)
    if ended.result is not None and not output.as_json:
        _show_problems(ended.result, lines, watch)
    output.one(row, _RECOVERY, _details(row))
    watch.say_errors()
    for each in watch.lists:
        tell_not_handled(options, each.skipped)
    tell_passed_over(row["passed_over"] or 0, "this recovery passed over such messages")
    for show in lines.values():
        show()
    left = set() if ended.result is None else {each.code for each in ended.result.problems}
    only_unknown = bool(left) and left <= {"unknown", "unknown-activity"}
    return ended.exit(DONE if row["finished"] else NO_ANSWER if only_unknown else WRONG)


async def _ask_of_unrecorded(basiq: BasiqClient, options: RecoverOptions, target: object, inbox: Inbox | None) -> None:
    """Ask a person before messages that Basiq delivered are handled: another inbox may know them.

    Without a terminal, ``--unrecorded`` says how many there may be. Raises ``ConfigurationError`` if there are more.
    """
    from ..receiver import WebhookReceiver

    can_ask = sys.stdin is not None and is_terminal(sys.stdin) and is_terminal(sys.stderr)
    if options.unrecorded is None and not can_ask:
        return
    receiver = target if isinstance(target, WebhookReceiver) else None
    live("looking what would be passed to the handler")
    found = await basiq.webhooks.diagnose(
        options.webhook_id, receiver=receiver, inbox=inbox if receiver is None else None, max_items=None
    )
    live(None)
    count = count_everything(found) if options.everything else found.unrecorded
    if count <= (options.unrecorded or 0):
        return
    what, them = amount(count, "message was", "messages were"), "it" if count == 1 else "them"
    told = "delivered, or Basiq does not tell that" if options.everything and found.look.unknown else "delivered"
    text = f"{what} {told}, as Basiq says, and this inbox does not have {them}"
    if options.unrecorded is not None:
        raise ConfigurationError(
            f"{text}: more than --unrecorded {options.unrecorded} allows, so nothing was passed to the handler"
        )
    elsewhere = "what another inbox has handled (another region, a copy, a move) is handled again"
    confirm(f"{text}; {elsewhere}. Pass all to the handler?", yes=False)


async def _recover(options: RecoverOptions, watch: Watch) -> Recovery:
    from ..replay import recover as recover_missed

    async with AsyncExitStack() as stack:
        basiq = await stack.enter_async_context(make_client())
        options = watch.options = await options.fix_moments(basiq)
        target, inbox = await open_target(stack, options.webhook_id, options, concurrency=options.concurrency)
        await _ask_of_unrecorded(basiq, options, target, inbox)
        run = recover_missed(
            basiq,
            options.webhook_id,
            target,
            inbox=inbox,
            everything=options.everything,
            all_types=options.all_types,
            acknowledged=None if options.acknowledged is None else datetime.fromisoformat(options.acknowledged),
            since=None if options.since is None else datetime.fromisoformat(options.since),
            concurrency=options.concurrency,
            rate=options.rate,
            max_pause=options.max_pause,
        )
        watch.follow(run)
        stored = options.secret_file or find_secret_file(target)
        watch.store = () if stored is None else ("--secret-file", str(stored))
        run._on_plan = lambda plan: say(str(plan))
        return await run.run(lambda now: live(progress_text(now)))


def _lines(options: RecoverOptions, ended: RunEnd[Recovery]) -> dict[str, Callable[[], None]]:
    """Return what shows the lines that continue, try again, and acknowledge, by the code of the problem."""
    found, lines = ended.result, dict[str, Callable[[], None]]()
    if isinstance(ended.error, NotFoundError) and exit_code(ended.error) == WRONG:
        return lines  # the webhook is gone: the same line never brings more
    if ended.early or (found is not None and any(each.code == "unread" for each in found.problems)):
        lines["unread"] = options.show_line
    if found is None:
        return lines
    if found.unknown:
        text = "to handle also what Basiq does not tell, and what it delivered, some of it again:"
        lines["unknown"] = partial(_with_all(options, found).show_line, text)
    if found.quarantined or found.at_service:
        said = is_terminal(sys.stdout) and not session().json  # then the problem's text stands above the line
        lines["quarantined"] = partial(options.show_retry, found.quarantined, found.at_service, said=said)
    for each in found.problems:
        if each.code == "joined-later":
            lines["joined-later"] = partial(_show_both, options, found, each)
        if each.code == "unknown" and isinstance(each.about, datetime):  # the notes of this job are gone
            wanted = attrs.evolve(options, since=each.about.astimezone(UTC).isoformat())
            lines["unknown"] = partial(wanted.show_line, "to leave out what is older, or name an earlier time:")
    if ends := [each.until for each in found.unrecoverable if each.until is not None]:
        known = attrs.evolve(options, acknowledged=max(ends).astimezone(UTC).isoformat())
        text = "after you have fetched the present state, acknowledge what is unrecoverable with:"
        lines["unrecoverable"] = partial(known.show_line, text)
    if found.unknown_reach is not None:
        known = attrs.evolve(options, acknowledged=acknowledge_reach(found.unknown_reach))
        text = "if the webhook was active then, or after you have fetched the present state, acknowledge that with:"
        lines["unknown-activity"] = partial(known.show_line, text)
    return lines


def _with_all(options: RecoverOptions, found: Recovery) -> RecoverOptions:
    """Return the options that handle all, as many as there are now: another inbox may have handled them."""
    return attrs.evolve(options, everything=True, unrecorded=found.passed_over + found.before_joining + found.unknown)


def _show_both(options: RecoverOptions, found: Recovery, problem: Problem) -> None:
    """Show the two lines for what was delivered before its webhook joined: to handle it, or to say it is handled."""
    _with_all(options, found).show_line("to handle all that the inbox does not know:")
    if isinstance(problem.about, datetime):
        attrs.evolve(options, acknowledged=acknowledge_until(problem.about)).show_line(IF_HANDLED)


def _show_problems(found: Recovery, lines: dict[str, Callable[[], None]], watch: Watch) -> None:
    """Show in a terminal what is left, since when, and the line of each, which is then not shown again."""
    show_head("recovery", len(found.problems))
    for each in found.problems:
        show_problem(each, status_line(each, found.webhook, watch.store))
        lines.pop(each.code, _nothing)()


def _nothing() -> None: ...
