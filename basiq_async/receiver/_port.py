"""What an adapter to a framework needs of a receiver."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from ._headers import Headers
from ._outcome import Outcome

__all__ = ["ReceiverPort"]


class ReceiverPort(Protocol):
    """The side of a ``WebhookReceiver`` that the adapters use; its methods say what they do there."""

    async def handle(self, headers: Headers, body: bytes) -> Outcome:
        """One request whose body is there."""
        ...

    async def handle_stream(
        self, headers: Headers, chunks: AsyncGenerator[bytes], *, content_length: int | None = None
    ) -> Outcome:
        """One request whose body is still to be read."""
        ...

    async def aclose(self) -> None:
        """Take no more, and finish what was begun."""
        ...
