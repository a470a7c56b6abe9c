"""A resource is declared once, by the fields of its model; where it is not known, a test names the place."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import attrs
import pytest

import basiq_async
from basiq_async import BasiqClient, models
from basiq_async._wire.codec import _READ, Codec
from basiq_async.models import JSON_NAME, KIND, RAW
from basiq_async.testing.fake._operations import ROUTES  # private: which paths the fake serves
from tests.support.scripted import API_KEY, Scripted

ROOT = Path(basiq_async.__file__).parent
RESOURCES = [
    model
    for _, model in inspect.getmembers(models, inspect.isclass)
    if attrs.has(model) and "raw" in attrs.fields_dict(model) and model is not models.EnsuredWebhook
]


def services(model: type[Any]) -> list[str]:
    """The names of the client's services whose ``get`` and ``list`` return a model."""
    client = BasiqClient(API_KEY, transport=Scripted())
    wanted = [("get", model.__name__), ("list", f"Paginator[{model.__name__}]")]
    return [
        name
        for name, service in vars(client).items()
        if not name.startswith("_")
        and all(inspect.signature(getattr(service, each)).return_annotation == kind for each, kind in wanted)
    ]


def test_the_resources_of_today_are_found() -> None:
    assert {model.__name__ for model in RESOURCES} >= {"Webhook", "Message", "Event", "EventType"}


@pytest.mark.parametrize("model", RESOURCES, ids=lambda model: model.__name__)
def test_a_resource_is_known_everywhere(model: type[Any]) -> None:
    name, missing = model.__name__, list[str]()
    fields = attrs.fields(model)
    if model is not models.Message:  # whose properties read its JSON on access
        missing += [f"metadata of the field {field.name}" for field in fields if field.metadata.get(KIND) not in _READ]
        named = [field.metadata.get(JSON_NAME) for field in fields]
        assert len({*named}) == len(named), f"two fields of {name} have one JSON name"
        assert RAW in named
    reader = Codec().reader(model)
    try:
        reader.hook({"id": "x", "url": "https://a"}, model)
    except Exception as exc:
        missing.append(f"a reader in the codec ({exc!r})")
    found = services(model)
    missing += [] if found else ["a service of the client with get and list"]
    missing += [] if name in basiq_async.__all__ else ["basiq_async.__all__"]
    documented = "".join(page.read_text() for page in (ROOT.parent / "docs" / "reference").glob("*.md"))
    missing += [] if f":: {name}\n" in documented else ["docs/reference"]
    for service in found:
        paths = [path for path, methods in ROUTES.items() if "GET" in methods and service.rpartition("_")[2] in path]
        missing += [] if paths else [f"a route of the fake for {service}"]
        commands = "".join(path.read_text() for path in (ROOT / "cli").glob("*.py"))
        missing += [] if f".{service}." in commands else [f"a command that uses {service}"]
    assert not missing, f"{name} is not known in: {', '.join(missing)}"
