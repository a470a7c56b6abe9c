"""Arguments that several services take, looked over before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable

from .errors import ConfigurationError


def checked_event_type_ids(value: Iterable[str], name: str) -> list[str]:
    """At least one id of a type of event. Raises ``ConfigurationError``, also for one text in place of a list."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ConfigurationError(f"{name} must be a list of event type ids, such as ['user.created']")
    found = list(value)
    if not found:
        raise ConfigurationError(f"{name} must name at least one event type")
    if not all(isinstance(entry, str) and entry.strip() for entry in found):
        raise ConfigurationError(f"{name} must hold event type ids as text, none of them empty")
    return found


def optional_text(**fields: tuple[str, str | None]) -> dict[str, str]:
    """The fields of a body that were given: from the JSON name to the argument's name and its value."""
    for name, value in fields.values():
        if value is not None and not isinstance(value, str):
            raise ConfigurationError(f"{name} must be text or None, not {type(value).__name__}")
    return {json_name: value for json_name, (_, value) in fields.items() if value is not None}
