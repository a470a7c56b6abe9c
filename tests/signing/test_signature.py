from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta, timezone

import pytest
from multidict import CIMultiDict, MultiDict

from basiq_async import ConfigurationError, Secret, SignatureVerificationError
from basiq_async._signing.signature import SigningKeys, check_headers
from basiq_async.receiver import WebhookReceiver, sign, verify
from basiq_async.replay import HttpTarget
from tests.support.deliveries import NOW, OTHER_SECRET, SECRET, payload, signed
from tests.support.frames import variables

BODY = payload("user.created", "e1")
HEADERS = signed(BODY, at=NOW)


def refused(
    headers: object, body: bytes = BODY, secret: object = SECRET, **options: object
) -> SignatureVerificationError:
    with pytest.raises(SignatureVerificationError) as caught:
        verify(secret, headers=headers, body=body, **{"now": NOW, **options})
    return caught.value


def changed(**headers: str | None) -> dict[str, str]:
    named = {f"webhook-{name}": value for name, value in headers.items()}
    return {name: value for name, value in {**HEADERS, **named}.items() if value is not None}


def test_the_scheme_is_that_of_the_standard() -> None:
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    expected = hmac.new(key, b"msg_1.1767614400." + BODY, hashlib.sha256).digest()
    assert signed(BODY, at=NOW) == {
        "webhook-id": "msg_1",
        "webhook-timestamp": "1767614400",
        "webhook-signature": "v1," + base64.b64encode(expected).decode(),
    }


def test_the_published_example_of_the_scheme_is_signed_alike() -> None:
    # The example of the Standard Webhooks specification.
    headers = sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        datetime.fromtimestamp(1614265330, UTC),
        b'{"test": 2432232314}',
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "headers",
    [
        HEADERS,
        {name.title(): value for name, value in HEADERS.items()},
        {name.upper(): value for name, value in HEADERS.items()},
        CIMultiDict(HEADERS),
        MultiDict((name.title(), value) for name, value in HEADERS.items()),
        list(HEADERS.items()),
        iter(HEADERS.items()),
        [(name.encode(), value.encode()) for name, value in HEADERS.items()],
        ((name.title().encode(), value) for name, value in HEADERS.items()),
        {name.encode(): value.encode() for name, value in HEADERS.items()},
        [*HEADERS.items(), *HEADERS.items()],
        [("Host", "example.org"), (b"x-anything", b"\xff\xfe"), *HEADERS.items()],
        CIMultiDict([*HEADERS.items(), ("Webhook-Id", "msg_1")]),
    ],
    ids=lambda headers: type(headers).__name__,
)
def test_headers_come_in_any_form_and_case(headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
    verify(SECRET, headers=headers, body=BODY, now=NOW)


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_comes_twice_with_different_values_is_refused(name: str) -> None:
    for second in ("other", HEADERS[name] + " "):
        for headers in (
            [*HEADERS.items(), (name, second)],
            CIMultiDict([(name.title(), second), *HEADERS.items()]),
            {**HEADERS, name.upper(): second},
            [*((key.encode(), value.encode()) for key, value in HEADERS.items()), (name.encode(), second.encode())],
        ):
            assert refused(headers).reason == "duplicate-header"


@pytest.mark.parametrize("name", HEADERS)
def test_a_missing_header_is_named(name: str) -> None:
    error = refused({key: value for key, value in HEADERS.items() if key != name})
    assert error.reason == "missing-header"
    assert name in str(error)
    assert "basiq" not in str(error)


def test_the_header_that_basiq_does_not_send_is_explained() -> None:
    error = refused({"X-Basiq-Signature": "abc"})
    assert error.reason == "missing-header"
    assert "x-basiq-signature" in str(error)
    assert "webhook-signature" in str(error)
    verify(SECRET, headers={**HEADERS, "x-basiq-signature": "whatever"}, body=BODY, now=NOW)


@pytest.mark.parametrize(
    "headers",
    [
        None,
        7,
        "webhook-id",
        b"webhook-id",
        [1],
        [("a",)],
        [("webhook-id", 3)],
        {"webhook-id": None},
        [(None, "x")],
        [()],
    ],
)
def test_headers_that_are_none_are_one_error(headers: object) -> None:
    assert refused(headers).reason in {"bad-headers", "missing-header"}


@pytest.mark.parametrize("message_id", ["", "a.b", ".", "a b", "a\n", "\x00", "é", "\uff41", "a\x7f", "\ud800", "a\t"])
def test_an_id_that_could_move_the_border_of_what_is_signed_is_refused(message_id: str) -> None:
    assert refused(changed(id=message_id)).reason == "bad-id"
    with pytest.raises(ConfigurationError, match="message_id"):
        sign(SECRET, message_id, NOW, BODY)


def test_the_border_between_id_and_timestamp_cannot_be_moved() -> None:
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    content = b"msg.1.1767614400." + BODY
    signature = "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    headers = {"webhook-id": "msg.1", "webhook-timestamp": "1767614400", "webhook-signature": signature}
    assert refused(headers).reason == "bad-id"


@pytest.mark.parametrize(
    "timestamp",
    [
        "",
        " ",
        "abc",
        "1767614400.0",
        "1.767614400e9",
        "+1767614400",
        "-1767614400",
        " 1767614400",
        "1767614400 ",
        "1_767_614_400",
        "\uff11\uff17\uff16\uff17\uff16\uff11\uff14\uff14\uff10\uff10",
        "\u0661",
        "\u00b2",
        "nan",
        "inf",
        "0x10",
        "9" * 16,
        "9" * 5000,
        "\ud800",
    ],
)
def test_a_timestamp_that_is_not_ascii_digits_is_refused(timestamp: str) -> None:
    assert refused(changed(timestamp=timestamp)).reason == "bad-timestamp"


def test_the_timestamp_is_signed_as_its_raw_text() -> None:
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    mac = hmac.new(key, b"msg_1.01767614400." + BODY, hashlib.sha256).digest()
    headers = changed(timestamp="01767614400", signature="v1," + base64.b64encode(mac).decode())
    verify(SECRET, headers=headers, body=BODY, now=NOW)
    assert refused(changed(timestamp="01767614400")).reason == "no-match"


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [(301, "too-old"), (300.5, "too-old"), (-301, "too-new"), (10**8, "too-old"), (-(10**8), "too-new")],
)
def test_a_timestamp_more_than_five_minutes_away_is_refused(seconds: float, reason: str) -> None:
    error = refused(HEADERS, now=NOW + timedelta(seconds=seconds))
    assert error.reason == reason
    assert "300 s" in str(error)


