"""The operations of the control API that change or show the state of a mock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import attrs

from ... import __version__
from ..._web.access import ControlError
from ..fake._clock import ManualClock, SystemClock
from ..fake._deliveries import Emission
from ..fake._fake import FakeBasiq
from ..fake._faults import DeliveryFault, Drop, Fault
from ._history import find_message
from ._operation import About, Control, Done, Items, JsonObject, done, operation, take

MOST_STATES = 10_000
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
async def health(control: Control) -> HealthOfMock:
    """Whether the mock runs and, if the call has an API key, whether the key belongs to this mock."""
    return HealthOfMock("ok", control.base_url, __version__)


@attrs.frozen
class NewChallenge:
    challenge: str


@operation("GET", "/challenge")
async def challenge(control: Control) -> NewChallenge:
    """A text for the proof that a caller knows an API key, in the header X-Fake-State of one request."""
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
    misuses: int


def summarize(fake: FakeBasiq) -> StateSummary:
    logs = {"requests": fake.request_log, "deliveries": fake.deliveries, "misuses": fake.misuses}
    counts = {name: len(log) for name, log in logs.items()}
    counts |= {"webhooks": len(fake.webhooks()), "messages": fake.count_messages(), "pending": len(fake.upcoming())}
    return take(StateSummary, fake, seed=str(fake.seed), now=fake.now(), **counts)


@operation("GET", "/states")
async def states(control: Control) -> Items[StateSummary]:
    """The states of the mock, without their API keys."""
    return Items(tuple(map(summarize, (control.first, *control.first.states.values()))))


@attrs.frozen
class NewState(StateSummary):
    api_key: str = attrs.field(repr=False)


@operation("POST", "/states")
async def add_state(
    control: Control,
    *,
    name: Annotated[str | None, About("The state's name, such as the name of a test; by default a number.")] = None,
    seed: Annotated[str | None, About("The seed of the state's ids; by default a random one.")] = None,
    api_key: Annotated[str | None, About("The state's API key; by default a random one.")] = None,
    still: Annotated[bool, About("Let its clock stand still until it is moved, also if the mock's runs.")] = False,
) -> NewState:
    """Add an empty state with its own API key, clock and ids. States share no data.

    Calls with the state's key are for that state only.
    """
    if len(control.first.states) >= MOST_STATES:
        raise invalid(f"there are {MOST_STATES} states: remove those that are no longer used")
    key = api_key or ""
    if not (key.isascii() and key.isprintable() and " " not in key and len(key) <= 512):
        raise invalid("apiKey must be printable ASCII without a space, and at most 512 characters")
    clock = ManualClock(datetime.now(UTC)) if still else None
    state = control.first.add_state(name, api_key=api_key, seed=seed, clock=clock)
    return take(NewState, summarize(state), api_key=state.api_key)


@operation("POST", "/states/remove")
async def remove_state(control: Control) -> Done:
    """Remove the state to which the call's API key belongs, with all its data. The first state cannot be removed."""
    if control.fake is control.first:
        raise invalid("the first state of a mock cannot be removed: reset it, or send the API key of another state")
    result = done(control)
    control.first.remove_state(control.fake.api_key)
    return result


def invalid(message: str) -> ControlError:
    return ControlError(400, "not-valid", message)


# --- time ---


@attrs.frozen
class ClockState:
    running: bool
    speed: float | None


@attrs.frozen
class DownEndpoint:
    url: str | None
    status: int | None


@attrs.frozen
class WholeState(StateSummary):
    next_due: datetime | None
    base_url: str
    clock: ClockState
    endpoints_down: tuple[DownEndpoint, ...]
    faults: tuple[Fault, ...]
    delivery_faults: tuple[DeliveryFault, ...]
    revision: int


