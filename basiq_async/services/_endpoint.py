"""Post a signed test delivery to a webhook's url, and find out whether a refusal is a matter of clocks."""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from .._redaction.tracebacks import hide_arguments
from .._signing.signature import SigningKeys
from .._wire.urls import absolute_url
from ..errors import BasiqError, ConfigurationError
from ..models import Secret
from ..transports.base import Request, Response, Transport
from ..transports.responses import read_lead
from .diagnosis import DiagnosedReceiver, EndpointCheck

_TEST_TYPE = "basiq-async.test"
_TIMEOUT = 15.0
Sign = Callable[[str, datetime, bytes], Awaitable[Mapping[str, str]]]


@hide_arguments
def find_signer(
    receiver: DiagnosedReceiver | None, secret: str | Secret | Sequence[str | Secret] | None
) -> Sign | None:
    """Return the function that signs a test delivery; None without a secret."""
    if receiver is not None and not isinstance(receiver, DiagnosedReceiver):
        raise ConfigurationError("receiver must be a WebhookReceiver, or None")
    if secret is not None:
        keys = SigningKeys.read(secret)

        async def sign(message_id: str, timestamp: datetime, body: bytes) -> Mapping[str, str]:
            return keys.headers(message_id, timestamp, body)

        return sign
    return None if receiver is None else receiver.sign


async def check_endpoint(sign: Sign, url: str) -> EndpointCheck:
    """Post one signed test delivery, with one attempt. Redirects are not followed.

    If it is refused with 401, and the response has another time than this machine, a second one is signed with that
    time: where it is accepted, a clock is wrong, and the secret is right.
    """
    from ..transports.aiohttp import StatusTransport

    transport = StatusTransport(timeout=_TIMEOUT)
    try:
        moment = datetime.now(UTC)
        await sign("test", moment, b"")  # without a secret, nothing is posted
    except ConfigurationError as exc:
        await transport.aclose()
        return EndpointCheck(None, str(exc), unsigned=True)
    try:
        response = await _post(transport, sign, url, moment)
        lead = read_lead(response.headers.get("date"))
        if response.status != 401 or lead is None:
            return EndpointCheck(response.status)
        again = await _post(transport, sign, url, datetime.now(UTC) + timedelta(seconds=lead))
        return EndpointCheck(response.status, lead=lead, status_by_its_clock=again.status)
    except BasiqError as exc:
        return EndpointCheck(None, str(exc))
    finally:
        await transport.aclose()


async def _post(transport: Transport, sign: Sign, url: str, moment: datetime) -> Response:
    body, kind = json.dumps({"eventTypeId": _TEST_TYPE, "eventId": str(uuid.uuid4())}).encode(), "application/json"
    # No local variable holds the headers: error reports show local variables.
    request = Request(
        "POST",
        absolute_url(url),
        {**await sign(f"test_{uuid.uuid4().hex}", moment, body), "content-type": kind},
        body,
    )
    return await transport.send(request)
