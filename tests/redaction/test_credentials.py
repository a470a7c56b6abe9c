"""A credential is recognised in every form that the other side can send it back in."""

from __future__ import annotations

import base64
import copy
import pickle
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basiq_async import BasiqClient
from basiq_async._redaction.credentials import REDACTED, Redactor
from basiq_async._signing.signature import SigningKeys
from basiq_async._wire.cursors import CursorSeal
from basiq_async.receiver import WebhookReceiver
from basiq_async.replay import HttpTarget
from basiq_async.transports.auth import ApiKey

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = "c2FuZGJveC1rZXk6b25seS1mb3ItdGVzdHM+/w=="
TOKEN = "eyJhbGciOiJub25lIn0.e30.sig-nature_of+a/token"


def redactor() -> Redactor:
    made = Redactor(KEY)
    made.learn(TOKEN)
    return made


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "make",
    [
        redactor,
        lambda: CursorSeal(KEY),
        lambda: ApiKey(KEY),
        lambda: SigningKeys.read(SECRET),
        lambda: SigningKeys.read(SECRET, for_many=True),
    ],
    ids=["redactor", "cursors", "API key", "signing key", "prepared"],
)
def test_what_holds_a_credential_has_no_pickle(make: Callable[[], object], protocol: int) -> None:
    held = make()
    with pytest.raises(TypeError, match="holds a credential, which a pickle would show"):
        pickle.dumps(held, protocol)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "make",
    [
        lambda: BasiqClient(KEY),
        lambda: WebhookReceiver(SECRET),
        lambda: HttpTarget("https://example.com/?code=K", SECRET),
    ],
    ids=["client", "receiver", "target"],
)
def test_neither_has_what_is_made_of_it(make: Callable[[], object], protocol: int) -> None:
    held = make()
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(held, protocol)


@pytest.mark.parametrize("make", [redactor, lambda: CursorSeal(KEY), lambda: SigningKeys.read(SECRET)])
def test_a_copy_of_what_holds_a_credential_is_the_same_object(make: Callable[[], object]) -> None:
    held = make()
    assert copy.copy(held) is copy.deepcopy(held) is held


def encode_whole(text: str) -> str:
    return "".join(f"%{ord(char):02X}" for char in text)


def encode_lower(text: str) -> str:
    return urllib.parse.quote(text, safe="").lower() if text.islower() else "".join(f"%{ord(c):02x}" for c in text)


FORMS = {
    "as it is": lambda text: text,
    "unpadded": lambda text: text.rstrip("="),
    "percent-encoded": lambda text: urllib.parse.quote(text, safe=""),
    "percent-encoded for a form": urllib.parse.quote_plus,
    "percent-encoded whole": encode_whole,
    "percent-encoded in lower case": encode_lower,
    "unpadded and percent-encoded": lambda text: urllib.parse.quote(text.rstrip("="), safe=""),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 for urls": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "base64 behind one byte": lambda text: base64.b64encode(b"x" + text.encode()).decode(),
    "base64 behind two bytes": lambda text: base64.b64encode(b"xy" + text.encode() + b"z").decode(),
    "base64 of a header": lambda text: base64.b64encode(f"Authorization: Basic {text}".encode()).decode(),
}


@pytest.mark.parametrize("credential", [KEY, TOKEN], ids=["key", "token"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("around", ["{}", "/users/{}/x?y=1", "{0} and {0}", '{{"key": "{}"}}'])
def test_every_form_of_a_credential_is_taken_out(credential: str, form: object, around: str) -> None:
    assert callable(form)
    shown = form(credential)
    text = redactor().known(around.format(shown))
    assert shown.rstrip("=") not in text
    assert REDACTED in text
    longest = max(text.replace(REDACTED, " ").split(), key=len, default="")
    assert len(longest) < 40  # nothing worth having is left
    for size in range(12, len(credential)):
        assert credential[:size] not in text


def test_a_very_long_token_is_known_too() -> None:
    made = Redactor()
    token = "a+b/" * 15_000
    made.learn(token)
    for shown in (token, urllib.parse.quote(token, safe="")):
        assert made.known(f"x {shown} y") == f"x {REDACTED} y"


def test_the_last_eight_tokens_are_known() -> None:
    redactor = Redactor()
    tokens = [f"a-token-that-the-server-made-{number}" for number in range(9)]
    for token in tokens:
        redactor.learn(token)
    assert [redactor.known(f"said {token}.") for token in tokens[1:]] == [f"said {REDACTED}."] * 8


def test_the_two_halves_of_an_api_key_are_known_too() -> None:
    halves = "a-client-id:a-client-password"
    made = Redactor(base64.b64encode(halves.encode()).decode())
    assert made.known(f"the user {halves}.") == f"the user {REDACTED}."


@pytest.mark.parametrize(
    "text",
    [
        "Bearer%20abcdefghijklmnopqrstuvwxyz",
        "basic+abcdefghijklmnopqrstuvwxyz%3D%3D",
        "Authorization: Bearer abcdefghijklmnopqrstuvwxyz",
        "whsec_abc%2Bdef%3D",
    ],
)
def test_what_looks_like_a_credential_is_taken_out_though_it_is_not_known(text: str) -> None:
    shown = Redactor().text(text)
    assert REDACTED in shown
    assert "abc" not in shown


@given(st.text())
def test_other_text_stays_as_it_is(text: str) -> None:
    assert redactor().known(text) == text


def test_nothing_of_a_credential_is_in_the_repr() -> None:
    made = redactor()
    for value in (made, made._api_key, made._tokens):
        assert KEY[:8] not in repr(value)
        assert TOKEN[:8] not in repr(value)
