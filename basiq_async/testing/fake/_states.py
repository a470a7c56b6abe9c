"""Isolated states: further fakes that whatever serves the first one serves too, each with a key, clock and ids."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Self

from ...errors import ConfigurationError
from ._clock import Clock, ManualClock, SystemClock
from ._parts import Parts


class States(Parts):
    """The methods of ``FakeBasiq`` that isolate tests from one another."""

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
        if not key or key in self._state.applications or key in self._states:
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

    def _make_state(self, api_key: str, seed: int | str | None, clock: Clock) -> Self:
        """A fake with the settings of this one."""
        raise NotImplementedError

    def _new_clock(self) -> Clock:
        if isinstance(self.clock, ManualClock):
            return ManualClock()
        return SystemClock(self.clock.speed) if isinstance(self.clock, SystemClock) else self.clock
