"""Today's event types and the schedule of attempts, from Basiq's documentation. Basiq will add event types."""

from __future__ import annotations

from datetime import timedelta

EVENT_TYPES: dict[str, str] = {
    "account.updated": "an account was updated",
    "connection.activated": "a connection was activated",
    "connection.created": "a connection was created",
    "connection.deleted": "a connection was deleted",
    "connection.invalidated": "a connection became invalid",
    "consent.created": "a consent was created",
    "consent.expired": "a consent expired",
    "consent.reminder": "a consent has not been updated for 90 days",
    "consent.revoked": "a consent was revoked",
    "consent.updated": "a consent was updated",
    "consent.warning": "a consent is about to expire",
    "transactions.updated": "transactions were updated",
    "user.created": "a user was created",
    "user.deleted": "a user was deleted",
    "user.updated": "a user was updated",
}

_COLLECTIONS = {"account": "accounts", "connection": "connections", "consent": "consents"}


def entity_path(event_type_id: str, user_id: str, entity_id: str) -> str:
    """Return the path of the entity that an event of this type is about."""
    entity = event_type_id.partition(".")[0]
    if entity == "user":
        return f"/users/{user_id}"
    if entity == "transactions":
        return f"/users/{user_id}/transactions"
    return f"/users/{user_id}/{_COLLECTIONS.get(entity, entity)}/{entity_id}"


SCHEDULE: tuple[timedelta, ...] = (
    timedelta(),
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=10),
)
"""The wait before each attempt, counted from the attempt before. If the last one fails, the webhook may be disabled."""
