"""The fake's state as JSON: what ``--state`` keeps."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from ...errors import ConfigurationError
from ._clock import ManualClock, MovableClock
from ._deliveries import Deliveries
from ._ids import SeededIds
from ._log import Log
from ._records import Attempt, Event, Message, Webhook
from ._seeded import SeededEvents, SeededMessages
from ._state import Application, Token
from ._states import States

VERSION = 1
Json = dict[str, Any]


class Snapshots(States):
    """The methods of ``FakeBasiq`` that save and restore its state."""

    def snapshot(self) -> dict[str, object]:
        """Its state, as JSON can hold it: webhooks with their secrets, messages, events, tokens, what is due.

        Of the states that were added too. Requests, deliveries, violations and faults are not part of it.
        """
        return {
            "version": VERSION,
            "now": self.clock().isoformat(),
            "ids": self._state.ids.made,
            "serial": self._state.serial,
            "applications": {key: _save_application(app) for key, app in self._state.applications.items()},
            "due": [
                {
                    "webhook": job.webhook.id,
                    "message": job.message.id,
                    "number": job.number,
                    "due": job.due.isoformat(),
                    "once": job.once,
                }
                for job in self._deliveries.jobs()
            ],
            "states": [
                {
                    "name": state.name,
                    "key": key,
                    "still": isinstance(state.clock, ManualClock),
                    "state": state.snapshot(),
                }
                for key, state in self.states.items()
            ],
        }

    def restore(self, snapshot: Mapping[str, object]) -> None:
        """Take over a state that ``snapshot`` returned, in place of the one it has.

        The clock moves forward to that state's time; one that cannot be moved stays. Raises ConfigurationError for
        what is no such state, or where an API key of it is not among this fake's.
        """
        saved: Any = snapshot
        try:
            if saved["version"] != VERSION:
                raise ConfigurationError(f"the state is of version {saved['version']!r}; this one reads {VERSION}")
            unknown = [key for key in saved["applications"] if key not in self._state.applications]
            if unknown:
                raise ConfigurationError(
                    "the state belongs to another API key; pass the keys that it was saved with as api_keys"
                )
            now = datetime.fromisoformat(saved["now"])
            applications = [(key, _load_application(app)) for key, app in saved["applications"].items()]
            due = [(job, datetime.fromisoformat(job["due"])) for job in saved["due"]]
            made, serial = int(saved["ids"]), int(saved["serial"])
            states = [(each["name"], each["key"], each["still"], each["state"]) for each in saved["states"]]
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            if isinstance(error, ConfigurationError):
                raise
            raise ConfigurationError(f"this is no state of a fake: {type(error).__name__}") from error
        self._deliveries.forget()
        self._tokens.forget()
        if isinstance(self.clock, MovableClock):
            self.clock.move_to(now)
        self._state.ids.made = made
        self._state.serial = serial
        for key, (app, tokens) in applications:
            self._state.applications[key] = app
            self._tokens.restore(app, tokens)
        for job, moment in due:
            self._schedule(self._deliveries, job, moment)
        for key in tuple(self.states):
            self.remove_state(key)
        for name, key, still, state in states:
            clock = ManualClock(datetime.fromisoformat(state["now"])) if still else None
            self.add_state(name, api_key=key, clock=clock).restore(state)
        self._changes.note()
        self._deliveries.wake()

    def _schedule(self, deliveries: Deliveries, job: Json, due: datetime) -> None:
        found = self._state.find_message(job["message"])
        if found is not None:
            app, webhook, message = found
            deliveries.schedule(app, webhook, message, job["number"], due, once=job["once"])


def _save_application(app: Application) -> Json:
    return {
        "name": app.name,
        "disabled": app.disabled,
        "webhooks": [_save_webhook(webhook) for webhook in app.webhooks.values()],
        "events": _save_log(app.events, _save_event),
        "messages": {id: _save_log(log, _save_message) for id, log in app.messages.items()},
        "tokens": [
            {
                "text": token.text,
                "scope": token.scope,
                "expires": token.expires.isoformat(),
                "used": token.used,
                "once": token.once,
            }
            for token in app.tokens
        ],
    }


def _load_application(saved: Json) -> tuple[Application, list[Token]]:
    app = Application(saved["name"], disabled=saved["disabled"])
    seeded: dict[str, SeededEvents] = {}
    events: Log[Event] = _load_log(saved["events"], _load_event, lambda part: _load_seeded(part, seeded))
    app.events = events
    by_id = {item["id"]: _load_event(item) for part in saved["events"] for item in part.get("stored", ())}
    app.entities = {event.path: event for event in by_id.values()}
    for item in saved["webhooks"]:
        webhook = _load_webhook(item)
        app.webhooks[webhook.id] = webhook
        parts = saved["messages"][webhook.id]
        log: Log[Message] = _load_log(
            parts,
            lambda message: _load_message(message, by_id),
            lambda part: SeededMessages(
                SeededIds("message", *part["name"]),
                part["webhook"],
                part["url"],
                _load_seeded(part["events"], seeded),
                part["failed"],
            ),
        )
        app.messages[webhook.id] = log
    app.seeded = list(seeded.values())
    tokens = [
        Token(token["text"], token["scope"], datetime.fromisoformat(token["expires"]), token["used"], token["once"])
        for token in saved["tokens"]
    ]
    return app, tokens


def _save_log(log: Log[Any], save: Callable[[Any], Json]) -> list[Json]:
    parts: list[Json] = []
    for segment in log.segments():
        if isinstance(segment, SeededEvents):
            parts.append({"seeded": _save_seeded(segment)})
        elif isinstance(segment, SeededMessages):
            parts.append(
                {
                    "seeded": {
                        "name": list(segment.events.name),
                        "webhook": segment.webhook_id,
                        "url": segment.url,
                        "failed": segment.failed,
                        "events": _save_seeded(segment.events),
                    }
                }
            )
        else:
            parts.append({"stored": [save(segment[index]) for index in range(len(segment))]})
    kept = [save(item) for item in log.kept()]
    return [*parts, {"kept": kept}] if kept else parts


def _load_log(parts: list[Json], load: Callable[[Json], Any], load_seeded: Callable[[Json], Any]) -> Log[Any]:
    log: Log[Any] = Log()
    for part in parts:
        if "seeded" in part:
            log.extend(load_seeded(part["seeded"]))
        for item in part.get("stored", ()):
            log.append(load(item))
        for item in part.get("kept", ()):
            log.keep(load(item))
    return log


def _save_seeded(events: SeededEvents) -> Json:
    return {
        "name": list(events.name),
        "types": list(events.types),
        "first": events.first.isoformat(),
        "every": events.every.total_seconds(),
        "count": events.count,
    }


def _load_seeded(saved: Json, known: dict[str, SeededEvents]) -> SeededEvents:
    name = tuple(saved["name"])
    key = repr(name)
    if key not in known:
        first = datetime.fromisoformat(saved["first"])
        every = timedelta(seconds=saved["every"])
        known[key] = SeededEvents.make(name, tuple(saved["types"]), first, every, saved["count"])
    return known[key]


def _save_webhook(webhook: Webhook) -> Json:
    return {
        "id": webhook.id,
        "serial": webhook.serial,
        "url": webhook.url,
        "events": list(webhook.events),
        "key": base64.b64encode(webhook.key).decode(),
        "active_at": webhook.active_at.isoformat(),
        "name": webhook.name,
        "description": webhook.description,
        "disabled": webhook.disabled,
    }


def _load_webhook(saved: Json) -> Webhook:
    return Webhook(
        saved["id"],
        saved["serial"],
        saved["url"],
        tuple(saved["events"]),
        base64.b64decode(saved["key"]),
        datetime.fromisoformat(saved["active_at"]),
        saved["name"],
        saved["description"],
        saved["disabled"],
    )


def _save_event(event: Event) -> Json:
    return {
        "id": event.id,
        "type": event.type_id,
        "user": event.user_id,
        "entity": event.entity_id,
        "created": event.created.isoformat(),
        "data": event.data,
    }


def _load_event(saved: Json) -> Event:
    created = datetime.fromisoformat(saved["created"])
    return Event(saved["id"], saved["type"], saved["user"], saved["entity"], created, saved["data"])


def _save_message(message: Message) -> Json:
    return {
        "id": message.id,
        "webhook": message.webhook_id,
        "event": _save_event(message.event),
        "created": message.created.isoformat(),
        "text": message.text,
        "attempts": [
            {
                "id": attempt.id,
                "url": attempt.url,
                "response": attempt.response,
                "status": attempt.status_code,
                "at": attempt.at.isoformat(),
                "ok": attempt.ok,
                "duration": attempt.duration,
            }
            for attempt in message.attempts
        ],
    }


def _load_message(saved: Json, events: Mapping[str, Event]) -> Message:
    event = events.get(saved["event"]["id"]) or _load_event(saved["event"])
    attempts = tuple(
        Attempt(
            each["id"],
            each["url"],
            each["response"],
            each["status"],
            datetime.fromisoformat(each["at"]),
            each["ok"],
            each["duration"],
        )
        for each in saved["attempts"]
    )
    created = datetime.fromisoformat(saved["created"])
    return Message(saved["id"], saved["webhook"], event, created, saved["text"], attempts)
