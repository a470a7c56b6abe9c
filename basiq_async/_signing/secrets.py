"""Read signing secrets into keys. No error shows a secret, nor does a frame of it."""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Sequence

from .._redaction.credentials import SecretText
from ..errors import ConfigurationError
from ..models import Secret

SecretLike = str | Secret | SecretText | Sequence[str | Secret | SecretText]
"""One secret, or several while a new one replaces an old one. A secret may also be pydantic's ``SecretStr``."""

_PREFIX = "whsec_"
_URL_SAFE = str.maketrans("-_", "+/")
_QUOTES = "\"'`\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}"
_SHORTEST_KEY = 8
"""In bytes. The vendor's shortest sample has 9."""

# fmt: off
_PLACEHOLDERS = frozenset({
    "none", "null", "nil", "undefined", "true", "false", "empty", "change", "changeme", "changethis",
    "replaceme", "replacethis", "fillme", "fillmein", "todo", "tbd", "secret", "mysecret", "yoursecret",
    "yoursecrethere", "thesecret", "secretkey", "yoursecretkey", "mysecretkey", "webhooksecret",
    "yourwebhooksecret", "mywebhooksecret", "signingsecret", "yoursigningsecret", "basiqwebhooksecret",
    "placeholder", "example", "examplesecret", "sample", "samplesecret", "test", "testing", "testsecret",
    "default", "dummy", "dummysecret", "fake", "fakesecret", "password", "passw0rd", "letmein", "foobar",
    "foobarbaz", "abcdefgh", "abcdefghijkl",
})
# fmt: on
_LONGEST_PLACEHOLDER = 30
"""In characters, with dashes and underscores. A longer text is not looked up: that would take longer than all else."""

_LONGEST_PLAIN_PLACEHOLDER = len(_PREFIX) + _LONGEST_PLACEHOLDER


class UndecodableSecretError(ConfigurationError):
    """The text cannot be decoded as a signing secret, or can be guessed."""


def read_keys(secret: SecretLike) -> tuple[bytes, ...]:
    """Return the keys of one or several secrets. Raises ``ConfigurationError`` for an invalid one.

    Its callers hide their arguments, and so this function's frame, from those who see the error.
    Spaces around a secret, a missing ``whsec_``, missing or excess padding, and the URL-safe alphabet are accepted.
    """
    if isinstance(secret, str):
        # Nearly every secret has the form that Basiq returns, and needs no more checks than these: it is too long for a
        # placeholder; neither its characters nor its bytes are all the same, and no zeros are at its end.
        try:
            key = a2b_base64(secret.removeprefix(_PREFIX), strict_mode=True)
        except ValueError:
            key = b""
        if (
            len(secret) > _LONGEST_PLAIN_PLACEHOLDER
            and len(key) >= _SHORTEST_KEY
            and secret[-1] != secret[-2]
            and key[0] != key[-1] != 0
        ):
            return (key,)
        return (_read_key(secret),)
    if isinstance(secret, (Secret, SecretText)):
        secrets: Sequence[str | Secret | SecretText] = (secret,)
    elif isinstance(secret, Sequence) and secret and not isinstance(secret, bytes):
        secrets = secret
    else:
        raise _refuse(secret)
    return tuple([_read_key(each) for each in secrets])


def _read_key(secret: object) -> bytes:
    if isinstance(secret, Secret):
        secret = secret.reveal()
    elif isinstance(secret, SecretText):
        secret = secret.get_secret_value()
    if not isinstance(secret, str):
        raise _refuse(secret)
    text = secret
    bare = text.removeprefix(_PREFIX)
    key = _decode(bare)
    if key is None or len(bare) <= _LONGEST_PLACEHOLDER:
        bare = text.strip().removeprefix(_PREFIX).rstrip("=").translate(_URL_SAFE)
        if not bare:
            raise ConfigurationError("the signing secret is empty")
        if is_quoted(text):
            raise UndecodableSecretError(
                "the secret is in quotes: remove them, where it is set. A shell drops them; a file for Docker's "
                "--env-file or for systemd may not"
            )
        if bare.startswith(("whpk/", "whsk/")):
            raise UndecodableSecretError(
                "the secret is a key for asymmetric signatures; a secret of Basiq begins with whsec_"
            )
        if _is_placeholder(bare):
            raise UndecodableSecretError(
                "the secret is a placeholder; set it to the secret that Basiq returned (whsec_...)"
            )
        key = _decode(bare + "=" * (-len(bare) % 4))
        if key is None:
            raise UndecodableSecretError("the secret is not base64 (after an optional whsec_): was it cut off?")
    # HMAC pads a key with zeros, so zeros at its end add nothing to it.
    if len(key.rstrip(b"\0")) < _SHORTEST_KEY or key.count(key[0]) == len(key) or bare.count(bare[0]) == len(bare):
        raise UndecodableSecretError(
            f"the secret can be guessed: it must decode to at least {_SHORTEST_KEY} bytes, and must not be a single "
            "character or byte repeated"
        )
    return key


def is_quoted(text: str) -> bool:
    """Return whether a text begins and ends with a quotation mark."""
    text = text.strip()
    return len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES


def _refuse(secret: object) -> ConfigurationError:
    """Return the error for a value that is neither a text nor a sequence of texts."""
    if secret is None:
        return ConfigurationError(
            "the signing secret is None: set the environment variable that it is read from. Basiq returns the secret "
            "only when a webhook is created or updated, not when it is read or listed, so store webhook.secret then"
        )
    if hasattr(secret, "subscribed_events"):
        return ConfigurationError("a webhook is not a signing secret: pass webhook.secret")
    return ConfigurationError(
        "a signing secret must be a str, a Secret or a SecretStr, or a sequence of at least one of those; it is of "
        f"type {type(secret).__name__}"
    )


def _decode(text: str) -> bytes | None:
    try:
        return a2b_base64(text, strict_mode=True)
    except ValueError:  # also raised for an impossible length, 1 more than a multiple of 4
        return None


def _is_placeholder(bare: str) -> bool:
    return "".join(char for char in bare.casefold() if char.isalnum()) in _PLACEHOLDERS
