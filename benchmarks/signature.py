"""What does it cost to verify a delivery of 300 bytes?

Against bare hmac and base64 doing the same (decode the secret, compute, encode, compare), and against standardwebhooks.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime

import standardwebhooks

from basiq_async.receiver import sign, verify
from basiq_async.receiver._signature import SigningKeys
from benchmarks._harness import Figure, figure, ratios

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
_CALLS = 10_000


def bare(headers: dict[str, str], body: bytes) -> None:
    key = base64.b64decode(SECRET[6:])
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest())
    if not hmac.compare_digest(expected, headers["webhook-signature"].encode()):
        raise ValueError


def measure(count: int = 15) -> list[Figure]:
    body = json.dumps({"eventTypeId": "consent.revoked", "eventId": "e" * 200}).encode().ljust(300)
    headers = sign(SECRET, "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W", datetime.now(UTC), body)
    keys = SigningKeys(SECRET, for_many=True)
    peer = standardwebhooks.Webhook(SECRET)
    candidates: dict[str, Callable[[], object]] = {
        "bare": lambda: bare(headers, body),
        "verify": lambda: verify(SECRET, headers, body),
        "receiver": lambda: keys.verify(headers, body, 300.0, time.time()),
        "once": lambda: peer.verify(body, headers, json_parse=False),
        "each": lambda: standardwebhooks.Webhook(SECRET).verify(body, headers, json_parse=False),
    }
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(count):
        for name, call in candidates.items():
            began = time.perf_counter()
            for _ in range(_CALLS):
                call()
            times[name].append(time.perf_counter() - began)
    return [
        figure("verify: to bare hmac and base64", ratios(times["verify"], times["bare"]), "<= 2.0"),
        figure("verify: to standardwebhooks, made each time", ratios(times["verify"], times["each"]), "<= 0.7"),
        figure("verify: to standardwebhooks, made once", ratios(times["verify"], times["once"]), "<= 0.7"),
        figure(
            "verify, as the receiver does: to standardwebhooks, made once", ratios(times["receiver"], times["once"])
        ),
    ]


if __name__ == "__main__":
    for line in measure():
        print(line)
