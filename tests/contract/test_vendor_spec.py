"""The fake, over real HTTP, keeps to the vendor's own reference.

The reference is not part of this project. It is looked for in the folder that the environment variable BASIQ_SPEC_DIR
names, else in ``../shared/spec`` beside the checkout; where it is not, these tests are skipped.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi import checks

from tests.contract.holding import held

from .conftest import Target

load_all_checks()
FOLDER = Path(os.environ.get("BASIQ_SPEC_DIR") or Path(__file__).parents[3] / "shared" / "spec")
PATHS = ("/token", "/events", "/notifications")


def _schema(name: str) -> schemathesis.BaseSchema:
    """The reference, without what it says of other parts of the API and what its own examples contradict."""
    spec: dict[str, Any] = json.loads((FOLDER / name).read_text())
    spec["paths"] = {path: value for path, value in spec["paths"].items() if path.startswith(PATHS)}
    if "/token" in spec["paths"]:
        _without_scopes_that_are_not_named(spec["paths"]["/token"]["post"])
        _with_event_data_as_its_example_has_it(spec["paths"]["/events"]["get"])
    return schemathesis.openapi.from_dict(spec)


def _without_scopes_that_are_not_named(operation: dict[str, Any]) -> None:
    del operation["requestBody"]["content"]["application/x-www-form-urlencoded"]["examples"]["client_access"]


def _with_event_data_as_its_example_has_it(operation: dict[str, Any]) -> None:
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    event = schema["properties"]["data"]["items"]["properties"]
    # Its type says text, its example is a list of objects; and the event types name more than these enums.
    event["data"] = {}
    del event["entity"]["enum"], event["eventType"]["enum"]


def _cases(name: str) -> pytest.MarkDecorator:
    if not (FOLDER / name).is_file():
        return pytest.mark.skip(reason=f"the vendor's reference is not at {FOLDER.name}; set BASIQ_SPEC_DIR")
    return _schema(name).parametrize()


# The reference's request schemas take any text anywhere, so that much which fits them is rightly refused, and much
# which does not is taken (more fields, other event types); it does not list the 405 of any HTTP server.
EXCLUDED: list[object] = [
    checks.negative_data_rejection,
    checks.positive_data_acceptance,
    checks.unsupported_method,
    checks.missing_required_header,
]


def _of_something_that_exists(case: schemathesis.Case, target: Target) -> None:
    """Make about every second id one that exists: the reference says of them only that they are text."""
    known = {**target.ids, "id": "user.created"} if case.operation.path == "/events/types/{id}" else target.ids
    for name, value in (case.path_parameters or {}).items():
        if case.method == "GET" and len(str(value)) % 2:
            case.path_parameters[name] = known[name]


@_cases("webhooks.openapi.json")
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_webhooks_answer_as_the_reference_says(case: schemathesis.Case, schema_server: Target) -> None:
    _of_something_that_exists(case, schema_server)
    held(case, schema_server, excluded=EXCLUDED)


@_cases("core.openapi.json")
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_tokens_and_events_answer_as_the_reference_says(case: schemathesis.Case, schema_server: Target) -> None:
    _of_something_that_exists(case, schema_server)
    held(case, schema_server, excluded=EXCLUDED)