@pytest.mark.parametrize("seconds", [0, 299.9, 300, -300])
def test_a_timestamp_within_five_minutes_is_accepted(seconds: float) -> None:
    verify(SECRET, headers=HEADERS, body=BODY, now=NOW + timedelta(seconds=seconds))


def test_the_tolerance_can_be_changed() -> None:
    verify(SECRET, headers=HEADERS, body=BODY, now=NOW + timedelta(hours=1), tolerance=timedelta(hours=1))
    assert refused(HEADERS, now=NOW + timedelta(seconds=1), tolerance=timedelta(0)).reason == "too-old"


def test_the_clock_is_taken_where_no_time_is_given() -> None:
    verify(SECRET, headers=signed(BODY), body=BODY)
    with pytest.raises(SignatureVerificationError) as caught:
        verify(SECRET, headers=signed(BODY, at=datetime.now(UTC) - timedelta(minutes=6)), body=BODY)
    assert caught.value.reason == "too-old"


def test_a_time_in_any_zone_is_the_same_time() -> None:
    sydney = timezone(timedelta(hours=11))
    assert sign(SECRET, "msg_1", NOW.astimezone(sydney), BODY) == HEADERS
    verify(SECRET, headers=HEADERS, body=BODY, now=NOW.astimezone(sydney))


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        ("", "no-signature"),
        ("v1", "no-signature"),
        ("v2," + "a" * 44, "no-signature"),
        ("v1a," + "a" * 88 + " v1b,x", "no-signature"),
        ("V1," + HEADERS["webhook-signature"][3:], "no-signature"),
        (HEADERS["webhook-signature"][3:], "no-signature"),
        ("v1,", "no-match"),
        ("v1,!!!!", "no-match"),
        ("v1,é", "no-match"),
        ("v1,\ud800", "no-match"),
        ("v1," + "a" * 43 + "=", "no-match"),
        (HEADERS["webhook-signature"] + "=", "no-match"),
        (HEADERS["webhook-signature"].rstrip("="), "no-match"),
        (HEADERS["webhook-signature"].replace("v1,", "v1, "), "no-match"),
        (HEADERS["webhook-signature"][:10] + "\n" + HEADERS["webhook-signature"][10:], "no-match"),
        (HEADERS["webhook-signature"].replace("v1,", "v1,$"), "no-match"),
        (HEADERS["webhook-signature"].replace(" ", ",") + "," + "v1,x", "no-match"),
    ],
)
def test_a_signature_that_is_none_or_does_not_match_is_refused(signature: str, reason: str) -> None:
    assert refused(changed(signature=signature)).reason == reason


