"""What a receiver asks of an inbox, and of others that share it: two webhooks must not hide each other's events."""

from __future__ import annotations

from contextlib import suppress
from weakref import WeakKeyDictionary

from .._inbox.protocol import Inbox
from .._signing.signature import SigningKeys
from ..errors import ConfigurationError

_KEYS: WeakKeyDictionary[Inbox, WeakKeyDictionary[object, SigningKeys]] = WeakKeyDictionary()
"""The keys of each receiver without a ``webhook_id``, by its inbox, as long as both are alive."""


def check_inbox_methods(inbox: object) -> None:
    """Raises ``ConfigurationError`` for an object that is no inbox; None is left to the default."""
    if isinstance(inbox, type):
        raise ConfigurationError(
            f"inbox is the class {inbox.__name__}: pass an instance, such as {inbox.__name__}(...)"
        )
    if inbox is None or isinstance(inbox, Inbox):
        return
    methods = [name for name in vars(Inbox) if not name.startswith("_")]
    missing = ", ".join(name for name in methods if not callable(getattr(inbox, name, None)))
    raise ConfigurationError(
        f"inbox must have the methods of the Inbox protocol; {type(inbox).__name__} lacks {missing}"
    )


def join_inbox(inbox: Inbox, receiver: object, keys: SigningKeys, webhook_id: str | None) -> None:
    """Note that a receiver uses an inbox.

    Raises ``ConfigurationError`` where another one does that has no key in common with it: they serve two webhooks,
    and without a ``webhook_id`` each would take the other's events for handled.
    """
    if webhook_id is not None:
        return
    try:
        others = _KEYS.setdefault(inbox, WeakKeyDictionary())
    except TypeError:  # an inbox that has no hash, or takes no weak reference
        return
    if not all(keys.has_key_of(other) for other in others.values()):
        raise ConfigurationError(
            "two receivers with different secrets, and without a webhook_id, share this inbox: each would skip events "
            "that the other has handled; pass webhook_id to both"
        )
    others[receiver] = keys


def leave_inbox(inbox: Inbox, receiver: object) -> None:
    """Forget a receiver that is closed."""
    with suppress(TypeError):
        others = _KEYS.get(inbox)
        if others is not None:
            others.pop(receiver, None)
