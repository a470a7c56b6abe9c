"""A resource is declared once: its fields in its model, its paths in one table. Each place it is missing is named."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml

import basiq_async
from basiq_async import BasiqClient, InMemoryTransport, NotFoundError, RequestEvent, RetryPolicy, models
from basiq_async._wire.codec import _READ, Codec
from basiq_async.models import JSON_NAME, KIND, RAW
from basiq_async.services.resources import RESOURCES, Resource
from basiq_async.testing import FakeBasiq
from basiq_async.testing.fake import _operations as served  # private: the table of what the fake serves

ROOT = Path(basiq_async.__file__).parent
DOCS = ROOT.parent / "docs"
DESCRIPTION = yaml.safe_load((ROOT / "testing" / "basiq.yaml").read_text())
UNKNOWN = "00000000-0000-4000-8000-000000000000"
each_resource = pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.name)


def in_camel_case(path: str) -> str:
    """The path with its parameters as the vendor's reference names them."""
    return re.sub(r"_([a-z])(?=[a-z_]*\})", lambda found: found[1].upper(), path)


def client(seen: list[RequestEvent]) -> BasiqClient:
    transport = InMemoryTransport(FakeBasiq())
    retry = RetryPolicy(max_retries=0)
    return BasiqClient(transport.fake.api_key, transport=transport, retry=retry, on_request=seen.append)


def missing_in_the_model(model: type[Any]) -> list[str]:
    fields = attrs.fields(model)
    if model is models.Message:  # whose properties read its JSON on access
        return []
    missing = [f"metadata of the field {field.name}" for field in fields if field.metadata.get(KIND) not in _READ]
    named = [field.metadata.get(JSON_NAME) for field in fields]
    assert len({*named}) == len(named), f"two fields of {model.__name__} have one JSON name"
    return missing if RAW in named else [*missing, "a field for the whole object"]


def missing_in_the_description(resource: Resource[Any]) -> list[str]:
    name, paths = resource.model.__name__, DESCRIPTION["paths"]
    schema = DESCRIPTION["components"]["schemas"].get(name)
    missing = [] if schema else [f"the schema {name} of basiq.yaml"]
    for path in map(in_camel_case, (resource.path, resource.one)):
        shown = str(paths.get(path, {}).get("get"))
        missing += [] if f"/schemas/{name}" in shown else [f"GET {path} with the schema {name} in basiq.yaml"]
    properties = schema["properties"] if schema else {}
    for field in attrs.fields(resource.model):
        wanted = field.metadata.get(JSON_NAME, RAW)
        if schema and wanted != RAW and wanted not in properties:
            missing.append(f"the property {wanted} of {name} in basiq.yaml")
    return missing


def missing_in_texts(resource: Resource[Any]) -> list[str]:
    name = resource.model.__name__
    commands = "".join(path.read_text() for path in (ROOT / "cli").glob("*.py"))
    places = {
        "a command that lists it": f".{resource.name}.list(" in commands,
        "docs/calling.md": f"basiq.{resource.name}." in (DOCS / "calling.md").read_text(),
        "basiq_async.__all__": name in basiq_async.__all__,
    }
    return [place for place, known in places.items() if not known]


@each_resource
def test_a_resource_is_known_everywhere(resource: Resource[Any]) -> None:
    model = resource.model
    missing = missing_in_the_model(model)
    try:
        Codec().reader(model).hook({"id": "x", "url": "https://a"}, model)
    except Exception as exc:
        missing.append(f"a reader in the codec ({exc!r})")
    service = getattr(client([]), resource.name, None)
    for method, returned in (("get", model.__name__), ("list", f"Paginator[{model.__name__}]")):
        function = getattr(service, method, None)
        if function is None or inspect.signature(function).return_annotation != returned:
            missing.append(f"BasiqClient.{resource.name}.{method}, which returns {returned}")
    if in_camel_case(resource.path) not in {each.path for each in served.RESOURCES}:
        missing.append("RESOURCES of the fake")
    missing += [*missing_in_the_description(resource), *missing_in_texts(resource)]
    assert not missing, f"{resource.name}: missing {'; '.join(missing)}"


@each_resource
async def test_a_service_requests_the_paths_of_the_table(resource: Resource[Any]) -> None:
    seen: list[RequestEvent] = []
    async with client(seen) as basiq:
        service = getattr(basiq, resource.name)
        parents = [UNKNOWN] * resource.path.count("{")
        item = "no.such" if resource.name == "event_types" else UNKNOWN
        with pytest.raises(NotFoundError, match=f"There is no|{UNKNOWN}"):
            await service.get(*parents, item)
        try:
            await service.list(*parents).first()
        except NotFoundError:
            assert parents
    assert [each.url_template for each in seen if each.method == "GET"] == [resource.one, resource.path]


def test_what_stands_anywhere_stands_in_the_table() -> None:
    declared = {
        model
        for _, model in inspect.getmembers(models, inspect.isclass)
        if attrs.has(model) and "raw" in attrs.fields_dict(model) and model is not models.EnsuredWebhook
    }
    for place, found, known in (
        ("a model", {model.__name__ for model in declared}, {each.model.__name__ for each in RESOURCES}),
        ("a service", {name for name in vars(client([])) if name[0] != "_"}, {each.name for each in RESOURCES}),
        ("the fake", {each.path for each in served.RESOURCES}, {in_camel_case(each.path) for each in RESOURCES}),
    ):
        assert found == known, f"{place} that is not in services/resources.py: {', '.join(sorted(found - known))}"
