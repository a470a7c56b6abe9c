"""The operations of the control API that change or show the state of a mock."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import attrs

from ... import __version__
from ..._web.access import ControlError
from ..fake._clock import ManualClock, SystemClock
from ..fake._deliveries import Emission
from ..fake._fake import FakeBasiq
from ..fake._faults import DeliveryFault, Fault
from ._history import find_message
from ._operation import About, Control, Done, Items, JsonObject, done, given, operation, take

MOST_STATES = 10_000
Drop = Literal["request", "response"]
EndpointURL = Annotated[str | None, About("The endpoint's url; by default every endpoint.")]
Times = Annotated[int, About("How many; 1 by default.", 1, 1_000_000)]
MOST = 10_000_000


# --- the mock and its states ---


@attrs.frozen
class HealthOfMock:
    status: Literal["ok"]
    base_url: str
    version: str


@operation("GET", "/health")
class Health:
    """Whether the mock runs and, if the call has an API key, whether the key belongs to this mock."""

    async def run(self, control: Control) -> HealthOfMock:
        return HealthOfMock("ok", control.base_url, __version__)


@attrs.frozen
class NewChallenge:
    challenge: str


@operation("GET", "/challenge")
class Challenge:
    """A text for the proof that a caller knows an API key, in the header X-Fake-State of one request."""

    async def run(self, control: Control) -> NewChallenge:
        return NewChallenge(control.challenges.make())


@attrs.frozen
class StateSummary:
    name: str
    seed: str
    now: datetime
    pending: int
    webhooks: int
    messages: int
    requests: int
    deliveries: int
    violations: int


def summarize(fake: FakeBasiq) -> StateSummary:
    logs = {"requests": fake.request_log, "deliveries": fake.deliveries, "violations": fake.violations}
    counts = {name: len(log) for name, log in logs.items()}
    counts |= {"webhooks": len(fake.webhooks()), "messages": fake.count_messages(), "pending": len(fake.upcoming())}
    return take(StateSummary, fake, seed=str(fake.seed), now=fake.now(), **counts)


@operation("GET", "/states")
class States:
    """The states of the mock, without their API keys."""

    async def run(self, control: Control) -> Items[StateSummary]:
        return Items(tuple(map(summarize, (control.first, *control.first.states.values()))))


@attrs.frozen
class NewState(StateSummary):
    api_key: str = attrs.field(repr=False)


@operation("POST", "/states")
class AddState:
    """Add an empty state with its own API key, clock and ids. States share no data.

    Calls with the state's key are for that state only.
    """

    name: Annotated[str | None, About("The state's name, such as the name of a test; by default a number.")] = None
    seed: Annotated[str | None, About("The seed of the state's ids; by default a random one.")] = None
    api_key: Annotated[str | None, About("The state's API key; by default a random one.")] = None
    still: Annotated[bool, About("Let its clock stand still until it is moved, also if the mock's runs.")] = False

    async def run(self, control: Control) -> NewState:
        if len(control.first.states) >= MOST_STATES:
            raise invalid(f"there are {MOST_STATES} states: remove those that are no longer used")
        key = self.api_key or ""
        if not (key.isascii() and key.isprintable() and " " not in key and len(key) <= 512):
            raise invalid("apiKey must be printable ASCII without a space, and at most 512 characters")
        clock = ManualClock(datetime.now(UTC)) if self.still else None
        state = control.first.add_state(self.name, api_key=self.api_key, seed=self.seed, clock=clock)
        return take(NewState, summarize(state), api_key=state.api_key)


@operation("POST", "/states/remove")
class RemoveState:
    """Remove the state to which the call's API key belongs, with all its data. The first state cannot be removed."""

    async def run(self, control: Control) -> Done:
        if control.fake is control.first:
            raise invalid("the first state of a mock cannot be removed: reset it, or send the API key of another state")
        result = done(control)
        control.first.remove_state(control.fake.api_key)
        return result


def invalid(message: str) -> ControlError:
    return ControlError(400, "not-valid", message)


# --- time ---


@attrs.frozen
class Clock:
    running: bool
    speed: float | None


@attrs.frozen
class Outage:
    url: str | None
    status: int | None


@attrs.frozen
class WholeState(StateSummary):
    next_due: datetime | None
    base_url: str
    clock: Clock
    endpoints_down: tuple[Outage, ...]
    faults: tuple[Fault, ...]
    delivery_faults: tuple[DeliveryFault, ...]
    revision: int


