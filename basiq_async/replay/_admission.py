"""Whose inbox a job has: looked at before anything is read, and noted before anything is passed to the handler."""

from __future__ import annotations

from collections.abc import Sequence

from .._work.inbox_calls import InboxCalls
from .._work.noted import Account, Noted
from ..client import BasiqClient
from ._service import check_place
from .targets._adapters import Handling
from .targets._http import HttpTarget


class Admission:
    """What the inbox of a job has noted about itself, and what the job notes there.

    may_found: whether the run passes to the handler, and has not noted its webhook yet.
    """

    def __init__(self, client: BasiqClient, account: Account, webhook_id: str, handling: Handling) -> None:
        self._client, self._account, self._webhook_id, self._handling = client, account, webhook_id, handling
        receiver = handling.receiver
        self.own_webhooks: Sequence[str] = [webhook_id] if receiver is None else receiver.webhook_ids
        """The webhooks of the service; none for a receiver in memory without an id."""
        self.noted = Noted()
        """What the inbox has noted, as the present run has found it."""
        self.names: dict[str, str | None] = {}
        """The names of webhooks that Basiq has shown."""
        self.may_found = False
        self.is_new = False
        """Whether no run has passed anything on yet: the note of the webhooks comes before any other."""
        self.is_of_service = False
        """Whether the target posts, and the inbox is that of the service: its notes are about the service."""

    async def look(self, calls: InboxCalls) -> None:
        """Raise ``ConfigurationError`` for an inbox of others, and for that of a service which would not get the posts.

        The keys of posts may be those of several webhooks.
        """
        target, own = self._handling.value, self.own_webhooks
        if isinstance(target, HttpTarget):
            self.noted = await calls.noted()
            self.is_of_service = await check_place(self._client, self.noted, self._webhook_id, target)
        elif own:
            self.noted = await calls.look(own)
        self.is_new = bool(own) and self.noted.text is None

    async def found(self, calls: InboxCalls) -> None:
        """Note the webhook in an empty inbox, and join those of the receiver's list: Basiq has shown its messages.

        It is called before the first page is passed to the handler. Whether the inbox has live deliveries, only a
        receiver says.
        """
        if not self.may_found:
            return
        own, account = self.own_webhooks, self._account
        if self._handling.job is not None:
            await calls.note_job(self._handling.job)
            own = () if self.noted.webhooks else own
        if own and not (self.noted.is_of(account) and all(each in self.noted.webhooks for each in own)):
            self.noted = await calls.admit(own, names=self.names, account=account, seen=self.noted)
        self.may_found = False
