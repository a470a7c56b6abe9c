"""``basiq-async webhooks doctor``: find what is wrong with webhooks."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AsyncExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from .._wire.hosts import show_url
from .._work.noted import Noted
from ..errors import ConfigurationError, NotFoundError
from ._command import command
from ._inboxes import (
    INBOX_TIMEOUT,
    InboxPlace,
    ReceiverOption,
    find_secret_file,
    inbox_file_of,
    open_inbox,
    open_receiver,
    tell_newest,
)
from ._lines import Given, Words, find_line, find_other_line
from ._options import SECRET_VARIABLE, option, read_secrets
from ._output import live, say
from ._problems import (
    find_target,
    problem_rows,
    show_head,
    show_problem,
    tell_passed_over,
)
from ._results import Output, Row, View, as_row, cell_text, count_details
from ._run import DONE, NO_ANSWER, WRONG, exit_code, make_client

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..receiver import Inbox, WebhookReceiver
    from ..services.diagnosis import Diagnosis


_DIAGNOSIS: View[Diagnosis] = View(
    "id url status healthy problems cool_off_left failed_share by_status refused disabled_at last_success "
    "first_failure oldest_undelivered undelivered unknown never_sent unrecorded passed_over recovered quarantined "
    "waiting waiting_age unrecoverable endpoint_status endpoint_error looked_at read_by_id earliest latest "
    "complete forbidden last_recorded",
    id=lambda found: found.webhook.id,
    url=lambda found: show_url(found.webhook.url),
    problems=lambda found: [],  # the lines depend on how the command was called
    by_status=lambda found: {str(code or "none"): count for code, count in found.attempts.by_status.items()},
    failed_share=lambda found: found.attempts.failed_share,
    refused=lambda found: found.attempts.refused,
    disabled_at=lambda found: found.attempts.disabled_at,
    last_success=lambda found: found.attempts.last_success,
    first_failure=lambda found: found.attempts.first_failure,
    oldest_undelivered=lambda found: found.attempts.oldest_undelivered,
    waiting=lambda found: found.waiting.count,
    waiting_age=lambda found: found.waiting.age,
    unrecoverable=lambda found: [as_row(each) for each in found.unrecoverable],
    endpoint_status=lambda found: found.endpoint.status if found.endpoint else None,
    endpoint_error=lambda found: found.endpoint.error if found.endpoint else None,
    unknown=lambda found: found.look.unknown,
    looked_at=lambda found: found.look.items,
    read_by_id=lambda found: found.look.read_by_id,
    earliest=lambda found: found.look.earliest,
    latest=lambda found: found.look.latest,
    complete=lambda found: found.look.complete,
    last_recorded=lambda found: None,  # of the inbox that the command looked at
    forbidden=lambda found: found.look.forbidden,
)


def _diagnosis_details(row: Row) -> Iterable[tuple[str, Any]]:
    """Yield the names and values of what there is, and of the counts that a recovery makes zero."""
    row = {name: value for name, value in row.items() if value or name in _ALWAYS}
    yield from count_details(row, "problems", "unrecoverable", "passed_over")


_ALWAYS = ("undelivered", "never_sent", "healthy", "complete")


@command(shows=_DIAGNOSIS)
async def doctor(
    output: Output,
    webhook_id: Annotated[str | None, typer.Argument(help="The webhook; all webhooks by default.")] = None,
    test: Annotated[
        bool,
        option(
            f"Post a signed test to its URL, with the secret of --receiver, --secret-file or {SECRET_VARIABLE}. It "
            "proves the address, and not that Basiq signs with that secret.",
            "--test",
        ),
    ] = False,
    secret_file: Annotated[
        Path | None, option("The file with the signing secret, for --test, and for the lines that help.")
    ] = None,
    receiver: ReceiverOption = None,
    inbox: InboxPlace = None,
    limit: Annotated[
        int, typer.Option(min=0, metavar="N", help="Read the first N messages and N events of the lists; 0 for all.")
    ] = 2_000,
) -> int:
    """Find out whether webhooks work, and if not, why.

    Checks the status, the cool-off, the event types, the latest attempts, and what a recovery would pass to the
    handler. The inbox says what was handled: that of --receiver or --inbox, or else the file in this folder that
    records what was posted to the webhook's URL. The exit code is 1 if a webhook has a problem, and 3 if none was found
    but --limit, or a permission that the key lacks, left something unread, or Basiq does not tell what was delivered.
    Changes nothing at Basiq, and posts nothing without --test.
    """
    from .._work.inbox_calls import InboxCalls

    found_codes, seen = set[str](), 0
    if receiver is not None and inbox is not None:
        raise ConfigurationError("name the inbox with either --inbox or --receiver")
    async with make_client() as basiq, AsyncExitStack() as stack:
        opened = (
            None
            if receiver is None
            else await stack.enter_async_context(open_receiver(receiver, webhook_id, make=False))
        )
        known = None if inbox is None else await stack.enter_async_context(open_inbox(inbox))
        noted = Noted() if known is None else await InboxCalls(known, INBOX_TIMEOUT).noted()
        ids = [webhook_id] if webhook_id is not None else [each.id async for each in basiq.webhooks.list()]
        served = noted.live()
        if opened is not None:
            served = list(opened.webhook_ids)
        elsewhere = webhook_id is None and bool(served) and not {*ids} & {*served}
        if elsewhere:
            what = f"the webhook {', '.join(served)} of this {'inbox' if opened is None else 'receiver'}"
            say(f"{what} is not of this account")
        for each in ids:
            live(f"checking webhook {each}")
            own = opened if opened is None or not opened.webhook_ids or each in opened.webhook_ids else None
            its = known if webhook_id is not None or not noted.webhooks or each in noted.webhooks else None
            secret = read_secrets(secret_file) if test and (own is None or secret_file is not None) else None
            try:
                looked = await _diagnose(basiq, each, own, its, max_items=limit or None, secret=secret, test=test)
            except NotFoundError as exc:
                if webhook_id is not None or exit_code(exc) != WRONG:
                    raise
                say(f"the webhook {each} was deleted meanwhile")
                continue
            finally:
                live(None)
            diagnosis = looked.found
            given = Given(
                receiver=None if own is None else receiver,
                inbox=None if its is None else inbox,
                secret_file=None if secret_file is None else str(secret_file),
                stored=find_secret_file(own),
                posted=looked.target,
            )
            find, find_other = (partial(each, found=diagnosis, given=given) for each in (find_line, find_other_line))
            if not output.as_json:
                show_head(f"webhook {each}", len(diagnosis.problems))
                for problem in diagnosis.problems:
                    show_problem(problem, find(problem), find_other(problem))
            row = {**_DIAGNOSIS.row(diagnosis), "problems": problem_rows(diagnosis.problems, find, find_other)}
            row["last_recorded"] = looked.newest
            output.one(row, _DIAGNOSIS, _diagnosis_details(row))
            if looked.last_line is not None:
                say(looked.last_line)
            else:
                tell_passed_over(diagnosis.passed_over, "a recovery passes over such messages")
            if diagnosis.endpoint is not None and diagnosis.endpoint.ok:
                say("the test proves the address, and not that Basiq signs with the secret that it was signed with")
            found_codes.update(each.code for each in diagnosis.problems)
            if looked.store is not None:
                say(looked.store)
                found_codes.add("store")
            seen += 1
    if not seen:
        say("there is no webhook, so nothing is delivered; create one with 'basiq-async webhooks create'")
    if elsewhere or not seen or found_codes - {"partial", "forbidden", "unknown", "unknown-activity"}:
        return WRONG
    if found_codes:
        return NO_ANSWER
    say("no problems found")
    return DONE


@attrs.frozen
class _Looked:
    """What was found. ``target``: see ``find_target``. ``newest``: when the inbox last recorded something.

    last_line: what is said at the end. ``store``: what is wrong with the inbox itself.
    """

    found: Diagnosis
    target: Words
    newest: datetime | None
    last_line: str | None
    store: str | None = None


async def _diagnose(
    basiq: BasiqClient,
    webhook_id: str,
    receiver: WebhookReceiver | None,
    inbox: Inbox | None,
    **options: Any,
) -> _Looked:
    """Diagnose one webhook. Without an inbox, the file of what was posted to its URL says what was handled."""
    async with AsyncExitStack() as stack:
        missing = url = None
        if receiver is None and inbox is None:
            url = (await basiq.webhooks.get(webhook_id)).url
            file = inbox_file_of(webhook_id, url)
            if os.path.isfile(file):  # noqa: ASYNC240  # once, before the work begins
                inbox = await stack.enter_async_context(open_inbox(file))
            else:
                missing = (
                    f"no inbox of the webhook {webhook_id} is known, so all that was not delivered counts as missed"
                )
        found = await basiq.webhooks.diagnose(webhook_id, receiver=receiver, inbox=inbox, **options)
        known = inbox if receiver is None else receiver.inbox
        target = await find_target(known) if found.quarantined else ()
        newest = None if known is None else await tell_newest(known)
        return _Looked(found, target, newest, missing, None if known is None else await _look_at_store(known, found))


async def _look_at_store(inbox: Inbox, found: Diagnosis) -> str | None:
    """Say since when an inbox has records, if Basiq delivered before. Return what is wrong with it, if anything."""
    from .._work.limits import inbox_limit

    if found.passed_over:
        async with inbox_limit(INBOX_TIMEOUT):
            began = cell_text(await inbox.known_since())
        lost = "if it was in use before, it was emptied, and what waited or was in its quarantine is gone"
        say(f"the inbox has records since {began}: {lost}")
    is_read_only = getattr(inbox, "is_read_only", None)  # only a database tells
    if is_read_only is None or not await is_read_only():
        return None
    return (
        "the inbox's database is read-only, so that each delivery gets a 503: use a server that can write (the primary)"
    )