def test_another_spelling_of_the_same_bytes_is_not_the_signature() -> None:
    good = HEADERS["webhook-signature"]
    # The last character before the padding has two bits that decode to nothing.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    twin = alphabet[alphabet.index(good[-2]) ^ 1]
    spelled = good[:-2] + twin + "="
    assert base64.b64decode(spelled[3:]) == base64.b64decode(good[3:])
    assert refused(changed(signature=spelled)).reason == "no-match"


@pytest.mark.parametrize(
    "template",
    ["v1,bad {}", "{} v1,bad", "v2,xyz {}", "v1a,abc  {} ", "garbage {}", "v1, {}", "\u00e9 {}", ", {}", "{} {}"],
)
def test_one_good_signature_among_others_is_enough(template: str) -> None:
    verify(SECRET, headers=changed(signature=template.replace("{}", HEADERS["webhook-signature"])), body=BODY, now=NOW)


def test_any_of_several_secrets_is_accepted_while_one_replaces_another() -> None:
    secrets = [OTHER_SECRET, Secret(SECRET)]
    verify(secrets, headers=HEADERS, body=BODY, now=NOW)
    verify(tuple(reversed(secrets)), headers=HEADERS, body=BODY, now=NOW)
    assert refused(HEADERS, secret=[OTHER_SECRET]).reason == "no-match"


def test_several_secrets_sign_once_each_and_each_is_accepted() -> None:
    headers = sign([SECRET, OTHER_SECRET], "msg_1", NOW, BODY)
    assert headers["webhook-signature"].count("v1,") == 2
    verify(SECRET, headers=headers, body=BODY, now=NOW)
    verify(OTHER_SECRET, headers=headers, body=BODY, now=NOW)


@pytest.mark.parametrize("length", range(8, 40))
def test_an_unpadded_secret_is_the_padded_one(length: int) -> None:
    padded = base64.b64encode(bytes(range(200, 200 + length))).decode()
    headers = sign("whsec_" + padded, "m", NOW, b"")
    assert sign(padded.rstrip("="), "m", NOW, b"") == headers
    assert sign("whsec_" + padded.translate(str.maketrans("+/", "-_")), "m", NOW, b"") == headers
    # A 39-character secret, as on the vendor's page, has no padding either.


@pytest.mark.parametrize(
    "secret", ["rfiuheo43934", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_" + "k9" * 19 + "Q"]
)
def test_the_samples_of_the_documentation_are_secrets(secret: str) -> None:
    verify(secret, headers=sign(secret, "m", NOW, b"{}"), body=b"{}", now=NOW)


def locals_of(error: BaseException) -> str:
    """The locals of every frame in the tracebacks of an error and all that led to it, but for the tests' own."""
    return "".join(text for _, _, text in variables(error))


USES: dict[str, Callable[[object], object]] = {
    "sign": lambda secret: sign(secret, "m", NOW, b""),
    "verify": lambda secret: verify(secret, headers=HEADERS, body=BODY, now=NOW),
    "receiver": WebhookReceiver,
    "target": lambda secret: HttpTarget("https://a.example/", secret),
}


# test_secrets.py has every form of a secret that is none.
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    "secret",
    [None, [], b"CANARY-bytes", 7, "your-webhook-secret", "whsec_AAAA", "CANARY+!", "whsec_CANARY-CANARY-CANARYx",
     "CANAR", ["c2VjcmV0CANARYc2VjcmV0", "CANARY~"], "whsk_CANARY", [SECRET, "CANARY??"], "CANARY\ud800"],
    ids=repr,
)  # fmt: skip
def test_a_secret_that_is_none_is_refused_wherever_it_is_used_and_no_frame_of_the_error_holds_it(
    secret: object, use: str
) -> None:
    # A secret that is a text, and no key, fails a verification as all else does.
    texts = secret if isinstance(secret, list) and secret else [secret]
    fails = use == "verify" and all(isinstance(each, str) for each in texts)
    with pytest.raises(SignatureVerificationError if fails else ConfigurationError, match="secret") as caught:
        USES[use](secret)
    assert not isinstance(caught.value, SignatureVerificationError) or caught.value.reason == "bad-secret"
    assert "CANAR" not in locals_of(caught.value) + str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda secret: verify(secret, headers=changed(signature="v1,AAAA"), body=BODY, now=NOW),
        lambda secret: verify(secret, headers=changed(timestamp="1"), body=BODY, now=NOW),
        lambda secret: verify(secret, headers={}, body=BODY, now=NOW),
        lambda secret: verify(secret, headers=HEADERS, body="text", now=NOW),
        lambda secret: verify(secret, headers=HEADERS, body=BODY, now=datetime(2026, 1, 5)),
        lambda secret: sign(secret, "a.b", NOW, BODY),
        lambda secret: sign(secret, "m", datetime(2026, 1, 5), BODY),
        lambda secret: sign(secret, "m", NOW, "text"),
        lambda secret: WebhookReceiver(secret, max_body_size=0),
    ],
)
def test_no_frame_of_any_error_holds_the_secret_or_its_key(wrong: Callable[[str], object]) -> None:
    key = b"CANARY-of-a-key-CANARY"
    secret = "whsec_" + base64.b64encode(key).decode()
    with pytest.raises((ConfigurationError, SignatureVerificationError)) as caught:
        wrong(secret)
    shown = locals_of(caught.value)
    assert shown
    assert secret[6:30] not in shown
    assert "CANARY" not in shown


