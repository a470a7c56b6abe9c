"""Find differences between the real API and the fake, request by request. Only shapes are compared, no values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import aclosing
from datetime import timedelta

import attrs

from basiq_async import InMemoryTransport, __version__
from basiq_async._wire.urls import VENDOR_URL, BaseURL
from basiq_async.testing import FakeBasiq
from basiq_async.testing.fake._operations import EVENT_TYPES, RESOURCES  # private: the table of what is compared
from basiq_async.transports.aiohttp import AiohttpTransport
from basiq_async.transports.auth import ApiKey, Authenticated
from basiq_async.transports.base import Transport
from basiq_async.transports.retry import Retrying

from .shape import FieldShape, places_above
from .survey import NOWHERE, STATS, Seen, Survey

TIMEOUT = 30.0


@attrs.frozen
class Difference:
    """One difference: the kind of request, such as ``GET /events/{eventId}``, the place in it, and each side."""

    request: str
    where: str
    real: str
    fake: str

    def __str__(self) -> str:
        return f"{self.request}: {self.where}: the real API has {self.real}, the fake {self.fake}"


@attrs.frozen
class Comparison:
    """The result of ``compare``.

    ``skipped`` lists kinds of request that could not be made, such as the list of messages without a webhook.
    ``unknown`` are paths to which the real API responds, and of which the fake has nothing. ``orders`` says how the
    real API sorts each list by time: the fake can do both.
    ``shapes`` describes the responses of the real API without values, so it can be sent with a bug report.
    """

    differences: tuple[Difference, ...]
    skipped: tuple[str, ...]
    requests: int
    shapes: Mapping[str, object] = attrs.field(repr=False)
    orders: Mapping[str, str] = attrs.field(factory=dict[str, str])
    unknown: tuple[str, ...] = ()

    def assert_equal(self) -> None:
        """Raise an ``AssertionError`` that lists the differences. Do nothing if none was found."""
        if self.differences:
            lines = "".join(f"\n- {difference}" for difference in self.differences)
            raise AssertionError(f"The real API differs from the fake in {len(self.differences)} places:{lines}")


async def compare(
    api_key: str | None = None,
    *,
    base_url: str = VENDOR_URL,
    transport: Transport | None = None,
    fake: FakeBasiq | None = None,
) -> Comparison:
    """Compare each response of the real API with the fake's for the same request.

    Statuses, important headers, fields, types, forms of links and identifiers, words such as a status, and paging
    are compared. Apart from token calls, of which two are wrong, only GETs are sent: about 40 for an application with
    webhooks, messages and events. Nothing is created or changed.

    api_key: as for ``BasiqClient``.
    transport: the transport to the real API; by default over the network.
    fake: the fake to compare with; by default a ``FakeBasiq`` with webhooks, messages and events of every kind.

    Raises the client's errors, such as ``AuthenticationError`` and ``TransportError``.
    """
    key, base = ApiKey(api_key), BaseURL.parse(base_url)
    if transport is None:
        async with aclosing(AiohttpTransport(timeout=TIMEOUT)) as network:
            real = await _survey(network, key, base, samples=3, pages=2)
    else:
        real = await _survey(transport, key, base, samples=3, pages=2)
    fake = fake or await make_full_fake()
    # Read everything that the fake has, to know all forms of its responses.
    simulated = await _survey(
        InMemoryTransport(fake), ApiKey(fake.api_key), BaseURL.parse(VENDOR_URL), samples=50, pages=50
    )
    shapes = {
        "library": __version__,
        "requests": {_name(kind): seen.describe() for kind, seen in sorted(real.seen.items())},
    }
    differences: list[Difference] = []
    unknown = tuple(kind for kind in (STATS,) if 200 in real.seen.get(kind, simulated.seen[kind]).statuses)
    for kind, seen in real.seen.items():
        if kind not in unknown:
            differences += _differ(_name(kind), seen, simulated.seen[kind])
    if real.event_types and real.event_types != simulated.event_types:
        theirs, ours = real.event_types - simulated.event_types, simulated.event_types - real.event_types
        differences.append(Difference(f"GET {EVENT_TYPES.path}", "event types", _show(theirs), _show(ours)))
    kinds = (kind for resource in RESOURCES for kind in (resource.path, resource.one))
    skipped = tuple(f"GET {kind}" for kind in kinds if kind not in real.seen)
    orders = {kind: order.order for kind, order in sorted(real.orders.items())}
    return Comparison(tuple(differences), skipped, real.requests, shapes, orders, unknown)


def _name(kind: str) -> str:
    return kind if kind.startswith("POST ") else f"GET {kind}"


async def _survey(transport: Transport, key: ApiKey, base: BaseURL, *, samples: int, pages: int) -> Survey:
    bare = Retrying(transport, timeout=TIMEOUT)
    survey = Survey(Authenticated(bare, key, base), bare, base.url(""), samples=samples, pages=pages)
    await survey.run()
    return survey


async def make_full_fake() -> FakeBasiq:
    """Return a fake with webhooks, messages and events of every kind and status."""
    fake = FakeBasiq(page_size=2)  # every list has a next page
    first = fake.add_webhook("https://example.com/one")
    for event_type in fake.event_types:  # the first events are about one user, who has an entity of each kind
        fake.emit(event_type, user_id=NOWHERE)
    await fake.advance(hours=1)  # without a receiver, so that attempts have no response
    fake.seed_messages(20, first, failed=0.5, every=timedelta(minutes=1))
    fake.emit("user.created")
    fake.add_webhook("https://example.com/two", active=False)
    _, second = fake.webhooks()
    second.name, second.description = "name", "description"
    fake.add_webhook("https://example.com/three", ["user.created"])
    fake.webhooks()[2].disabled = True
    return fake


def _differ(request: str, real: Seen, fake: Seen) -> Iterator[Difference]:
    if real.statuses != fake.statuses:
        yield Difference(request, "status", _show(map(str, real.statuses)), _show(map(str, fake.statuses)))
    for name in sorted({*real.headers, *fake.headers}):
        ours, theirs = fake.headers.get(name, set()), real.headers.get(name, set())
        if ours != theirs:
            yield Difference(request, f"header {name}", _show(theirs), _show(ours))
    for fact in sorted(real.facts.keys() & fake.facts.keys()):
        if real.facts[fact] != fake.facts[fact]:
            where = "body" if fact == "the body is JSON" else "paging"
            yield Difference(request, where, *(f"“{fact}” {str(each.facts[fact]).lower()}" for each in (real, fake)))
    differing: set[str] = set()
    for place in sorted({*real.shape.fields, *fake.shape.fields}) if real.statuses == fake.statuses else ():
        found = _differ_at(place, real.shape.fields, fake.shape.fields)
        if found is not None and differing.isdisjoint(places_above(place)):
            differing.add(place)
            yield Difference(request, place, *found)


def _differ_at(place: str, real: Mapping[str, FieldShape], fake: Mapping[str, FieldShape]) -> tuple[str, str] | None:
    theirs, ours = real.get(place), fake.get(place)
    if theirs is None or ours is None:
        # A place can occur if its parents do, and it is not in a list that was always empty.
        can_occur = not place.endswith("[]") and all(each in real and each in fake for each in places_above(place))
        if can_occur and theirs is not None:
            return _show(theirs.types), "no such field"
        return ("no such field", f"always {_show(ours.types)}") if can_occur and ours and ours.always else None
    # If the fake has text, any form except a link fits.
    forms = ours.forms | ({"digits", "uuid", "date-time"} if "text" in ours.forms else set[str]())
    for one, other in ((theirs.types, ours.types), (theirs.forms, forms), (theirs.values, ours.values)):
        if not one <= other:
            return _show(one), _show(other)
    return None


def _show(parts: Iterable[str]) -> str:
    return " or ".join(sorted(parts)) or "none"
