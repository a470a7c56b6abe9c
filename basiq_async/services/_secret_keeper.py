"""Store the signing secrets that Basiq returns, and find out whether there is one, and whether it is the last one."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

from .._redaction.text import printable
from .._signing.secret_file import SecretFile
from .._signing.secret_store import (
    SecretStore,
    WriteSecret,
    find_reader,
    find_writer,
    name_store,
    read_store,
    write_store,
)
from .._work.clock import Clock
from .._work.tasks import run_to_completion
from ..errors import ConfigurationError
from ..models import Secret, Webhook

logger = logging.getLogger("basiq_async.webhooks")

_ANOTHER_MAY_STORE = 5.0
"""How long an empty store is asked again, in seconds: another process may have created the webhook just now."""
_PAUSE = 0.5
_ROUNDS = 5
"""How often a webhook is updated again at most, because another process stored a secret at the same time."""


class SecretKeeper:
    """Stores the secrets of one webhook where ``ensure`` is told to; nowhere, if it is told of no store.

    update: updates a webhook with its own values, which may make a new secret.
    """

    def __init__(
        self,
        secret: SecretStore | WriteSecret | None,
        clock: Clock,
        update: Callable[[str], Awaitable[Webhook]],
    ) -> None:
        self._clock, self._update = clock, update
        self._file = secret if isinstance(secret, SecretFile) else None
        self._known: set[Secret] = set()
        try:
            self._write = None if secret is None else find_writer(secret)
            self._reader = find_reader(secret) if isinstance(secret, SecretStore) else None
            self._name = name_store(secret)
        finally:
            del secret  # error reporters show local variables, and a caller may have passed the text of a secret

    async def begin(self) -> None:
        """Note which secrets the store has. Raises ``ConfigurationError`` if it cannot be used."""
        if self._file is not None:
            await self._file.check()
        self._known.update(await self._read())

    async def keep(self, webhook: Webhook) -> Webhook:
        """Store the secret of a webhook, also if this is cancelled meanwhile: Basiq returns it only once.

        If another process has stored one since ``begin``, nobody knows which of the two updates was the later one, and
        the valid secret may have become the former one, which ends. Then the webhook is updated once more. Return it.

        Raises ``ConfigurationError`` if that fails; or if Basiq returned no secret, and the store has none.
        """
        secret = webhook.secret
        if secret is None:
            await self._require(webhook)
            return webhook
        if self._write is None:
            return webhook
        others: set[Secret] = set()
        for left in reversed(range(_ROUNDS)):
            await run_to_completion(partial(self._store, self._write, webhook.id, secret))
            others = set(await self._read()) - self._known
            if not others or not left:
                break
            self._known |= others
            await self._wait_for_others()
            if set(await self._read()) - self._known:
                return webhook  # another process goes on: it has read the present one's secret before, or finds it now
            updated = await self._update(webhook.id)
            if updated.secret is None:
                break
            webhook, secret = updated, updated.secret
        if others:
            logger.error(
                "other processes store secrets of the webhook %s again and again: when they have ended, run "
                "`basiq-async webhooks secret`, or deliveries may be refused in 28 hours",
                printable(webhook.id),
            )
        return webhook

    async def _wait_for_others(self) -> None:
        """Wait for a random time, so that of two processes one updates alone."""
        import random

        await self._clock.sleep(random.uniform(0, _ANOTHER_MAY_STORE))

    async def _store(self, write: WriteSecret, webhook_id: str, secret: Secret) -> None:
        self._known.add(secret)
        try:
            await write_store(write, secret)
        except ConfigurationError as exc:
            why = str(exc)
        else:
            return
        raise ConfigurationError(
            f"the signing secret of the webhook {webhook_id} was not stored in {self._name}: {why}. Basiq returns it "
            "again when the webhook is updated: see `webhooks.reactivate`, or `basiq-async webhooks secret`"
        )

    async def _require(self, webhook: Webhook) -> None:
        if self._reader is None:
            return
        deadline = self._clock.time() + _ANOTHER_MAY_STORE
        while not await self._read():
            left = deadline - self._clock.time()
            if left <= 0:
                shown = printable(webhook.id)
                raise ConfigurationError(
                    f"the webhook {shown} exists, and {self._name} does not have its signing secret, so that each "
                    "delivery would be refused. Basiq returns it only when a webhook is created or updated. Copy it "
                    "from where this service ran before; its processes need one store. If it is lost, `basiq-async "
                    f"webhooks secret {shown} --secret-file FILE` gets it: that updates the webhook, which may make a "
                    "new secret"
                )
            await self._clock.sleep(min(left, _PAUSE))

    async def _read(self) -> tuple[Secret, ...]:
        if self._reader is None:
            return ()
        try:
            found = await read_store(self._reader)
        except ConfigurationError as exc:
            why = str(exc)
        else:
            return tuple([each if isinstance(each, Secret) else Secret(each.get_secret_value()) for each in found])
        raise ConfigurationError(f"the signing secret cannot be read from {self._name}: {why}")