@operation("GET", "/state")
class State:
    """The time, the next attempt, the faults, and the number of webhooks, messages and requests."""

    async def run(self, control: Control) -> WholeState:
        fake, clock = control.fake, control.fake.clock
        speed = clock.speed if isinstance(clock, SystemClock) else None
        down = tuple(Outage(url, status) for url, status in fake._deliveries.down.items())
        return take(
            WholeState,
            summarize(fake),
            fake,
            base_url=control.base_url,
            clock=Clock(speed is not None, speed),
            endpoints_down=down,
            faults=tuple(fake._faults),
            delivery_faults=tuple(fake._deliveries.faults),
            revision=fake._changes.revision,
        )


@attrs.frozen
class Advanced(Done):
    attempts: int


@operation("POST", "/advance")
class Advance:
    """Move the clock forward, and make every delivery that is due on the way.

    Responds when the deliveries are made.
    """

    days: Annotated[float, About("Days to move the clock forward by.", 0, MOST)] = 0
    hours: Annotated[float, About("Hours to move the clock forward by.", 0, MOST)] = 0
    minutes: Annotated[float, About("Minutes to move the clock forward by.", 0, MOST)] = 0
    seconds: Annotated[float, About("Seconds to move the clock forward by.", 0, MOST)] = 0

    async def run(self, control: Control) -> Advanced:
        before = _count_attempts(control.fake)
        await control.fake.advance(timedelta(**given(self)))
        return take(Advanced, done(control), attempts=_count_attempts(control.fake) - before)


@operation("POST", "/next")
class Next:
    """Move the clock to the next planned attempt, and make it."""

    async def run(self, control: Control) -> Advanced:
        before = _count_attempts(control.fake)
        await control.fake.advance_to_next()
        return take(Advanced, done(control), attempts=_count_attempts(control.fake) - before)


def _count_attempts(fake: FakeBasiq) -> int:
    return fake._deliveries.attempts.added


# --- events ---


@attrs.frozen
class Emitted:
    event_id: str
    message_ids: tuple[str, ...]


@operation("POST", "/emit")
class Emit:
    """Emit an event, with a message for each active webhook that is subscribed to it."""

    event_type_id: Annotated[str, About("The event type, such as consent.revoked.")]
    user_id: Annotated[str | None, About("The user that the event is about; by default a new one.")] = None
    entity_id: Annotated[str | None, About("The entity that the event is about; by default a new one.")] = None
    data: Annotated[JsonObject | None, About("The event's data; by default type, id and link of the entity.")] = None
    wait: Annotated[bool, About("Respond after the first attempt of each message.")] = False

    async def run(self, control: Control) -> Emitted:
        about: dict[str, Any] = {"user_id": self.user_id, "entity_id": self.entity_id, "data": self.data}
        return await _show(control.fake.emit(self.event_type_id, **about), self.wait)


@operation("POST", "/messages/{messageId}/redeliver")
class Redeliver:
    """Deliver a message once more, now."""

    message_id: Annotated[str, About("The message's id.")]
    wait: Annotated[bool, About("Respond after the attempt.")] = False

    async def run(self, control: Control) -> Emitted:
        return await _show(control.fake.redeliver(find_message(control, self.message_id).id), self.wait)


async def _show(emission: Emission, wait: bool) -> Emitted:
    return take(Emitted, await emission if wait else emission)


# --- faults ---


@operation("POST", "/fail")
class Fail:
    """Make the next requests fail."""

    times: Times = 1
    status: Annotated[int | None, About("Respond with an error of this status.", 100, 999)] = None
    method: Annotated[str | None, About("Only requests with this method.")] = None
    path: Annotated[str | None, About("Only this path, with * for any text; by default all but /token.")] = None
    retry_after: Annotated[float | None, About("Seconds for the Retry-After header.", 0, MOST)] = None
    body: Annotated[str | None, About("Respond with this body, unchanged.")] = None
    headers: Annotated[JsonObject | None, About("More headers of the response.")] = None
    delay: Annotated[float, About("Respond after this many seconds.", 0, 3600)] = 0
    drop: Annotated[Drop | None, About("request: it is not carried out. response: its response is lost.")] = None
    loop: Annotated[bool, About("Let a list's next link lead to the same page.")] = False

    async def run(self, control: Control) -> None:
        headers: Mapping[str, Any] = self.headers or {}
        if not all(isinstance(text, str) and text.isprintable() for each in headers.items() for text in each):
            raise invalid("headers must be printable texts")
        control.fake.fail_next(**{**given(self), "headers": headers})


