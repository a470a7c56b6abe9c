"""The operations of the control API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ... import __version__
from ..._web.access import ControlError
from ..fake._clock import ManualClock, SystemClock
from . import _results as results
from ._declaration import About, Control, JsonObject, operation
from ._history import find_message
from ._results import Items, take

if TYPE_CHECKING:
    from ..fake._deliveries import Emission
    from ..fake._fake import FakeBasiq

MOST_STATES = 10_000
Drop = Literal["request", "response"]
EndpointURL = Annotated[str | None, About("The endpoint's url; by default every endpoint.")]


# --- the mock and its states ---


@operation("GET", "/health", results.Health)
async def health(control: Control) -> Any:
    """Whether the mock runs and, if the call has an API key, whether the key belongs to this mock."""
    return results.Health(status="ok", base_url=control.base_url, version=__version__)


@operation("GET", "/states", Items[results.StateSummary])
async def states(control: Control) -> Items[Any]:
    """The states of the mock, without their API keys."""
    served = (control.first, *control.first.states.values())
    return Items(items=tuple(map(_summarize, served)))


@operation("POST", "/states", results.NewState)
async def add_state(
    control: Control,
    name: Annotated[str | None, About("The state's name, such as the name of a test; by default a number.")] = None,
    seed: Annotated[str | None, About("The seed of the state's ids; by default a random one.")] = None,
    api_key: Annotated[str | None, About("The state's API key; by default a random one.")] = None,
    still: Annotated[
        bool,
        About("Make a clock that stands still until it is moved. By default it runs if the mock's clock runs."),
    ] = False,
) -> Any:
    """Add an empty state with its own API key, clock and ids. States share no data.

    Calls with the state's key are for that state only.
    """
    first = control.first
    if len(first.states) >= MOST_STATES:
        raise ControlError(400, "not-valid", f"there are {MOST_STATES} states: remove those that are no longer used")
    if api_key is not None and not (
        api_key.isascii() and api_key.isprintable() and " " not in api_key and len(api_key) <= 512
    ):
        raise ControlError(
            400, "not-valid", "apiKey must be printable ASCII without a space, and at most 512 characters"
        )
    clock = ManualClock(datetime.now(UTC)) if still else None
    state = first.add_state(name, api_key=api_key, seed=seed, clock=clock)
    return take(results.NewState, _summarize(state), api_key=state.api_key)


@operation("POST", "/states/remove", results.Done)
async def remove_state(control: Control) -> Any:
    """Remove the state to which the call's API key belongs, with all its data. The first state cannot be removed."""
    if control.fake is control.first:
        raise ControlError(
            400,
            "not-valid",
            "the first state of a mock cannot be removed: reset it, or send the API key of another state",
        )
    done = control.done()
    control.first.remove_state(control.fake.api_key)
    return done


def _summarize(fake: FakeBasiq) -> Any:
    return take(
        results.StateSummary,
        fake,
        seed=str(fake.seed),
        now=fake.now(),
        webhooks=len(fake.webhooks()),
        messages=fake.count_messages(),
        requests=len(fake.request_log),
        deliveries=len(fake.deliveries),
        violations=len(fake.violations),
    )


# --- time ---


@operation("GET", "/state", results.State)
async def state(control: Control) -> Any:
    """The time, the next attempt, the faults, and the number of webhooks, messages and requests."""
    fake, clock = control.fake, control.fake.clock
    speed = clock.speed if isinstance(clock, SystemClock) else None
    return take(
        results.State,
        _summarize(fake),
        fake,
        base_url=control.base_url,
        clock=results.Clock(running=speed is not None, speed=speed),
        endpoints_down=tuple(results.EndpointDown(url=url, status=code) for url, code in fake.endpoints_down.items()),
        faults=tuple(take(results.Fault, fault) for fault in fake.faults),
        delivery_faults=tuple(take(results.DeliveryFault, fault) for fault in fake.delivery_faults),
    )


