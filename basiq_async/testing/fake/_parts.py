"""What a fake is made of, for the classes that make up ``FakeBasiq``."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from ...errors import ConfigurationError
from ._clock import Clock
from ._deliveries import Deliveries
from ._faults import Faults
from ._recent import Changes, Recent, RequestRecord, Violations
from ._records import Message, Webhook
from ._state import Application, State
from ._tokens import Tokens

DEFAULT_API_KEY = "ZmFrZS1hcHBsaWNhdGlvbjpub3QtYS1yZWFsLWtleQ=="


class Parts:
    """The parts of a fake, and how to find things in them. ``FakeBasiq`` makes the parts."""

    clock: Clock
    _state: State
    _violations: Violations
    _tokens: Tokens
    _deliveries: Deliveries
    _faults: Faults
    _requests: Recent[RequestRecord]
    _changes: Changes

    def _app(self, api_key: str | None) -> Application:
        try:
            return self._state.application(api_key)
        except KeyError:
            raise ConfigurationError("the fake does not accept this api_key") from None

    def _check_types(self, types: Iterable[str]) -> None:
        for name in types:
            if name not in self._state.event_types:
                nearest = get_close_matches(name, list(self._state.event_types), n=1)
                guess = f" (did you mean {nearest[0]!r}?)" if nearest else ""
                raise ConfigurationError(f"there is no event type {name!r}{guess}; a fake is made with what it adds")

    def _find_webhook(self, webhook_id: str) -> tuple[Application, Webhook]:
        found = self._state.find_webhook(webhook_id)
        if found is None:
            raise ConfigurationError(f"there is no webhook {webhook_id!r}")
        return found

    def _find_message(self, message_id: str) -> tuple[Application, Webhook, Message]:
        found = self._state.find_message(message_id)
        if found is None:
            raise ConfigurationError(f"there is no message {message_id!r}")
        return found
