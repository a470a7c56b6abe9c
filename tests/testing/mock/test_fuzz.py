"""Whatever the control API is sent, it responds as described and never fails by itself."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi import checks

from basiq_async.testing import FakeBasiq
from basiq_async.testing.mock.control_api import openapi_document
from tests.support.served import served

SCHEMA = schemathesis.openapi.from_dict(openapi_document())
OPERATIONS = [result.ok() for result in SCHEMA.get_all_operations()]
# What the fake knows and the description does not, such as an event type, is refused although it is well-formed.
LEFT_OUT = [checks.ignored_auth, checks.negative_data_rejection, checks.unsupported_method]
FAR = {"messages": 100, "days": 2, "hours": 5, "minutes": 5, "seconds": 5, "times": 5}


@pytest.mark.parametrize("operation", OPERATIONS, ids=[f"{each.method} {each.path}" for each in OPERATIONS])
def test_any_input_is_carried_out_or_refused(operation: Any) -> None:
    fake = FakeBasiq(api_keys=["a2V5"])
    fake.seed_messages(5, fake.add_webhook("http://127.0.0.1:9/basiq"))
    with served(fake) as base_url:

        @given(case=operation.as_strategy())
        @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        def try_it(case: schemathesis.Case) -> None:
            if isinstance(case.body, dict):
                for name in set(FAR) & set(case.body):
                    if isinstance(case.body[name], (int, float)):
                        case.body[name] = min(case.body[name], FAR[name])
            response = case.call(base_url=base_url, headers={"Authorization": "Basic a2V5"})
            assert response.status_code < 500, response.text
            if response.status_code == 200:
                case.validate_response(response, excluded_checks=LEFT_OUT)

        try_it()
