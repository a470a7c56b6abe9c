"""The lines that errors, pages and commands offer to be pasted: each is run with events in place."""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.frozen
class Offered:
    """A line that is offered to be pasted, with names in capitals for what differs: ``WEBHOOK_ID``, ``RECEIVER``,
    ``INBOX``, ``URL``, ``SECRET_FILE``, ``EVENT_ID``, ``MESSAGE_ID``.

    again: what it handles again, in the words of its help; None for nothing.
    """

    line: str
    again: str | None = None

    def words(self, **given: str) -> tuple[str, ...]:
        """Return the words of the line after the name of the program, with what the names stand for."""
        return tuple(given.get(word, word) for word in self.line.split())


OFFERED: Mapping[str, Offered] = {
    "whose key it is": Offered("whoami"),
    "which types there are": Offered("events types"),
    "which webhooks there are": Offered("webhooks list"),
    "what is wrong": Offered("webhooks doctor WEBHOOK_ID --receiver RECEIVER"),
    "what is wrong, with a test": Offered("webhooks doctor WEBHOOK_ID --receiver RECEIVER --test"),
    "what is wrong, by the inbox": Offered("webhooks doctor WEBHOOK_ID --inbox INBOX"),
    "what is wrong with all": Offered("webhooks doctor --receiver RECEIVER"),
    "what was posted and is wrong": Offered("webhooks doctor WEBHOOK_ID --secret-file SECRET_FILE"),
    "the secret": Offered("webhooks secret WEBHOOK_ID --secret-file SECRET_FILE"),
    "an active webhook": Offered("webhooks reactivate WEBHOOK_ID --secret-file SECRET_FILE"),
    "a webhook": Offered("webhooks ensure --url URL --name consents --event consent.revoked --secret-file SECRET_FILE"),
    "a new webhook": Offered("webhooks create --url URL --event consent.revoked --secret-file SECRET_FILE"),
    "the failed messages": Offered("messages tail WEBHOOK_ID --failed"),
    "all messages": Offered("messages list WEBHOOK_ID"),
    "some messages once more": Offered("messages resend WEBHOOK_ID MESSAGE_ID --to URL --secret-file SECRET_FILE"),
    "what was missed": Offered("recover WEBHOOK_ID --receiver RECEIVER"),
    "what was missed, with all that was delivered": Offered("recover WEBHOOK_ID --receiver RECEIVER --everything"),
    "what was missed, by posts": Offered("recover WEBHOOK_ID --to URL --secret-file SECRET_FILE"),
    "what was missed, by posts beside the inbox": Offered(
        "recover WEBHOOK_ID --to URL --secret-file SECRET_FILE --inbox INBOX"
    ),
    "the history": Offered("replay WEBHOOK_ID --receiver RECEIVER"),
    "the history, counted": Offered("replay WEBHOOK_ID --receiver RECEIVER --dry-run"),
    "the history, by posts": Offered("replay WEBHOOK_ID --to URL --secret-file SECRET_FILE"),
    "some that were handled, once more": Offered(
        "replay WEBHOOK_ID --receiver RECEIVER --again bug-1234 --since 2d", "handle again what is selected"
    ),
    "the history as a file": Offered("replay WEBHOOK_ID --file history.jsonl"),
    "what failed": Offered("quarantine list --receiver RECEIVER"),
    "what failed, by the inbox": Offered("quarantine list --inbox INBOX"),
    "what failed, as a file": Offered("quarantine export failed.jsonl --inbox INBOX"),
    "one that failed": Offered("quarantine show EVENT_ID --inbox INBOX"),
    "what failed, once more": Offered("quarantine retry --receiver RECEIVER"),
    "what was posted and failed, once more": Offered(
        "quarantine retry --to URL --secret-file SECRET_FILE --webhook WEBHOOK_ID"
    ),
    "what waits": Offered("inbox waiting --receiver RECEIVER"),
    "what waits, by the inbox": Offered("inbox waiting --inbox INBOX"),
    "what waits, now": Offered("inbox retry --receiver RECEIVER"),
    "what became of an event": Offered("inbox get EVENT_ID --inbox INBOX"),
    "that a webhook took the place of another": Offered("inbox join WEBHOOK_ID --inbox INBOX"),
    "whether the inbox works": Offered("inbox check --inbox INBOX"),
    "what waits, handled": Offered("work --receiver RECEIVER"),
}
"""The lines by what they are for. A test runs each with events in place; those of pages and errors must be here."""
