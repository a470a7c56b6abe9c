"""Whole states of a fake: add isolated ones, save and restore them."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, get_args, get_origin

import attrs

from ...errors import ConfigurationError
from ._agenda import Cause, PlannedAttempt
from ._arrange import Arrangement
from ._clock import Clock, ManualClock, MovableClock, SystemClock
from ._records import Log, Message
from ._seeded import SeededEvents, SeededIds, SeededMessages
from ._store import Application, Store

if TYPE_CHECKING:
    from cattrs import Converter


VERSION = 1
Json = dict[str, Any]


@attrs.frozen
class SavedAttempt:
    """A planned attempt, in a snapshot."""

    message: str
    number: int
    due: datetime
    once: bool


@attrs.frozen
class SavedState:
    """A state that was added, in a snapshot. ``still``: whether its clock is a ``ManualClock``."""

    name: str
    key: str
    still: bool
    state: Json


@attrs.frozen
class Saved:
    """The content of a snapshot."""

    version: int
    now: datetime
    ids: int
    serial: int
    applications: dict[str, Application]
    due: list[SavedAttempt]
    states: list[SavedState]


class States(Arrangement):
    """The methods of ``FakeBasiq`` that isolate tests from one another, and that save and restore a state."""

    def __init__(self, store: Store, delivery_timeout: float) -> None:
        super().__init__(store, delivery_timeout)
        self.name = "first"
        """The name from ``add_state``; ``first`` for the original state."""
        self._states: dict[str, Self] = {}
        self._added = 0
        self._watchers: list[tuple[Callable[[Self], object], Callable[[Self], object]]] = []

    @staticmethod
    def make_api_key() -> str:
        """Return a random API key in the form of Basiq's keys."""
        return base64.b64encode(f"fake-application:{secrets.token_hex(16)}".encode()).decode()

    @property
    def states(self) -> Mapping[str, Self]:
        """The states that were added, by their API keys."""
        return MappingProxyType(self._states)

    def add_state(
        self,
        name: str | None = None,
        *,
        api_key: str | None = None,
        seed: int | str | None = None,
        clock: Clock | None = None,
    ) -> Self:
        """Add an empty state: a separate fake with the same settings, for the same server or transport.

        A request belongs to the state whose API key or token it carries. States share no data.

        name: the name to show; by default a number.
        api_key: the state's key; by default a random one.
        seed: the seed of the state's ids; by default a random one.
        clock: by default a new clock of the same kind as this fake's. If that is not a ``ManualClock`` or
            ``SystemClock``, it is shared.
        """
        key = self.make_api_key() if api_key is None else api_key
        if not key or key in self._store.applications or key in self._states:
            raise ConfigurationError("another state has this API key, or it is empty: pass another api_key")
        state = self._make_state(key, seed, clock or self._new_clock())
        self._added += 1
        state.name = name or f"state {self._added}"
        self._states[key] = state
        for added, _ in self._watchers:
            added(state)
        self._changes.note()
        return state

    def remove_state(self, api_key: str) -> None:
        """Remove an added state with all its data."""
        state = self._states.pop(api_key, None)
        if state is None:
            raise ConfigurationError("no state that was added has this API key")
        state._deliveries.agenda.forget()
        state._tokens.forget()
        for _, removed in self._watchers:
            removed(state)
        self._changes.note()

    def watch_states(self, added: Callable[[Self], object], removed: Callable[[Self], object]) -> Callable[[], None]:
        """Call ``added`` or ``removed`` with each state that is added or removed. Return a function that ends this."""
        watcher = (added, removed)
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def snapshot(self) -> dict[str, object]:
        """Return the state as JSON data: webhooks with their secrets, messages, events, tokens and planned attempts.

        Added states are included. Recorded requests, deliveries and violations, and faults are not.
        """
        saved = Saved(
            VERSION,
            self.clock(),
            self._store.ids.made,
            self._store.serial,
            self._store.applications,
            [
                SavedAttempt(planned.message.id, planned.number, planned.due, planned.once)
                for planned in self._deliveries.agenda.planned()
            ],
            [
                SavedState(state.name, key, isinstance(state.clock, ManualClock), state.snapshot())
                for key, state in self.states.items()
            ],
        )
        found: dict[str, object] = _converter().unstructure(saved)
        return found

    def restore(self, snapshot: Mapping[str, object]) -> None:
        """Replace the state with one that ``snapshot`` returned.

        The clock moves forward to the snapshot's time, if it can be moved. Raises ``ConfigurationError`` if
        ``snapshot`` is not a snapshot, or has an API key that this fake does not have.
        """
        saved = _read(snapshot)
        if any(key not in self._store.applications for key in saved.applications):
            raise ConfigurationError(
                "the state belongs to another API key: make the fake with the api_keys of the saved one"
            )
        self._deliveries.agenda.forget()
        self._tokens.forget()
        if isinstance(self.clock, MovableClock):
            self.clock.move_to(saved.now)
        self._store.ids.made = saved.ids
        self._store.serial = saved.serial
        for key, app in saved.applications.items():
            self._store.applications[key] = app
            self._tokens.restore(app, app.tokens)
        for planned in saved.due:
            found = self._store.find_message(planned.message)
            if found is not None:
                self._deliveries.agenda.plan(PlannedAttempt(planned.due, *found, planned.number, planned.once, Cause()))
        for key in tuple(self.states):
            self.remove_state(key)
        for each in saved.states:
            clock = ManualClock(_read(each.state).now) if each.still else None
            self.add_state(each.name, api_key=each.key, clock=clock).restore(each.state)
        self._changes.note()
        self._deliveries.wake()

    def _make_state(self, api_key: str, seed: int | str | None, clock: Clock) -> Self:
        """Return a new fake with the settings of this one."""
        raise NotImplementedError  # FakeBasiq implements it: this module cannot import its constructor

    def _new_clock(self) -> Clock:
        if isinstance(self.clock, ManualClock):
            return ManualClock()
        return SystemClock(self.clock.speed) if isinstance(self.clock, SystemClock) else self.clock