@operation("GET", "/state")
async def state(control: Control) -> WholeState:
    """The time, the next attempt, the faults, and the number of webhooks, messages and requests."""
    fake, clock = control.fake, control.fake.clock
    speed = clock.speed if isinstance(clock, SystemClock) else None
    down = tuple(DownEndpoint(url, status) for url, status in fake._deliveries.down.items())
    return take(
        WholeState,
        summarize(fake),
        fake,
        base_url=control.base_url,
        clock=ClockState(speed is not None, speed),
        endpoints_down=down,
        faults=tuple(fake._faults),
        delivery_faults=tuple(fake._deliveries.faults),
        revision=fake._changes.revision,
    )


@attrs.frozen
class Advanced(Done):
    attempts: int


@operation("POST", "/advance")
async def advance(
    control: Control,
    *,
    days: Annotated[float, About("Days to move the clock forward by.", 0, MOST)] = 0,
    hours: Annotated[float, About("Hours to move the clock forward by.", 0, MOST)] = 0,
    minutes: Annotated[float, About("Minutes to move the clock forward by.", 0, MOST)] = 0,
    seconds: Annotated[float, About("Seconds to move the clock forward by.", 0, MOST)] = 0,
) -> Advanced:
    """Move the clock forward, and make every delivery that is due on the way.

    Responds when the deliveries are made.
    """
    before = _count_attempts(control.fake)
    await control.fake.advance(timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds))
    return take(Advanced, done(control), attempts=_count_attempts(control.fake) - before)


@operation("POST", "/next", name="next")
async def next_attempt(control: Control) -> Advanced:
    """Move the clock to the next planned attempt, and make it."""
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
async def emit(
    control: Control,
    *,
    event_type_id: Annotated[str, About("The event type, such as consent.revoked.")],
    user_id: Annotated[str | None, About("The user that the event is about; by default a new one.")] = None,
    entity_id: Annotated[str | None, About("The entity that the event is about; by default a new one.")] = None,
    data: Annotated[JsonObject | None, About("The event's data; by default type, id and link of the entity.")] = None,
    wait: Annotated[bool, About("Respond after the first attempt of each message.")] = False,
) -> Emitted:
    """Emit an event, with a message for each active webhook that is subscribed to it."""
    about: dict[str, Any] = {"user_id": user_id, "entity_id": entity_id, "data": data}
    return await _show(control.fake.emit(event_type_id, **about), wait)


@operation("POST", "/messages/{messageId}/redeliver")
async def redeliver(
    control: Control,
    *,
    message_id: Annotated[str, About("The message's id.")],
    webhook_id: Annotated[str | None, About("The message's webhook, where webhooks share ids.")] = None,
    wait: Annotated[bool, About("Respond after the attempt.")] = False,
) -> Emitted:
    """Deliver a message once more, now."""
    return await _show(control.fake.redeliver(find_message(control, message_id).id, webhook_id), wait)


async def _show(emission: Emission, wait: bool) -> Emitted:
    return take(Emitted, await emission if wait else emission)


# --- faults ---


@operation("POST", "/fail")
async def fail(
    control: Control,
    *,
    times: Times = 1,
    status: Annotated[int | None, About("Respond with an error of this status.", 100, 999)] = None,
    method: Annotated[str | None, About("Only requests with this method.")] = None,
    path: Annotated[str | None, About("Only this path, with * for any text; by default all but /token.")] = None,
    retry_after: Annotated[float | None, About("Seconds for the Retry-After header.", 0, MOST)] = None,
    body: Annotated[str | None, About("Respond with this body, unchanged.")] = None,
    headers: Annotated[JsonObject | None, About("More headers of the response.")] = None,
    delay: Annotated[float, About("Respond after this many seconds.", 0, 3600)] = 0,
    drop: Annotated[Drop | None, About("request: it is not carried out. response: its response is lost.")] = None,
    loop: Annotated[bool, About("Let a list's next link lead to the same page.")] = False,
) -> None:
    """Make the next requests fail."""
    more: dict[str, str] = {}
    for name, text in (headers or {}).items():
        if not (isinstance(text, str) and text.isprintable() and name.isprintable()):
            raise invalid("headers must be printable texts")
        more[name] = text
    control.fake.fail_next(
        times=times,
        status=status,
        method=method,
        path=path,
        retry_after=retry_after,
        body=body,
        headers=more,
        delay=delay,
        drop=drop,
        loop=loop,
    )


