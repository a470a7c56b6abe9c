"""What does it cost to verify a delivery of 300 bytes?

Against bare hmac and base64 doing the same (decode the secret, compute, encode, compare), and against standardwebhooks.
Interleaved rounds, medians, in microseconds, and the ratios.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime

import standardwebhooks

from basiq_async.receiver import sign, verify
from basiq_async.receiver.signature import SigningKeys

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = base64.b64decode(SECRET[6:])


def bare(headers: dict[str, str], body: bytes) -> None:
    key = base64.b64decode(SECRET[6:])
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest())
    if not hmac.compare_digest(expected, headers["webhook-signature"].encode()):
        raise ValueError


def bare_without_decoding(headers: dict[str, str], body: bytes) -> None:
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    base64.b64encode(hmac.new(KEY, content, hashlib.sha256).digest())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=10_000)
    options = parser.parse_args()
    body = json.dumps({"eventTypeId": "consent.revoked", "eventId": "e" * 200}).encode().ljust(300)
    headers = sign(SECRET, "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W", datetime.now(UTC), body)
    keys = SigningKeys(SECRET)
    peer = standardwebhooks.Webhook(SECRET)
    candidates: dict[str, Callable[[], object]] = {
        "bare hmac and base64": lambda: bare(headers, body),
        "bare, key decoded before, nothing compared": lambda: bare_without_decoding(headers, body),
        "verify": lambda: verify(SECRET, headers, body),
        "verify as the receiver does (keys decoded once)": lambda: keys.verify(
            headers, body, tolerance=300.0, now=time.time()
        ),
        "standardwebhooks, made once": lambda: peer.verify(body, headers, json_parse=False),
        "standardwebhooks, made each time": lambda: standardwebhooks.Webhook(SECRET).verify(
            body, headers, json_parse=False
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(options.rounds):
        for name, call in candidates.items():
            began = time.perf_counter()
            for _ in range(options.calls):
                call()
            times[name].append((time.perf_counter() - began) / options.calls * 1e6)
    median = {name: statistics.median(found) for name, found in times.items()}
    for name, found in times.items():
        print(f"{name:50} {median[name]:6.2f} us   ({min(found):.2f} to {max(found):.2f})")
    bare_time = median["bare hmac and base64"]
    print(f"verify / bare hmac and base64: {median['verify'] / bare_time:.2f}   (at most 2.0)")
    prepared = "verify as the receiver does (keys decoded once)"
    for ours, theirs in (("verify", "made each time"), ("verify", "made once"), (prepared, "made once")):
        ratio = median[ours] / median[f"standardwebhooks, {theirs}"]
        print(f"{ours} / standardwebhooks, {theirs}: {ratio:.2f}   (at most 0.7)")


if __name__ == "__main__":
    main()