def test_the_keys_do_not_show_themselves() -> None:
    assert repr(SigningKeys.read([SECRET, OTHER_SECRET])) == "<SigningKeys: 2>"


@pytest.mark.parametrize("secret", [SECRET, [OTHER_SECRET, SECRET]])
def test_keys_for_many_signatures_give_the_same_ones_each_time(secret: str | list[str]) -> None:
    once, many = SigningKeys.read(secret), SigningKeys.read(secret, for_many=True)
    assert isinstance(once, SigningKeys)
    assert isinstance(many, SigningKeys)
    seconds = int(NOW.timestamp())
    for number in range(3):
        body = b"%d" % number
        signature = once.sign("m", str(seconds), body)
        assert many.sign("m", str(seconds), body) == signature
        headers = {"webhook-id": "m", "webhook-timestamp": str(seconds), "webhook-signature": signature}
        checked = check_headers(headers, tolerance=1, now=seconds)
        assert checked == ("m", str(seconds), signature, seconds)
        assert many.find_mismatch(checked, body) is None
        assert isinstance(many.find_mismatch(checked, body + b"x"), SignatureVerificationError)
    assert repr(many) == repr(once)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"tolerance": timedelta(seconds=-1)}, "tolerance"),
        ({"tolerance": "300"}, "tolerance"),
        ({"now": datetime(2026, 1, 5)}, "now"),
        ({"now": 1767614400}, "now"),
    ],
)
def test_an_argument_that_cannot_be_right_is_named(arguments: dict[str, object], name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        verify(SECRET, headers=HEADERS, body=BODY, **{"now": NOW, **arguments})


@pytest.mark.parametrize("moment", [datetime(2026, 1, 5), datetime(1969, 12, 31, tzinfo=UTC), 1767614400, None])
def test_what_is_signed_has_a_time_with_a_zone(moment: object) -> None:
    with pytest.raises(ConfigurationError, match="timestamp"):
        sign(SECRET, "m", moment, BODY)


def test_a_body_that_is_not_bytes_is_a_mistake_of_the_caller() -> None:
    for body in (BODY.decode(), None, {"a": 1}):
        with pytest.raises(ConfigurationError, match="raw bytes"):
            verify(SECRET, headers=HEADERS, body=body, now=NOW)
    verify(SECRET, headers=HEADERS, body=bytearray(BODY), now=NOW)
    verify(SECRET, headers=HEADERS, body=memoryview(BODY), now=NOW)


def test_the_error_for_several_secrets_is_that_for_one() -> None:
    one = refused(HEADERS, body=b"x")
    assert str(refused(HEADERS, body=b"x", secret=[SECRET, OTHER_SECRET])) == str(one)


def test_every_candidate_is_compared_with_every_key_even_after_a_match(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append(right)
        return hmac.compare_digest(left, right)

    monkeypatch.setattr("basiq_async._signing.signature.compare_digest", compare)
    headers = changed(signature=HEADERS["webhook-signature"] + " v1,x v1,y")
    verify([SECRET, OTHER_SECRET], headers=headers, body=BODY, now=NOW)
    assert len(compared) == 6


@pytest.mark.parametrize(("size", "reason"), [(4_096, "no-match"), (4_097, "bad-signature")])
def test_the_header_of_signatures_has_at_most_4096_characters(size: int, reason: str) -> None:
    assert refused(changed(signature="v1,".ljust(size, "x"))).reason == reason


def test_keys_know_whether_they_have_one_in_common() -> None:
    one, both, another = (
        SigningKeys.read(each, for_many=True) for each in (SECRET, [OTHER_SECRET, SECRET], OTHER_SECRET)
    )
    assert one.has_key_of(both)
    assert both.has_key_of(another)
    assert not one.has_key_of(another)
