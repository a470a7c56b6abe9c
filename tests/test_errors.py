"""Every error of the package, as task queues and process pools send it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from basiq_async import (
    APIError,
    BasiqError,
    ConnectionFailedError,
    PaginationError,
    ReplayError,
    RequestTimeoutError,
    ResponseDecodeError,
    SignatureVerificationError,
    TargetError,
    TransportError,
)
from basiq_async.errors import error_class


def classes(root: type[BasiqError] = BasiqError) -> Iterator[type[BasiqError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__.startswith("basiq_async"):
            yield from classes(child)


ARGUMENTS: dict[type[BasiqError], dict[str, Any]] = {
    APIError: {
        "status": 429,
        "code": "c",
        "title": "t",
        "detail": "d",
        "parameter": "p",
        "errors": [{"code": "c"}],
        "correlation_id": "corr",
        "method": "GET",
        "path": "/x",
        "retry_after": 1.5,
        "attempts": 3,
    },
    TransportError: {"method": "GET", "path": "/x", "sent": False},
    ResponseDecodeError: {"location": "$.data[3]", "method": "GET", "path": "/x"},
    PaginationError: {"link": "https://x"},
    SignatureVerificationError: {"reason": "too-old"},
    TargetError: {"status": 503, "retry_after": 5.0},
}


def make(cls: type[BasiqError]) -> BasiqError:
    arguments = next((found for base, found in ARGUMENTS.items() if issubclass(cls, base)), {})
    error = cls("what, where, what to do", **arguments)
    if isinstance(error, TransportError):
        error.attempts = 4
    if isinstance(error, ReplayError):
        error.report = ("a report",)
    error.add_note("a note")
    return error


@pytest.mark.parametrize("cls", sorted(set(classes()), key=lambda cls: cls.__name__), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize(
    "send",
    [lambda e: pickle.loads(pickle.dumps(e)), lambda e: pickle.loads(pickle.dumps(e, 0)), copy.copy, copy.deepcopy],
    ids=["pickle", "pickle 0", "copy", "deepcopy"],
)
def test_every_error_survives_being_sent(cls: type[BasiqError], send: Callable[[BasiqError], BasiqError]) -> None:
    error = make(cls)
    sent = send(error)
    assert type(sent) is cls
    assert (str(sent), repr(sent), sent.args) == (str(error), repr(error), error.args)
    assert vars(sent) == vars(error)


def test_an_error_of_a_users_own_survives_too() -> None:
    error = Mine("x", more=5)
    sent = pickle.loads(pickle.dumps(error))
    assert (type(sent), sent.more, str(sent)) == (Mine, 5, "x")


class Mine(BasiqError):
    def __init__(self, message: str, *, more: int) -> None:
        super().__init__(message)
        self.more = more


def test_the_text_of_an_error_says_what_and_where() -> None:
    assert str(make(RequestTimeoutError)) == "what, where, what to do (GET /x) after 4 attempts"
    assert str(make(ConnectionFailedError)) == "what, where, what to do (GET /x) after 4 attempts"
    assert str(make(error_class(429))) == (
        "429 c: what, where, what to do (GET /x, parameter p, correlation id corr, retry after 1.5 s, after 3 attempts)"
    )