def _read(snapshot: Mapping[str, object]) -> Saved:
    try:
        if (version := snapshot["version"]) != VERSION:
            raise ConfigurationError(
                f"the state was saved in version {version!r}; this release reads version {VERSION}"
            )
        return _converter().structure(snapshot, Saved)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"this is not the state of a fake: {type(error).__name__}") from error


@cache
def _converter() -> Converter:
    from cattrs import Converter
    from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

    converter = Converter(detailed_validation=False)
    left_out = override(omit=True)
    converter.register_unstructure_hook(datetime, datetime.isoformat)
    converter.register_structure_hook(datetime, lambda value, _: datetime.fromisoformat(value))
    converter.register_unstructure_hook(timedelta, timedelta.total_seconds)
    converter.register_structure_hook(timedelta, lambda value, _: timedelta(seconds=value))
    converter.register_unstructure_hook(bytes, lambda value: base64.b64encode(value).decode())
    converter.register_structure_hook(bytes, lambda value, _: base64.b64decode(value))
    converter.register_structure_hook_func(lambda kind: kind is object, lambda value, _: value)
    # Histories that are made on demand are saved as the values that they are made from.
    converter.register_unstructure_hook(
        SeededEvents, make_dict_unstructure_fn(SeededEvents, converter, ids=left_out, users=left_out)
    )
    converter.register_structure_hook(SeededEvents, lambda value, _: _seeded_events(value, converter))
    converter.register_unstructure_hook(
        SeededMessages, make_dict_unstructure_fn(SeededMessages, converter, ids=left_out)
    )
    converter.register_structure_hook(SeededMessages, lambda value, _: _seeded_messages(value, converter))
    converter.register_unstructure_hook_func(_is_log, lambda log: _save_log(log, converter))
    converter.register_structure_hook_func(_is_log, lambda value, kind: _load_log(value, get_args(kind)[0], converter))
    converter.register_unstructure_hook(
        Application, make_dict_unstructure_fn(Application, converter, seeded=left_out, entities=left_out)
    )
    plain = make_dict_structure_fn(Application, converter, seeded=left_out, entities=left_out)
    converter.register_structure_hook(Application, lambda value, kind: _complete(plain(value, kind)))
    return converter


def _is_log(kind: object) -> bool:
    origin: object = get_origin(kind)
    return origin is Log


def _save_log(log: Log[Any], converter: Converter) -> list[Json]:
    parts: list[Json] = []
    for segment in log.segments():
        if isinstance(segment, (SeededEvents, SeededMessages)):
            parts.append({"seeded": converter.unstructure(segment)})
        else:
            parts.append({"stored": [converter.unstructure(segment[index]) for index in range(len(segment))]})
    kept = [converter.unstructure(item) for item in log.kept()]
    return [*parts, {"kept": kept}] if kept else parts


def _load_log(parts: list[Json], kind: type, converter: Converter) -> Log[Any]:
    log: Log[Any] = Log()
    for part in parts:
        if "seeded" in part:
            log.extend(converter.structure(part["seeded"], SeededMessages if kind is Message else SeededEvents))
        for item in part.get("stored", ()):
            log.append(converter.structure(item, kind))
        for item in part.get("kept", ()):
            log.keep(converter.structure(item, kind))
    return log


def _seeded_events(saved: Json, converter: Converter) -> SeededEvents:
    return SeededEvents.make(
        tuple(saved["name"]),
        tuple(saved["types"]),
        converter.structure(saved["first"], datetime),
        converter.structure(saved["every"], timedelta),
        saved["count"],
    )


def _seeded_messages(saved: Json, converter: Converter) -> SeededMessages:
    events = converter.structure(saved["events"], SeededEvents)
    return SeededMessages(
        SeededIds("message", *events.name), saved["webhook_id"], saved["url"], events, saved["failed"]
    )


def _complete(app: Application) -> Application:
    """Fill in the fields of an application that are computed from the others."""
    for segment in app.events.segments():
        if isinstance(segment, SeededEvents):
            app.seeded.append(segment)
        else:
            events = (segment[index] for index in range(len(segment)))
            app.entities.update((event.path, event) for event in events)
    return app
