"""Requests and responses: what they show of themselves, and what makes two of them equal."""

from __future__ import annotations

import copy
import pickle

import pytest

from basiq_async import Request, Response
from basiq_async._signing.seal import Seal
from basiq_async.transports.base import credential_of

SECRET = "s3cret-of-the-tests"
REQUEST = Request("GET", f"https://x/a?token={SECRET}", {"authorization": f"Bearer {SECRET}"}, SECRET.encode())
RESPONSE = Response(200, {"x": SECRET}, SECRET.encode())


def test_a_request_shows_its_path_and_that_there_is_a_query() -> None:
    assert repr(REQUEST) == "Request(method='GET', url='https://x/a?…', idempotent=None)"
    assert repr(Request("POST", "https://x/a", deadline=1.0, url_template="/a")) == (
        "Request(method='POST', url='https://x/a', idempotent=None)"
    )


def test_a_response_shows_no_header_and_no_body() -> None:
    assert repr(RESPONSE) == "Response(status=200, attempts=1, repeated=False)"


@pytest.mark.parametrize(
    "one", [REQUEST, RESPONSE, Seal(b"key", "purpose", "a text")], ids=lambda one: type(one).__name__
)
def test_a_copy_is_the_object_itself_and_a_pickle_is_refused(one: object) -> None:
    assert copy.copy(one) is copy.deepcopy(one) is one
    with pytest.raises(TypeError, match=r"holds? a credential"):
        pickle.dumps(one)


def test_the_time_to_give_up_and_the_name_for_metrics_make_no_other_request() -> None:
    one = Request("GET", "https://x/a")
    assert one == Request("GET", "https://x/a", deadline=5.0, url_template="/{a}")
    assert one != Request("GET", "https://x/b")
    assert (one.deadline, one.url_template, one.idempotent, one.body) == (None, None, None, None)


@pytest.mark.parametrize(
    ("headers", "url", "credential"),
    [
        ({"authorization": "Bearer abc"}, "https://x/a?key=1", "abc"),
        ({"Authorization": "Basic abc"}, "https://x/a", "abc"),
        ({}, "https://x/a?key=1", "key=1"),
        ({}, "https://x/a", ""),
    ],
)
def test_the_credential_of_a_request_is_that_of_its_header_or_else_its_query(
    headers: dict[str, str], url: str, credential: str
) -> None:
    assert credential_of(Request("GET", url, headers)) == credential
