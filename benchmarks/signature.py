"""What does it cost to verify a delivery of 300 bytes?

It is compared with bare hmac and base64 with the same steps (decode the secret, compute, encode, compare), and with
standardwebhooks.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import standardwebhooks

from basiq_async.receiver import sign, verify
from benchmarks._harness import Figure, best_slices, figure, microseconds, ratios

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
_CALLS = 200
_JOB = "verifying a delivery"


def bare(headers: dict[str, str], body: bytes) -> None:
    key = base64.b64decode(SECRET[6:])
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest())
    if not hmac.compare_digest(expected, headers["webhook-signature"].encode()):
        raise ValueError


async def _repeat(call: Callable[[], object]) -> None:
    for _ in range(_CALLS):
        call()


async def measure(runs: int = 5, slices: int = 300) -> list[Figure]:
    body = json.dumps({"eventTypeId": "consent.revoked", "eventId": "e" * 200}).encode().ljust(300)
    headers = sign(SECRET, "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W", datetime.now(UTC), body)
    peer = standardwebhooks.Webhook(SECRET)
    calls: dict[str, Callable[[], object]] = {
        "bare": lambda: bare(headers, body),
        "verify": lambda: verify(SECRET, headers=headers, body=body),
        "once": lambda: peer.verify(body, headers, json_parse=False),
    }
    times = await best_slices(
        {name: partial(_repeat, call) for name, call in calls.items()},
        runs=runs,
        slices=slices,
        clock=time.perf_counter,
    )
    ours = microseconds(times["verify"], _CALLS)
    return [
        figure(_JOB, "standardwebhooks, made once", ratios(times["verify"], times["once"]), "<= 0.60", ours=ours),
        figure(_JOB, "bare hmac and base64", ratios(times["verify"], times["bare"]), "<= 1.45", ours=ours),
    ]


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
