"""States as a whole: isolated from one another, saved and restored."""

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
from ._clock import Clock, ManualClock, MovableClock, SystemClock
from ._inspect import Parts
from ._records import Log, Message
from ._seeded import SeededEvents, SeededIds, SeededMessages
from ._store import Application

if TYPE_CHECKING:
    from cattrs import Converter


VERSION = 1
Json = dict[str, Any]


@attrs.frozen
class SavedAttempt:
    """An attempt that is to come."""

    message: str
    number: int
    due: datetime
    once: bool


@attrs.frozen
class SavedState:
    """A state that was added."""

    name: str
    key: str
    still: bool
    state: Json


@attrs.frozen
class Saved:
    """All of a fake that is kept."""

    version: int
    now: datetime
    ids: int
    serial: int
    applications: dict[str, Application]
    due: list[SavedAttempt]
    states: list[SavedState]


class States(Parts):
    """The methods of ``FakeBasiq`` that isolate tests from one another, and that save and restore a state."""

    name: str
    """What ``add_state`` named it; ``first`` for the one that was not added."""
    _states: dict[str, Self]
    _added: int
    _watchers: list[tuple[Callable[[Self], object], Callable[[Self], object]]]

    @staticmethod
    def make_api_key() -> str:
        """An API key that nobody can guess, in the form that Basiq's have."""
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
        """Add an empty state: a fake of its own with the same settings. What serves this fake serves it too.

        A request belongs to the state whose API key or token it carries. Nothing of one state is seen in another.

        name: what people know it by; by default a number.
        api_key: its key; by default one that nobody can guess.
        seed: what its ids are made from; by default one that nobody else has.
        clock: by default a new one of the kind that this fake has; a clock of your own is shared.
        """
        key = self.make_api_key() if api_key is None else api_key
        if not key or key in self._store.applications or key in self._states:
            raise ConfigurationError("a state needs an API key of its own")
        state = self._make_state(key, seed, clock or self._new_clock())
        self._added += 1
        state.name = name or f"state {self._added}"
        self._states[key] = state
        for added, _ in self._watchers:
            added(state)
        self._changes.note()
        return state

    def remove_state(self, api_key: str) -> None:
        """Remove a state that was added, with everything in it."""
        state = self._states.pop(api_key, None)
        if state is None:
            raise ConfigurationError("no state that was added has this API key")
        state._deliveries.forget()
        state._tokens.forget()
        for _, removed in self._watchers:
            removed(state)
        self._changes.note()

    def watch_states(self, added: Callable[[Self], object], removed: Callable[[Self], object]) -> Callable[[], None]:
        """Call back for each state that is added or removed. Returns what ends that."""
        watcher = (added, removed)
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def snapshot(self) -> dict[str, object]:
        """Its state, as JSON can hold it: webhooks with their secrets, messages, events, tokens, what is due.

        Of the states that were added too. Requests, deliveries, violations and faults are not part of it.
        """
        saved = Saved(
            VERSION,
            self.clock(),
            self._store.ids.made,
            self._store.serial,
            self._store.applications,
            [
                SavedAttempt(planned.message.id, planned.number, planned.due, planned.once)
                for planned in self._deliveries.planned()
            ],
            [
                SavedState(state.name, key, isinstance(state.clock, ManualClock), state.snapshot())
                for key, state in self.states.items()
            ],
        )
        found: dict[str, object] = _converter().unstructure(saved)
        return found

    def restore(self, snapshot: Mapping[str, object]) -> None:
        """Take over a state that ``snapshot`` returned, in place of the one it has.

        The clock moves forward to that state's time; one that cannot be moved stays. Raises ConfigurationError for
        anything else, and for a state with an API key that is not among this fake's.
        """
        saved = _read(snapshot)
        if any(key not in self._store.applications for key in saved.applications):
            raise ConfigurationError("the state belongs to another API key; pass the keys that it was saved with")
        self._deliveries.forget()
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
                self._deliveries.schedule(*found, planned.number, planned.due, once=planned.once)
        for key in tuple(self.states):
            self.remove_state(key)
        for each in saved.states:
            clock = ManualClock(_read(each.state).now) if each.still else None
            self.add_state(each.name, api_key=each.key, clock=clock).restore(each.state)
        self._changes.note()
        self._deliveries.wake()

    def _make_state(self, api_key: str, seed: int | str | None, clock: Clock) -> Self:
        """A fake with the settings of this one."""
        raise NotImplementedError

    def _new_clock(self) -> Clock:
        if isinstance(self.clock, ManualClock):
            return ManualClock()
        return SystemClock(self.clock.speed) if isinstance(self.clock, SystemClock) else self.clock


def _read(snapshot: Mapping[str, object]) -> Saved:
    try:
        if (version := snapshot["version"]) != VERSION:
            raise ConfigurationError(f"the state is of version {version!r}; this one reads {VERSION}")
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
    # What is made on demand is kept by what it is made from.
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
    """Fill in the fields of an application that follow from the others."""
    for segment in app.events.segments():
        if isinstance(segment, SeededEvents):
            app.seeded.append(segment)
        else:
            events = (segment[index] for index in range(len(segment)))
            app.entities.update((event.path, event) for event in events)
    return app
