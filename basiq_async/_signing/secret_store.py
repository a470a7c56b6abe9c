"""A store of a webhook's signing secrets: what it is, and calls of one, which may be anybody's.

What a store yields is hidden at once, and of its errors only the types are quoted: they can repeat what it was given.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, ParamSpec, Protocol, TypeVar, cast, runtime_checkable

from .._callables import is_async
from .._redaction.credentials import SecretText
from .._redaction.tracebacks import hide_arguments
from .._work.failures import reason_text, store_failure
from .._work.limits import limit
from ..errors import ConfigurationError
from ..models import Secret
from .secrets import SecretLike

KEEP_FORMER = timedelta(hours=28)
"""How long a replaced secret is kept: longer than the 24 hours for which Basiq may sign with it too. Each attempt is
signed again, so that a longer schedule needs no older one."""

TIME_LIMIT = 5.0
"""For one reading or writing of a store, in seconds."""

P = ParamSpec("P")
V = TypeVar("V")


@runtime_checkable
class SecretStore(Protocol):
    """Keeps the signing secrets of one webhook: pass it to ``WebhookReceiver``, and to ``webhooks.ensure``."""

    async def read(self) -> SecretLike | None:
        """Return the secret, or several, the newest first; None or an empty sequence if there is none yet."""
        ...

    async def write(self, secret: Secret) -> object:
        """Store the secret that Basiq has returned, and keep the one before for 28 hours. May be called twice."""
        ...


ReadSecrets = Callable[[], Awaitable[SecretLike | None]]
WriteSecret = Callable[[Secret], Awaitable[object]]


class OwnStore:
    """A store of this package, whose errors show no secret."""

    __slots__ = ()


def find_reader(secret: SecretLike | SecretStore | ReadSecrets) -> ReadSecrets | None:
    """Return the function that reads the secrets of a store; None for secrets themselves.

    Raises ``ConfigurationError`` for a function that is not async.
    """
    if isinstance(secret, (str, bytes, Sequence, Secret, SecretText, type)):
        return None
    return cast("ReadSecrets | None", _find_function(secret, "read"))


@hide_arguments
def find_writer(secret: SecretStore | WriteSecret) -> WriteSecret:
    """Return the function that stores a secret. Raises ``ConfigurationError`` for anything but an async function."""
    found: WriteSecret | None = None if isinstance(secret, type) else _find_function(secret, "write")
    if found is None:
        raise ConfigurationError(
            "secret must be a SecretFile, or another SecretStore, or an async function that stores the secret, not "
            f"a {type(secret).__name__}"
        )
    return found


def _find_function(store: object, name: str) -> Callable[..., Awaitable[Any]] | None:
    function: Any = getattr(store, name, store)
    if not callable(function):
        return None
    if not is_async(function):
        raise ConfigurationError(f"what {name}s the signing secret must be an async function: {function!r} is not one")
    return cast("Callable[..., Awaitable[Any]]", function)


def name_store(store: object) -> str:
    """Return how messages name a store."""
    return repr(store) if isinstance(store, OwnStore) else str(getattr(store, "__qualname__", type(store).__qualname__))


async def read_store(read: ReadSecrets) -> tuple[Secret | SecretText, ...]:
    """Return the secrets of a store, the newest first; nothing if there are none yet.

    Raises ``ConfigurationError``: it did not respond in time, it failed, or it returned something else.
    """
    found = await _ask(_hidden, read)
    if isinstance(found, str):
        raise ConfigurationError(f"it returned no secrets, but something of the type {found}")
    return found


async def write_store(write: WriteSecret, secret: Secret) -> None:
    """Store a secret. Raises ``ConfigurationError`` if that fails, or takes too long."""
    await _ask(write, secret)


async def _hidden(read: ReadSecrets) -> tuple[Secret | SecretText, ...] | str:
    """Return what a store yields, before any frame holds it; or the name of its type, if it is no secrets."""
    return _hide(await read())


def _hide(found: SecretLike | None) -> tuple[Secret | SecretText, ...] | str:
    if found is None:
        return ()
    is_one = isinstance(found, (str, bytes, Secret, SecretText)) or not isinstance(found, Sequence)
    several = cast("Sequence[object]", (found,) if is_one else found)
    hidden = [Secret(each) if isinstance(each, str) else each for each in several]
    kinds = [type(each).__name__ for each in hidden if not isinstance(each, (Secret, SecretText))]
    return kinds[0] if kinds else tuple([each for each in hidden if isinstance(each, (Secret, SecretText))])


async def _ask(call: Callable[P, Awaitable[V]], *given: P.args, **named: P.kwargs) -> V:
    slow = ConfigurationError(f"it did not respond within {TIME_LIMIT:g} s")
    try:
        async with limit(TIME_LIMIT, slow):
            return await call(*given, **named)
    except Exception as exc:
        known = exc is slow or (isinstance(exc, ConfigurationError) and _is_own(call, *given))
        why = reason_text(exc) if known else store_failure(exc)
    raise ConfigurationError(why)


def _is_own(*functions: object) -> bool:
    return any(isinstance(getattr(each, "__self__", None), OwnStore) for each in functions)
