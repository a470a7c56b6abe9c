"""The fake, over real HTTP, keeps to our own description of the API, whatever it is sent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aiohttp
import jsonschema
import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, settings
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import negative_data_rejection

import basiq_async.testing
from basiq_async import InMemoryTransport
from basiq_async.testing import FakeBasiq, Quirks, serve
from basiq_async.testing.fake._operations import RESOURCES, ROUTES  # private: what is described is what is tested
from tests.contract.holding import held, validated
from tests.support.real_time import PATIENCE
from tests.testing.conftest import Endpoint, quirks_name

from .comparison import compare, make_full_fake
from .conftest import Target, target

load_all_checks()
DESCRIPTION = Path(basiq_async.testing.__file__).with_name("basiq.yaml")
schema = schemathesis.openapi.from_path(DESCRIPTION)


def test_each_operation_of_the_fake_is_described_with_the_errors_that_all_share() -> None:
    described = yaml.safe_load(DESCRIPTION.read_text())["paths"]
    entities = {path for path in ROUTES if path.startswith("/users/") and path not in described}
    assert set(described) - {"/token"} == set(ROUTES) - entities, "paths that only one of fake and basiq.yaml has"
    shared = {"401", "403", "405", "429", "500", "503"}
    for path, methods in ROUTES.items():
        for method in methods if path in described else ():
            assert method.lower() in described[path], f"{method} {path} is missing in basiq.yaml"
            missing = shared - set(described[path][method.lower()]["responses"])
            assert not missing, f"{method} {path} does not describe {sorted(missing)}"


async def test_compare_looks_at_each_resource_of_the_fake() -> None:
    fake = await make_full_fake()
    compared = (await compare(fake.api_key, transport=InMemoryTransport(fake), fake=fake)).shapes["requests"]
    for resource in RESOURCES:
        for path in (resource.path, resource.one):
            assert f"GET {path}" in compared, f"compare() does not look at {path}"


@schema.parametrize()
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_a_documented_one(case: schemathesis.Case, fake_server: Target) -> None:
    held(case, fake_server)


def test_what_is_created_can_be_read_changed_and_deleted() -> None:
    class Machine(schema.as_state_machine()):
        def setup(self) -> None:
            # A story begins with a Basiq of its own: what an earlier one left there must not change it.
            self.server = ExitStack()
            self.target = self.server.enter_context(contextmanager(target)(Quirks()))

        def teardown(self) -> None:
            self.server.close()

        def get_call_kwargs(self, case: schemathesis.Case) -> dict[str, object]:
            return {"headers": {} if case.operation.path == "/token" else self.target.headers}

        def call(self, case: schemathesis.Case, **kwargs: object) -> schemathesis.Response:
            return case.call(base_url=self.target.base_url, **kwargs)

        def validate_response(self, response: schemathesis.Response, case: schemathesis.Case, **kwargs: object) -> None:
            # Our headers go over the generated ones, so that a request made wrong by a header is not wrong.
            validated(case, response, self.target, excluded=[negative_data_rejection])

    Machine.run(
        settings=settings(
            max_examples=12,
            stateful_step_count=8,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
    )


@pytest.mark.parametrize("quirks", list(Quirks.each_form()), ids=quirks_name)
def test_every_form_of_an_answer_is_a_documented_one(quirks: Quirks) -> None:
    for server in target(quirks):
        for operation in schema.get_all_operations():
            if operation.ok().method == "get":
                case = operation.ok().Case(path_parameters={**server.ids, "eventTypeId": "user.created"})
                response = case.call(base_url=server.base_url, headers=server.headers)
                assert response.status_code == 200
                case.validate_response(response)


@pytest.fixture
def untouched_server() -> Iterator[Target]:
    """One to which no other test has sent anything."""
    yield from target(Quirks())


def test_the_suite_for_the_real_api_passes_on_the_fake(untouched_server: Target) -> None:
    """It is run by hand against the real one: here it cannot rot."""
    environment = {
        **os.environ,
        "BASIQ_LIVE": "1",
        "BASIQ_API_KEY": FakeBasiq.DEFAULT_API_KEY,
        "BASIQ_BASE_URL": untouched_server.base_url,
    }
    suite = str(Path(__file__).with_name("test_live.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", suite]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert "7 passed" in done.stdout, done.stdout


async def test_it_is_served_and_says_what_a_delivery_is() -> None:
    fake = FakeBasiq()
    fake.route("https://example.com/basiq", endpoint := Endpoint(200))
    fake.add_webhook("https://example.com/basiq")
    await fake.emit("user.created")
    async with (
        serve(fake) as base_url,
        aiohttp.ClientSession() as session,
        session.get(f"{base_url}/_fake/basiq.yaml") as response,
    ):
        assert (response.status, response.content_type) == (200, "application/yaml")
        document = yaml.safe_load(await response.text())
    assert document == yaml.safe_load(DESCRIPTION.read_text())
    delivery = document["webhooks"]["delivery"]["post"]
    ((headers, body),) = endpoint.got
    validator = jsonschema.Draft202012Validator(
        {"$ref": "#/components/schemas/Delivery", "components": document["components"]}
    )
    validator.validate(json.loads(body))
    for parameter in delivery["parameters"]:
        jsonschema.validate(headers[parameter["name"]], parameter["schema"])