@operation("POST", "/advance", results.Advanced)
async def advance(
    control: Control,
    days: Annotated[float, About("Days to move the clock forward by.", 0, 10_000_000)] = 0,
    hours: Annotated[float, About("Hours to move the clock forward by.", 0, 10_000_000)] = 0,
    minutes: Annotated[float, About("Minutes to move the clock forward by.", 0, 10_000_000)] = 0,
    seconds: Annotated[float, About("Seconds to move the clock forward by.", 0, 10_000_000)] = 0,
) -> Any:
    """Move the clock forward, and make every delivery that is due on the way.

    Responds when the deliveries are made.
    """
    by = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    return await _move(control, lambda: control.fake.advance(by))


@operation("POST", "/next", results.Advanced)
async def advance_to_next(control: Control) -> Any:
    """Move the clock to the next planned attempt, and make it."""
    return await _move(control, control.fake.advance_to_next)


async def _move(control: Control, move: Callable[[], Awaitable[object]]) -> Any:
    before = _count_attempts(control.fake)
    await move()
    return take(results.Advanced, control.done(), attempts=_count_attempts(control.fake) - before)


def _count_attempts(fake: FakeBasiq) -> int:
    return next((number for number, _ in fake.numbered_deliveries()), 0)


# --- events ---


@operation("POST", "/emit", results.Emitted)
async def emit(
    control: Control,
    event_type_id: Annotated[str, About("The event type, such as consent.revoked.")],
    user_id: Annotated[str | None, About("The user that the event is about; by default a new one.")] = None,
    entity_id: Annotated[str | None, About("The entity that the event is about; by default a new one.")] = None,
    data: Annotated[
        JsonObject | None, About("The event's data; by default the type, id and link of the entity.")
    ] = None,
    wait: Annotated[bool, About("Respond after the first attempt of each message.")] = False,
) -> Any:
    """Emit an event, with a message for each active webhook that is subscribed to it."""
    api_key = control.api_key
    return await _show_emission(
        control.fake.emit(event_type_id, user_id=user_id, entity_id=entity_id, data=data, api_key=api_key), wait
    )


@operation("POST", "/messages/{messageId}/redeliver", results.Emitted)
async def redeliver(
    control: Control, message_id: str, wait: Annotated[bool, About("Respond after the attempt.")] = False
) -> Any:
    """Deliver a message once more, now."""
    return await _show_emission(control.fake.redeliver(find_message(control, message_id).id), wait)


async def _show_emission(emission: Emission, wait: bool) -> Any:
    return take(results.Emitted, await emission if wait else emission)


# --- faults ---


@operation("POST", "/fail")
async def fail(
    control: Control,
    times: Annotated[int, About("The number of requests; 1 by default.", 1, 1_000_000)] = 1,
    status: Annotated[int | None, About("Respond with an error of this status.", 100, 999)] = None,
    method: Annotated[str | None, About("Only requests with this method.")] = None,
    path: Annotated[
        str | None,
        About("Only requests to this path; * matches any text. By default all requests except the token call."),
    ] = None,
    retry_after: Annotated[float | None, About("Seconds for the Retry-After header.", 0)] = None,
    body: Annotated[str | None, About("Respond with this body, unchanged.")] = None,
    headers: Annotated[JsonObject | None, About("More headers of the response.")] = None,
    delay: Annotated[float, About("Respond after this many seconds.", 0, 3600)] = 0,
    drop: Annotated[
        Drop | None,
        About("Break the connection before the request is carried out, or before the response is sent."),
    ] = None,
    loop: Annotated[bool, About("Let a list's next link lead to the same page.")] = False,
) -> None:
    """Make the next requests fail."""
    texts = {name: value for name, value in (headers or {}).items() if isinstance(value, str)}
    if len(texts) < len(headers or {}) or not all(text.isprintable() for each in texts.items() for text in each):
        raise ControlError(400, "not-valid", "headers must be printable texts")
    control.fake.fail_next(
        times,
        status=status,
        method=method,
        path=path,
        retry_after=retry_after,
        body=body,
        headers=texts,
        delay=delay,
        drop=drop or False,
        loop=loop,
    )


