"""Store the signing secrets that Basiq returns, and find out whether there is one."""

from __future__ import annotations

from functools import partial

from .._redaction.text import printable
from .._signing.secret_file import SecretFile
from .._signing.secret_store import (
    ReadSecrets,
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

_ANOTHER_MAY_STORE = 5.0
"""How long an empty store is asked again, in seconds: another process may have created the webhook just now."""
_PAUSE = 0.5


class SecretKeeper:
    """Stores the secrets of one webhook where ``ensure`` is told to; nowhere, if it is told of no store."""

    def __init__(self, secret: SecretStore | WriteSecret | None, clock: Clock) -> None:
        self._clock = clock
        self._file = secret if isinstance(secret, SecretFile) else None
        try:
            self._write = None if secret is None else find_writer(secret)
            self._read = find_reader(secret) if isinstance(secret, SecretStore) else None
            self._name = name_store(secret)
        finally:
            del secret  # error reporters show local variables, and a caller may have passed the text of a secret

    async def check(self) -> None:
        """Raise ``ConfigurationError`` if it is a file that cannot be written."""
        if self._file is not None:
            await self._file.check()

    async def keep(self, webhook: Webhook) -> None:
        """Store the secret of a webhook, also if this is cancelled meanwhile: Basiq returns it only once.

        Raises ``ConfigurationError`` if that fails; or if Basiq returned none, and the store has none.
        """
        if webhook.secret is None:
            await self._require(webhook)
        elif self._write is not None:
            await run_to_completion(partial(self._store, self._write, webhook.id, webhook.secret))

    async def _store(self, write: WriteSecret, webhook_id: str, secret: Secret) -> None:
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
        if self._read is None:
            return
        deadline = self._clock.time() + _ANOTHER_MAY_STORE
        while not await self._has_one(self._read):
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

    async def _has_one(self, read: ReadSecrets) -> bool:
        try:
            return bool(await read_store(read))
        except ConfigurationError as exc:
            why = str(exc)
        raise ConfigurationError(f"the signing secret cannot be read from {self._name}: {why}")
