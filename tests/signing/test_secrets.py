"""Signing secrets: which key each form has, and what the error for an invalid one says."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import Any

import pytest

from basiq_async import ConfigurationError
from basiq_async._signing.secrets import read_keys
from basiq_async._signing.signature import SigningKeys
from basiq_async.models import Secret

KEY = bytes(range(1, 25))
TEXT = base64.b64encode(KEY).decode()


@pytest.mark.parametrize(
    "secret", [TEXT, f"whsec_{TEXT}", f"  whsec_{TEXT}\n", TEXT.rstrip("="), Secret(TEXT), [TEXT], (Secret(TEXT),)]
)
def test_each_form_has_its_key(secret: Any) -> None:
    assert read_keys(secret) == (KEY,)


def test_several_secrets_have_a_key_each_in_their_order() -> None:
    other = bytes(range(2, 26))
    assert read_keys([TEXT, base64.b64encode(other).decode()]) == (KEY, other)


@pytest.mark.parametrize("prefix", ["", "whsec_"])
def test_the_shortest_key_has_eight_bytes(prefix: str) -> None:
    for size in (8, 23, 24):
        assert read_keys(prefix + base64.b64encode(KEY[:size]).decode()) == (KEY[:size],)
    with pytest.raises(ConfigurationError, match="at least 8 bytes"):
        SigningKeys.read(prefix + base64.b64encode(KEY[:7]).decode())


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        (None, "the signing secret is None: set the environment variable.*only when a webhook is created or updated"),
        (SimpleNamespace(subscribed_events=()), "a webhook is not a signing secret"),
        (17, "it is of type int"),
        ([], "it is of type list"),
        (b"bytes", "it is of type bytes"),
        ([TEXT, None], "the signing secret is None"),
        ("", "is empty"),
        ("whsec_", "is empty"),
        ("=", "secret"),
        ("a", "secret"),
        ("not base64!", "is not base64"),
        ("whsec_ab=cd", "is not base64"),
        ("\u043a\u043b\u044e\u0447", "is not base64"),
        ("\ud800", "is not base64"),
        ("whsec_\x00", "is not base64"),
        ([TEXT, "?"], "is not base64"),
        ({TEXT}, "it is of type set"),
        (f'"whsec_{TEXT}"', "is in quotes"),
        (f"'{TEXT}' ", "is in quotes"),
        ("\u201cwhsec_" + TEXT + "\u201d", "is in quotes"),
        ("CHANGE_ME", "is a placeholder"),
        ("BASIQ_WEBHOOK_SECRET", "is a placeholder"),
        ("undefined", "is a placeholder"),
        ("rfiuheo439341", "secret"),
        ("whsec_AAAAA", "secret"),
        ("whsec_changeme", "is a placeholder"),
        ("your-webhook-secret", "is a placeholder"),
        (f"whsk/{TEXT}", "asymmetric"),
        (f"whpk_{TEXT}", "asymmetric"),
        (f"whsec_{TEXT}!", "is not base64"),
        ("whsec_" + "A" * 41, "is not base64"),
        ("whsec_" + base64.b64encode(b"\x07" * 24).decode(), "can be guessed"),
        ("whsec_" + base64.b64encode(b"\x00" * 24).decode(), "can be guessed"),
        ("whsec_" + base64.b64encode(b"\x01\x02" + b"\x00" * 22).decode(), "can be guessed"),
        ("whsec_" + base64.b64encode(KEY[:7] + b"\x00" * 17).decode(), "can be guessed"),
    ],
    ids=repr,
)
def test_an_invalid_secret_is_an_error_that_says_what_to_do(secret: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        SigningKeys.read(secret)


def test_zeros_at_the_end_add_nothing_and_zeros_elsewhere_do_no_harm() -> None:
    for key in (KEY[:8] + b"\x00" * 16, b"\x00" + KEY[:23], KEY[:12] + b"\x00" + KEY[:11]):
        assert read_keys(base64.b64encode(key).decode()) == (key,)