@operation("POST", "/deliveries/fail")
async def fail_deliveries(
    control: Control,
    times: Annotated[int, About("The number of deliveries; 1 by default.", 1, 1_000_000)] = 1,
    status: Annotated[int | None, About("Record this status without calling the endpoint.", 100, 999)] = None,
    drop: Annotated[
        Drop | None,
        About("request: the endpoint is not reached. response: it handles the delivery, and its response is lost."),
    ] = None,
    url: Annotated[str | None, About("Only deliveries to this url; * matches any text.")] = None,
) -> None:
    """Make the next deliveries fail."""
    control.fake.fail_deliveries(times, status=status, drop=drop or False, url=url)


@operation("POST", "/endpoint/down")
async def endpoint_down(
    control: Control,
    url: EndpointURL = None,
    status: Annotated[
        int | None, About("The status of the response; without it, the connection fails.", 100, 999)
    ] = None,
) -> None:
    """Let all deliveries to an endpoint fail, without calling it."""
    control.fake.endpoint_down(url, status=status)


@operation("POST", "/endpoint/up")
async def endpoint_up(control: Control, url: EndpointURL = None) -> None:
    """End the outage of an endpoint."""
    control.fake.endpoint_up(url)


@operation("POST", "/expire-tokens")
async def expire_tokens(control: Control) -> None:
    """Let all tokens that were issued expire now."""
    control.fake.expire_tokens()


@operation("POST", "/disable-account")
async def disable_account(control: Control) -> None:
    """Respond with 403 to every later request of the application whose API key the call has."""
    control.fake.disable_account(control.api_key)


# --- data ---


@operation("POST", "/webhooks", results.Added)
async def add_webhook(
    control: Control,
    url: Annotated[str, About("The url of the endpoint.")],
    subscribed_events: Annotated[tuple[str, ...] | None, About("Event types; all of them by default.")] = None,
    active: Annotated[
        bool, About("Whether it is active at once. With false, its cool-off begins now. True by default.")
    ] = True,
) -> Any:
    """Add a webhook."""
    webhook_id = control.fake.add_webhook(url, subscribed_events, active=active, api_key=control.api_key)
    return results.Added(webhook_id=webhook_id)


@operation("POST", "/seed", results.Added)
async def seed(
    control: Control,
    messages: Annotated[int, About("The number of messages.", 0, 100_000_000)],
    webhook_id: Annotated[
        str | None, About("The webhook; by default the first one, which is added if none exists.")
    ] = None,
    event_types: Annotated[
        tuple[str, ...] | None,
        About("The event types of the messages; by default the types that the webhook is subscribed to."),
    ] = None,
    every: Annotated[float, About("Seconds between two messages; 1 by default.", 0.001, 1_000_000)] = 1,
    failed: Annotated[float, About("The share of messages, from 0 to 1, whose only attempt failed.", 0, 1)] = 0,
) -> Any:
    """Give a webhook a history of messages."""
    webhook_id = control.fake.seed_messages(
        messages, webhook_id, event_types=event_types, every=every, failed=failed, api_key=control.api_key
    )
    return results.Added(webhook_id=webhook_id)


@operation("POST", "/reset")
async def reset(
    control: Control,
    log: Annotated[bool, About("Forget only recorded requests, deliveries and violations, and the faults.")] = False,
) -> None:
    """Forget everything in the state that the call is for, except its API keys and the time."""
    if log:
        control.fake.reset_log()
    else:
        control.fake.reset()


@operation("GET", "/webhooks", Items[results.Webhook])
async def webhooks(control: Control) -> Items[Any]:
    """The webhooks, without their secrets."""
    fake, now = control.fake, control.fake.now()
    return Items(
        items=tuple(
            take(
                results.Webhook,
                each,
                status=each.status(now),
                subscribed_events=each.events,
                cool_off_left=max((each.active_at - now).total_seconds(), 0.0),
                messages=fake.count_messages(each.id),
            )
            for each in fake.webhooks()
        )
    )


@operation("POST", "/webhooks/{webhookId}/secret", results.Secret)
async def webhook_secret(control: Control, webhook_id: str) -> Any:
    """Show the signing secret of a webhook."""
    if all(each.id != webhook_id for each in control.fake.webhooks()):
        raise ControlError(404, "not-found", f"there is no webhook {webhook_id!r}")
    return results.Secret(secret=control.fake.secret(webhook_id))