@operation("POST", "/deliveries/fail")
async def fail_deliveries(
    control: Control,
    *,
    times: Times = 1,
    status: Annotated[int | None, About("Record this status without calling the endpoint.", 100, 999)] = None,
    drop: Annotated[Drop | None, About("request: the endpoint is not reached. response: its response is lost.")] = None,
    url: Annotated[str | None, About("Only deliveries to this url; * matches any text.")] = None,
) -> None:
    """Make the next deliveries fail."""
    control.fake.fail_deliveries(times=times, status=status, drop=drop, url=url)


@operation("POST", "/endpoint/down")
async def endpoint_down(
    control: Control,
    *,
    url: EndpointURL = None,
    status: Annotated[int | None, About("The response's status; without it, no connection.", 100, 999)] = None,
) -> None:
    """Let all deliveries to an endpoint fail, without calling it."""
    control.fake.endpoint_down(url, status=status)


@operation("POST", "/endpoint/up")
async def endpoint_up(
    control: Control,
    *,
    url: EndpointURL = None,
) -> None:
    """End the outage of an endpoint."""
    control.fake.endpoint_up(url)


@operation("POST", "/expire-tokens")
async def expire_tokens(control: Control) -> None:
    """Let all tokens that were issued expire now."""
    control.fake.expire_tokens()


@operation("POST", "/disable-account")
async def disable_account(control: Control) -> None:
    """Respond with 403 to every later request with the API key of the state."""
    control.fake.disable_account()


# --- data ---


@attrs.frozen
class Added:
    webhook_id: str


@operation("POST", "/webhooks")
async def add_webhook(
    control: Control,
    *,
    url: Annotated[str, About("The url of the endpoint.")],
    subscribed_events: Annotated[tuple[str, ...] | None, About("Event types; all of them by default.")] = None,
    active: Annotated[bool, About("Whether it is active at once, as by default, or after its cool-off.")] = True,
) -> Added:
    """Add a webhook."""
    return Added(control.fake.add_webhook(url, subscribed_events, active=active))


@operation("POST", "/seed")
async def seed(
    control: Control,
    *,
    messages: Annotated[int, About("The number of messages.", 0, 100_000_000)],
    webhook_id: Annotated[
        str | None, About("The webhook; by default the first, which is added if none exists.")
    ] = None,
    event_types: Annotated[tuple[str, ...] | None, About("Event types; by default those of the webhook.")] = None,
    every: Annotated[float, About("Seconds between two messages; 1 by default.", 0.001, 1_000_000)] = 1,
    failed: Annotated[float, About("The share of messages, from 0 to 1, whose only attempt failed.", 0, 1)] = 0,
) -> Added:
    """Give a webhook a history of messages."""
    return Added(control.fake.seed_messages(messages, webhook_id, event_types=event_types, every=every, failed=failed))


@operation("POST", "/reset")
async def reset(
    control: Control,
    *,
    log: Annotated[bool, About("Forget only recorded requests, deliveries and misuses, and the faults.")] = False,
) -> None:
    """Forget everything in the state that the call is for, except its API keys and the time."""
    if log:
        control.fake.reset_log()
    else:
        control.fake.reset()


@attrs.frozen
class ShownWebhook:
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
async def webhooks(control: Control) -> Items[ShownWebhook]:
    """The webhooks, without their secrets."""
    fake, now = control.fake, control.fake.now()
    return Items(
        tuple(
            take(
                ShownWebhook,
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
class ShownSecret:
    secret: str = attrs.field(repr=False)


@operation("POST", "/webhooks/{webhookId}/secret")
async def webhook_secret(
    control: Control,
    *,
    webhook_id: Annotated[str, About("The webhook's id.")],
) -> ShownSecret:
    """Show the signing secret of a webhook."""
    if all(each.id != webhook_id for each in control.fake.webhooks()):
        raise ControlError(404, "not-found", f"there is no webhook {webhook_id!r}")
    return ShownSecret(control.fake.secret(webhook_id))
