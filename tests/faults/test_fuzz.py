"""Responses and cursors with bytes changed, cut out and put in at random.

Of a response: the exact result, or one error, and the next call works. Of a cursor: the exact place, or one error, and no
request for any other list.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import random
from hashlib import blake2b

import pytest

from basiq_async import BasiqClient, BasiqError, ConfigurationError, ResponseDecodeError, Webhook
from basiq_async._wire.broken_items import BrokenItem
from basiq_async._wire.codec import Codec, Loads, _strict_loads, default_loads
from basiq_async._wire.cursors import Cursor, CursorSeal
from tests.support.outcomes import QUICK, client_of, outcome
from tests.support.wire import KEY, WEBHOOK, Conn, Wire, http, ok

ROUNDS = int(os.environ.get("BASIQ_FUZZ_ROUNDS", "15"))
BODY = json.dumps(WEBHOOK).encode()
SEEDS = {
    "length": ok(WEBHOOK),
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x;a=b\r\n%b\r\n0\r\nX: y\r\n\r\n"
    % (len(BODY), BODY),
    "gzip": http(200, gzip.compress(BODY), "Content-Encoding: gzip"),
    "deflate": http(200, __import__("zlib").compress(BODY), "Content-Encoding: deflate"),
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n" + ok(WEBHOOK),
    "error": http(404, json.dumps({"data": [{"code": "c", "detail": "d"}]})),
    "http 1.0": b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
}
PIECES = [b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\t", b"\xff", b"chunked", b"gzip", b"Content-Length: 5\r\n", b"-1", b"9" * 30,
          b"HTTP/1.1 200 OK\r\n\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: upgrade\r\nUpgrade: x\r\n", b"101", b"{", b"}", b'"', b"[" * 50]  # fmt: skip


def mutated(data: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 4)):
        at, to = sorted(chance.choices(range(len(data) + 1), k=2))
        match chance.randint(0, 4):
            case 0:
                data = data[:at] + chance.choice(PIECES) + data[at:]
            case 1:
                data = data[:at] + data[min(to, at + 20) :]
            case 2:
                data = data[:at] + bytes([chance.randint(0, 255)]) + data[at + 1 :]
            case 3:
                data = data[:at] + data[at:to] + data[at:]
            case _:
                data = data[:at]
        data = data or b"x"
    return data


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_mutated_answer_is_the_exact_result_or_one_error(seed: str) -> None:
    chance = random.Random(seed)

    async def sends(conn: Conn) -> None:
        await conn.say(answer)
        await conn.close()

    async with Wire() as wire, client_of(wire, timeout=0.5, retry=QUICK) as client:
        for _ in range(ROUNDS):
            answer = mutated(SEEDS[seed], chance)
            wire.script = [sends]
            got = await outcome(client.webhooks.get("w1"))
            assert isinstance(got, (BasiqError, Webhook)), answer
            assert str(got).isprintable() or isinstance(got, Webhook)
            wire.script = [ok(WEBHOOK)]
            assert isinstance(await outcome(client.webhooks.get("w1")), Webhook), answer


CUTS = [rb"\ud83d", rb"\uDE00", rb"\\ud83d", b"\xf0\x9f", b"\xed\xa0\x80", b"\n", b"\\", b'"', b'",', b"]", b"}", b"[" * 3000, rb"\u12"]  # fmt: skip
FAULTS = [b"NaN", b"-Infinity", b"1e999", b"7" * 5000, b"[" * 3000 + b"]" * 3000, b"nul"]


@pytest.mark.parametrize("loads", [_strict_loads, default_loads()], ids=["json", "default"])
def test_of_a_page_with_texts_cut_anywhere_every_whole_message_is_read(loads: Loads) -> None:
    """Another decoder, which takes nearly everything, says which messages there are."""
    chance = random.Random("cuts")
    codec, read = Codec(loads=loads), 0
    for _ in range(ROUNDS * 10):
        items = [json.dumps({"id": f"m{i}", "attempts": [{"response": "Thanks \U0001f600"}]}) for i in range(8)]
        raw = [item.encode() for item in items]
        for index in chance.sample(range(8), chance.randint(1, 3)):
            text = raw[index]
            at = chance.randint(text.index(b"Thanks"), text.index(b'"}]}'))
            fault = chance.choice(FAULTS)
            new = (
                text[:at] + chance.choice(CUTS) + text[at:]
                if chance.random() < 0.7
                else text[:-1] + b',"x":' + fault + b"}"
            )
            raw[index] = new
        body = b'{"data":[' + b", ".join(raw) + b'],"links":{}}'
        try:
            found = codec.page(body).items
        except ResponseDecodeError as exc:
            assert str(exc).isprintable()
            continue
        read += 1
        assert len(found) == 8, body
        for index, item in enumerate(found):
            if raw[index] == items[index].encode():
                assert item == json.loads(items[index]), body
            elif not isinstance(item, BrokenItem):
                assert json.dumps(item, ensure_ascii=False).encode()
                assert item["id"] == f"m{index}"
            else:
                assert item.id in (f"m{index}", None)
    assert read > ROUNDS * 3


WEBHOOK_ID = "w1"
LIST = f"/notifications/webhooks/{WEBHOOK_ID}/messages"
PLACES = [
    "/events",
    "/users/u/accounts",
    "/notifications/webhooks/w2/messages",
    f"{LIST}/../x",
    "/token",
    "//evil.example/x",
]


def packed(cursor: str) -> bytes:
    return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))


def text_of(cursor: bytes) -> str:
    return base64.urlsafe_b64encode(cursor).decode().rstrip("=")


def with_checksum(sealed: bytes) -> bytes:
    """Add the right checksum, as a forger can: it detects damage, and needs no secret."""
    return blake2b(sealed, digest_size=4).digest() + sealed


@pytest.mark.parametrize("kind", ["text", "bytes", "forged"])
async def test_a_mutated_or_forged_cursor_is_the_exact_place_or_one_error(kind: str) -> None:
    chance = random.Random(kind)
    seal, name = CursorSeal(KEY), json.dumps([LIST, None])
    genuine = Cursor(f"{LIST}?limit=500&next=abc", 3, "m3")
    sealed = seal.seal(genuine, name)
    async with BasiqClient(KEY) as client:
        for _ in range(ROUNDS * 20):
            if kind == "text":
                cursor = mutated(sealed.encode(), chance).decode("latin-1")
            elif kind == "bytes":
                cursor = text_of(with_checksum(mutated(packed(sealed)[4:], chance)))
            else:
                forger = CursorSeal("".join(chance.choices("abc", k=8)))
                theirs = packed(forger.seal(Cursor(chance.choice(PLACES), chance.randint(0, 5), "x"), name))
                ours = packed(sealed)
                cut = chance.randint(4, 30)
                cursor = text_of(with_checksum(ours[4:cut] + theirs[cut:]))
            try:
                place = client.messages.list(WEBHOOK_ID, cursor=cursor)._start
            except ConfigurationError as exc:
                assert str(exc).isprintable()
            else:
                assert place == genuine, cursor
