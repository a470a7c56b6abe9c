"""The state of a fake as JSON data."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, get_args, get_origin

import attrs

from ...errors import ConfigurationError
from ._histories import Log, SeededEvents, SeededMessages
from ._records import Message
from ._state import Upcoming
from ._store import Application

if TYPE_CHECKING:
    from cattrs import Converter


VERSION = 5
Json = dict[str, Any]


@attrs.frozen
class SavedState:
    """A state that was added. ``still``: whether its clock is a ``ManualClock``."""

    name: str
    still: bool
    content: Json


@attrs.frozen
class Snapshot:
    """The saved state of a fake. ``states`` has the others, by their API keys."""

    now: datetime
    ids: int
    serial: int
    api_key: str
    application: Application
    upcoming: list[Upcoming]
    states: dict[str, SavedState]
    version: int = VERSION


def save(snapshot: Snapshot) -> Json:
    """Return a snapshot as JSON data."""
    found: Json = _converter().unstructure(snapshot)
    return found


def load(saved: Mapping[str, object]) -> Snapshot:
    """Return the snapshot that ``save`` returned. Raises ``ConfigurationError`` for anything else."""
    version = saved.get("version") if isinstance(saved, Mapping) else None
    if isinstance(version, int) and version != VERSION:
        raise ConfigurationError(f"the state was saved in version {version}; this release reads version {VERSION}")
    try:
        snapshot = _converter().structure(saved, Snapshot)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ConfigurationError(f"this is not the state of a fake: {type(error).__name__}") from error
    if not _is_whole(snapshot.application):
        raise ConfigurationError("this is not the state of a fake: its parts do not belong together")
    for state in snapshot.states.values():
        load(state.content)
    return snapshot


def _is_whole(app: Application) -> bool:
    """Return whether the parts of an application name each other, as the fake takes for granted."""
    logs: list[Log[Any]] = [app.events, *app.messages.values()]
    seeded = [part.events if isinstance(part, SeededMessages) else part for log in logs for part in log.seeded()]
    return (
        all(webhook.id == id for id, webhook in app.webhooks.items())
        and app.messages.keys() == app.webhooks.keys()
        and all(isinstance(part, SeededEvents) and part.types for part in seeded)
    )


@cache
def _converter() -> Converter:
    from cattrs import Converter

    converter = Converter(detailed_validation=False)

    def register(kind: type, to_json: Any, from_json: Any) -> None:
        converter.register_unstructure_hook(kind, to_json)
        converter.register_structure_hook(kind, lambda value, _: from_json(value))

    register(datetime, datetime.isoformat, datetime.fromisoformat)
    register(timedelta, timedelta.total_seconds, lambda seconds: timedelta(seconds=seconds))
    register(bytes, lambda raw: base64.b64encode(raw).decode(), base64.b64decode)
    converter.register_structure_hook_func(lambda kind: kind in (object, Any), lambda value, _: value)
    converter.register_unstructure_hook_func(_is_log, lambda log: _save_log(log, converter))
    converter.register_structure_hook_func(_is_log, lambda value, kind: _load_log(value, get_args(kind)[0], converter))
    return converter


def _is_log(kind: object) -> bool:
    origin: object = get_origin(kind)
    return origin is Log


def _save_log(log: Log[Any], converter: Converter) -> Json:
    # A part that is made on demand is saved as the values that it is made from.
    return {"segments": converter.unstructure(log.segments), "kept": converter.unstructure(list(log.kept.values()))}


def _load_log(saved: Json, kind: type, converter: Converter) -> Log[Any]:
    log: Log[Any] = Log()
    for segment in saved["segments"]:
        if isinstance(segment, list):
            for item in converter.structure(segment, list[kind]):  # type: ignore[valid-type]  # a type at run time
                log.append(item)
        else:
            log.extend(converter.structure(segment, SeededMessages if kind is Message else SeededEvents))
    for item in converter.structure(saved["kept"], list[kind]):  # type: ignore[valid-type]  # a type at run time
        log.keep(item)
    return log
