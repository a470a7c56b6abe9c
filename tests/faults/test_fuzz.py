"""Answers with bytes changed, cut out and put in at random: the exact result, or one error, and the next call works."""

from __future__ import annotations

import gzip
import json
import os
import random

import pytest

from basiq_async import BasiqError, Webhook
from tests.support.outcomes import QUICK, client_of, outcome
from tests.support.wire import WEBHOOK, Conn, Wire, http, ok

ROUNDS = int(os.environ.get("BASIQ_FUZZ_ROUNDS", "25"))
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
        conn.close()

    async with Wire() as wire, client_of(wire, timeout=0.5, retry=QUICK) as client:
        for _ in range(ROUNDS):
            answer = mutated(SEEDS[seed], chance)
            wire.script = [sends]
            got = await outcome(client.webhooks.get("w1"))
            assert isinstance(got, (BasiqError, Webhook)), answer
            assert str(got).isprintable() or isinstance(got, Webhook)
            wire.script = [ok(WEBHOOK)]
            assert isinstance(await outcome(client.webhooks.get("w1")), Webhook), answer
