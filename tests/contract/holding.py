"""Sends one generated request, and checks the response against the OpenAPI description."""

from __future__ import annotations

import re

import schemathesis
from schemathesis.specs.openapi import checks

from .conftest import Target

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


def held(case: schemathesis.Case, target: Target, *, excluded: list[object] | None = None) -> None:
    """Send a case and check everything about its answer.

    Every second id that is well-formed is made one that exists, so that more than 404 is seen.
    """
    for name, known in target.ids.items():
        value = (case.path_parameters or {}).get(name)
        if isinstance(value, str) and case.method == "GET" and _UUID.fullmatch(value) and value[0] in "02468ace":
            case.path_parameters[name] = known
    headers = {} if case.operation.path == "/token" else target.headers
    response = case.call(base_url=target.base_url, headers=headers)
    validated(case, response, target, excluded=excluded)


def validated(
    case: schemathesis.Case, response: schemathesis.Response, target: Target, *, excluded: list[object] | None = None
) -> None:
    """Check everything about an answer."""
    left_out = list(excluded or [])
    headers = target.headers
    if case.operation.path == "/token":
        # A key that is missing is a 400 there (the vendor's reference), and a generated one is not known.
        left_out += [checks.missing_required_header, checks.positive_data_acceptance, checks.ignored_auth]
        headers = {}
    elif _by_a_header(case):
        # Our headers went over the generated ones: what a header made wrong was sent right.
        left_out.append(checks.negative_data_rejection)
    if response.status_code == 400 and b"no-webhooks-found" in response.content:
        left_out.append(checks.positive_data_acceptance)  # well-formed, and right to be refused
    assert response.status_code != 500
    case.validate_response(response, excluded_checks=left_out, headers=headers)


def _by_a_header(case: schemathesis.Case) -> bool:
    components = {} if case.meta is None else case.meta.components
    return any(
        getattr(place, "value", place) == "header" and info.mode.is_negative for place, info in components.items()
    )
