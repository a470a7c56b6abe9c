"""The sender's side of a signature: Standard Webhooks, written from the security page for the fake alone."""

from __future__ import annotations

import base64
import hashlib
import hmac


def signed_headers(key: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers that prove where a delivery comes from and when."""
    content = b".".join((message_id.encode(), str(timestamp).encode(), body))
    mac = hmac.new(key, content, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": "v1," + base64.b64encode(mac).decode(),
    }
