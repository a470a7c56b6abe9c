"""What a handler fetches: a user, and the user's connections, accounts, transactions and consents.

A path that the test set has what it set. The others have data that follow from the events: any user of an event exists,
with the connections, accounts and consents that events were about. These are the fields that handlers mostly read; the
real objects have more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from ._checks import require, require_text
from ._histories import digest
from ._items import FakeEvent
from ._responses import Json, Renderer, date_text
from ._store import Application

_EMIT = 'await fake.emit("user.created", user_id="42")'
_MADE_BY = {
    "/token": "each token request makes a token, and fake.expire_tokens() ends all of them",
    "/events": f"{_EMIT} makes an event, and data= is what a GET of its entity returns",
    "/notifications": f'fake.add_webhook("https://example.com/basiq") adds a webhook, and {_EMIT} its messages',
}
"""The paths below which the fake has its own records, and what makes them."""
_ACCOUNTS = (("transaction", "Everyday account", "1250.40"), ("savings", "Savings account", "8100.00"))
_TRANSACTIONS = (
    ("debit", "payment", "GROCER SYDNEY", "-84.35"),
    ("credit", "direct-credit", "SALARY EXAMPLE PTY LTD", "2150.00"),
    ("debit", "payment", "ELECTRICITY BILL", "-132.10"),
)
_NO_EVENT = datetime(2026, 1, 5, tzinfo=UTC)


def check_set(path: str, json: object) -> None:
    """Raise ``ConfigurationError`` for a path or a JSON value that cannot be set."""
    require_text("path", path)
    require(
        path.startswith("/") and path == path.rstrip("/").partition("?")[0], "path must be such as /users/42/accounts"
    )
    makes = next((how for own, how in _MADE_BY.items() if path == own or path.startswith(f"{own}/")), None)
    require(makes is None, f"{path} cannot be set: {makes}")
    items = json if isinstance(json, Sequence) else [json]
    is_json = json is None or (not isinstance(json, str) and all(isinstance(item, Mapping) for item in items))
    require(is_json, "json must be an object, a list of objects, or None")


def look_up(app: Application, render: Renderer, path: str) -> Json | list[Json] | None:
    """Return the object at a path, or the items of the list there; None if there is neither."""
    if path in app.resources:
        found: Json | list[Json] | None = app.resources[path]
        return found
    parent, _, id = path.rpartition("/")
    if parent in app.resources:
        items = app.resources[parent]
        return next((item for item in items if item.get("id") == id), None) if isinstance(items, list) else None
    parts = path.split("/")
    if parts[1] != "users" or len(parts) not in (3, 4, 5) or not app.knows_user(parts[2]):
        return None
    user = _User(app, render, parts[2])
    if len(parts) == 4 and parts[3] in user.lists:
        return user.lists[parts[3]]()
    event = app.entity(path)
    if len(parts) == 3:
        return user.itself() if event is None or event.data is None else event.data
    if event is not None:
        return user.item(event)
    lists = user.lists.get(parts[3])
    return None if lists is None else next((item for item in lists() if item["id"] == id), None)


def kind_of(path: str) -> str:
    """Return what the items of a list are called in a filter: ``account`` for ``/users/42/accounts``."""
    return path.rpartition("/")[2].removesuffix("s")


class _User:
    """A user of events, with what the fake has of the user."""

    def __init__(self, app: Application, render: Renderer, user_id: str) -> None:
        self._app, self._render, self._id = app, render, user_id
        self._path = f"/users/{user_id}"
        self.lists: Mapping[str, Callable[[], list[Json]]] = {
            "connections": self._connections,
            "accounts": self._accounts,
            "transactions": self._transactions,
            "consents": self._consents,
        }

    def itself(self) -> Json:
        return {**self._named("user", self._path), "email": f"{self._id}@example.com", "mobile": "+61400000000"}

    def item(self, event: FakeEvent) -> Json:
        """Return the entity that an event is about."""
        if event.data is not None:
            return event.data
        if event.entity == "account":
            return self._account(event.entity_id, *_ACCOUNTS[0], self._app.connection_ids(self._id)[0])
        if event.entity == "connection":
            return self._connection(event.entity_id)
        return self._render.entity(event)

    def _of_events(self, collection: str) -> list[Json]:
        beginning = f"{self._path}/{collection}/"
        return [self.item(event) for path, event in self._app.entities.items() if path.startswith(beginning)]

    def _consents(self) -> list[Json]:
        return self._of_events("consents")

    def _connections(self) -> list[Json]:
        found = []
        for id in self._app.connection_ids(self._id):
            event = self._app.entity(f"{self._path}/connections/{id}")
            found.append(self._connection(id) if event is None else self.item(event))
        return found

    def _accounts(self) -> list[Json]:
        """Return two accounts of each connection; for the first one those that events were about, if there are any."""
        first, *others = self._app.connection_ids(self._id)
        found = self._of_events("accounts") or self._made_accounts(first)
        return [*found, *(account for id in others for account in self._made_accounts(id, id))]

    def _made_accounts(self, connection: str, *name: str) -> list[Json]:
        return [
            self._account(self._made_id("account", kind, *name), kind, title, balance, connection)
            for kind, title, balance in _ACCOUNTS
        ]

    def _transactions(self) -> list[Json]:
        """Return three transactions of each account, newest first, from the days before the user's first event."""
        since = self._app.users.get(self._id) or self._app.first_of_seeded(self._id) or _NO_EVENT
        accounts = look_up(self._app, self._render, f"{self._path}/accounts")
        found: list[Json] = []
        for number, (direction, kind, description, amount) in enumerate(_TRANSACTIONS):
            for account in accounts if isinstance(accounts, list) else ():
                id = self._made_id("transaction", account.get("id"), number)
                found.append(
                    {
                        **self._named("transaction", f"{self._path}/transactions/{id}"),
                        "status": "posted",
                        "description": description,
                        "amount": amount,
                        "direction": direction,
                        "class": kind,
                        "account": account.get("id"),
                        "connection": account.get("connection"),
                        "institution": account.get("institution"),
                        "postDate": date_text(since - timedelta(days=number + 1)),
                    }
                )
        return found

    def _connection(self, id: str) -> Json:
        return {
            **self._named("connection", f"{self._path}/connections/{id}"),
            "status": "active",
            "institution": {"type": "institution", "id": "AU00000"},
        }

    def _account(self, id: str, kind: str, name: str, balance: str, connection: str) -> Json:
        return {
            **self._named("account", f"{self._path}/accounts/{id}"),
            "name": name,
            "accountNo": "105148xxxx",
            "balance": balance,
            "availableFunds": balance,
            "currency": "AUD",
            "class": {"type": kind, "product": name},
            "status": "available",
            "connection": connection,
            "institution": "AU00000",
        }

    def _named(self, type: str, path: str) -> Json:
        render = self._render
        return {
            "type": render.type(type),
            "id": path.rpartition("/")[2],
            "links": render.links({"self": render.base + path}),
        }

    def _made_id(self, *name: object) -> str:
        return digest(self._id, *name, size=6).hex()
