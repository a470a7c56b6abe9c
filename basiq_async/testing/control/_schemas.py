"""The shapes of what the control API returns, as JSON schemas."""

from __future__ import annotations

from collections.abc import Mapping

from ._fields import Json


def _object(properties: Mapping[str, object]) -> Json:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: object) -> Json:
    return {"type": "array", "items": items}


def _or_null(kind: str, **more: object) -> Json:
    return {"type": [kind, "null"], **more}


def ref(name: str) -> Json:
    """A reference to one of the schemas below."""
    return {"$ref": f"#/components/schemas/{name}"}


def _page(name: str) -> Json:
    return _object({"items": _list(ref(name)), "total": WHOLE, "next": _or_null("string")})


TEXT: Json = {"type": "string"}
WHOLE: Json = {"type": "integer"}
NUMBER: Json = {"type": "number"}
FLAG: Json = {"type": "boolean"}
TIME: Json = {"type": "string", "format": "date-time"}
_TIME_OR_NULL = _or_null("string", format="date-time")
_HEADERS: Json = {"type": "object", "additionalProperties": TEXT}
_TEXTS = _list(TEXT)

_request = {
    "number": WHOLE,
    "at": TIME,
    "method": TEXT,
    "path": TEXT,
    "status": _or_null("integer"),
    "duration": NUMBER,
    "violations": _TEXTS,
}
_attempt = {
    "number": WHOLE,
    "at": TIME,
    "url": TEXT,
    "status": _or_null("integer"),
    "ok": FLAG,
    "response": TEXT,
    "duration": NUMBER,
}
_message = {
    "id": TEXT,
    "webhookId": TEXT,
    "eventTypeId": TEXT,
    "eventId": TEXT,
    "userId": TEXT,
    "entityId": TEXT,
    "created": TIME,
    "status": {"enum": ["Success", "Failed", "Pending"]},
    "attempts": _list(ref("Attempt")),
    "nextAttempt": {"oneOf": [{"type": "null"}, _object({"number": WHOLE, "due": TIME})]},
}

_summary = {
    "name": TEXT,
    "seed": TEXT,
    "now": TIME,
    "pending": WHOLE,
    "webhooks": WHOLE,
    "messages": WHOLE,
    "requests": WHOLE,
    "deliveries": WHOLE,
    "violations": WHOLE,
}

SCHEMAS: Mapping[str, Json] = {
    "Health": _object({"status": {"const": "ok"}, "baseUrl": TEXT, "version": TEXT}),
    "StateSummary": _object(_summary),
    "States": _object({"items": _list(ref("StateSummary"))}),
    "NewState": _object({**_summary, "apiKey": TEXT}),
    "Error": _object({"error": _object({"code": TEXT, "message": TEXT})}),
    "Done": _object({"now": TIME, "nextDue": _TIME_OR_NULL}),
    "Advanced": _object({"now": TIME, "nextDue": _TIME_OR_NULL, "attempts": WHOLE}),
    "Emitted": _object({"eventId": TEXT, "messageIds": _TEXTS}),
    "Added": _object({"webhookId": TEXT}),
    "Secret": _object({"secret": TEXT}),
    "State": _object(
        {
            "name": TEXT,
            "seed": TEXT,
            "baseUrl": TEXT,
            "now": TIME,
            "nextDue": _TIME_OR_NULL,
            "clock": _object({"running": FLAG, "speed": _or_null("number")}),
            "pending": WHOLE,
            "webhooks": WHOLE,
            "messages": WHOLE,
            "requests": WHOLE,
            "deliveries": WHOLE,
            "violations": WHOLE,
            "endpointsDown": _list(_object({"url": _or_null("string"), "status": _or_null("integer")})),
            "faults": _list(
                _object(
                    {
                        "left": WHOLE,
                        "method": _or_null("string"),
                        "path": _or_null("string"),
                        "status": _or_null("integer"),
                        "delay": NUMBER,
                        "drop": _or_null("string"),
                        "loop": FLAG,
                    }
                )
            ),
            "deliveryFaults": _list(
                _object(
                    {
                        "left": WHOLE,
                        "url": _or_null("string"),
                        "status": _or_null("integer"),
                        "drop": _or_null("string"),
                    }
                )
            ),
            "revision": WHOLE,
        }
    ),
    "EventType": _object({"id": TEXT, "description": TEXT}),
    "EventTypes": _object({"items": _list(ref("EventType"))}),
    "Request": _object(_request),
    "WholeRequest": _object({**_request, "url": TEXT, "headers": _HEADERS, "body": _or_null("string")}),
    "Requests": _page("Request"),
    "Delivery": _object(
        {
            "number": WHOLE,
            "at": TIME,
            "webhookId": TEXT,
            "messageId": TEXT,
            "eventTypeId": TEXT,
            "eventId": TEXT,
            "url": TEXT,
            "attempt": WHOLE,
            "status": _or_null("integer"),
            "ok": FLAG,
            "response": TEXT,
            "duration": NUMBER,
            "headers": _HEADERS,
            "body": TEXT,
        }
    ),
    "Deliveries": _page("Delivery"),
    "Attempt": _object(_attempt),
    "Message": _object(_message),
    "WholeMessage": _object({**_message, "data": _or_null("object"), "text": _or_null("string")}),
    "Messages": _page("Message"),
    "Webhook": _object(
        {
            "id": TEXT,
            "url": TEXT,
            "status": {"enum": ["active", "pending-approval", "disabled"]},
            "name": _or_null("string"),
            "description": _or_null("string"),
            "subscribedEvents": _TEXTS,
            "activeAt": TIME,
            "coolOffLeft": NUMBER,
            "messages": WHOLE,
        }
    ),
    "Webhooks": _object({"items": _list(ref("Webhook"))}),
    "Violation": _object({"code": TEXT, "detail": TEXT, "at": TIME}),
    "Violations": _object({"items": _list(ref("Violation"))}),
}