@operation("POST", "/deliveries/fail")
class FailDeliveries:
    """Make the next deliveries fail."""

    times: Times = 1
    status: Annotated[int | None, About("Record this status without calling the endpoint.", 100, 999)] = None
    drop: Annotated[Drop | None, About("request: the endpoint is not reached. response: its response is lost.")] = None
    url: Annotated[str | None, About("Only deliveries to this url; * matches any text.")] = None

    async def run(self, control: Control) -> None:
        control.fake.fail_deliveries(**given(self))


@operation("POST", "/endpoint/down")
class EndpointDown:
    """Let all deliveries to an endpoint fail, without calling it."""

    url: EndpointURL = None
    status: Annotated[int | None, About("The response's status; without it, no connection.", 100, 999)] = None

    async def run(self, control: Control) -> None:
        control.fake.endpoint_down(self.url, status=self.status)


@operation("POST", "/endpoint/up")
class EndpointUp:
    """End the outage of an endpoint."""

    url: EndpointURL = None

    async def run(self, control: Control) -> None:
        control.fake.endpoint_up(self.url)


@operation("POST", "/expire-tokens")
class ExpireTokens:
    """Let all tokens that were issued expire now."""

    async def run(self, control: Control) -> None:
        control.fake.expire_tokens()


@operation("POST", "/disable-account")
class DisableAccount:
    """Respond with 403 to every later request with the API key of the state."""

    async def run(self, control: Control) -> None:
        control.fake.disable_account()


# --- data ---


@attrs.frozen
class Added:
    webhook_id: str


@operation("POST", "/webhooks")
class AddWebhook:
    """Add a webhook."""

    url: Annotated[str, About("The url of the endpoint.")]
    subscribed_events: Annotated[tuple[str, ...] | None, About("Event types; all of them by default.")] = None
    active: Annotated[bool, About("Whether it is active at once, as by default, or after its cool-off.")] = True

    async def run(self, control: Control) -> Added:
        return Added(control.fake.add_webhook(self.url, self.subscribed_events, active=self.active))


@operation("POST", "/seed")
class Seed:
    """Give a webhook a history of messages."""

    messages: Annotated[int, About("The number of messages.", 0, 100_000_000)]
    webhook_id: Annotated[str | None, About("The webhook; by default the first, which is added if none exists.")] = None
    event_types: Annotated[tuple[str, ...] | None, About("Event types; by default those of the webhook.")] = None
    every: Annotated[float, About("Seconds between two messages; 1 by default.", 0.001, 1_000_000)] = 1
    failed: Annotated[float, About("The share of messages, from 0 to 1, whose only attempt failed.", 0, 1)] = 0

    async def run(self, control: Control) -> Added:
        rest = given(self)
        return Added(control.fake.seed_messages(rest.pop("messages"), **rest))


@operation("POST", "/reset")
class Reset:
    """Forget everything in the state that the call is for, except its API keys and the time."""

    log: Annotated[bool, About("Forget only recorded requests, deliveries and violations, and the faults.")] = False

    async def run(self, control: Control) -> None:
        if self.log:
            control.fake.reset_log()
        else:
            control.fake.reset()


@attrs.frozen
class Webhook:
    id: str
    url: str
    active_at: datetime
    name: str | None
    description: str | None
    status: Literal["active", "pending-approval", "disabled"]
    subscribed_events: tuple[str, ...]
    cool_off_left: float
    messages: int


@operation("GET", "/webhooks")
class Webhooks:
    """The webhooks, without their secrets."""

    async def run(self, control: Control) -> Items[Webhook]:
        fake, now = control.fake, control.fake.now()
        return Items(
            tuple(
                take(
                    Webhook,
                    each,
                    status=each.status(now),
                    subscribed_events=each.events,
                    cool_off_left=max((each.active_at - now).total_seconds(), 0.0),
                    messages=fake.count_messages(each.id),
                )
                for each in fake.webhooks()
            )
        )


@attrs.frozen
class Secret:
    secret: str = attrs.field(repr=False)


@operation("POST", "/webhooks/{webhookId}/secret")
class WebhookSecret:
    """Show the signing secret of a webhook."""

    webhook_id: Annotated[str, About("The webhook's id.")]

    async def run(self, control: Control) -> Secret:
        if all(each.id != self.webhook_id for each in control.fake.webhooks()):
            raise ControlError(404, "not-found", f"there is no webhook {self.webhook_id!r}")
        return Secret(control.fake.secret(self.webhook_id))
