"""Every example in the vendor's own reference decodes, where the reference is at hand beside the checkout."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from basiq_async import Response
from basiq_async._wire.codec import Codec
from basiq_async.services.resources import RESOURCES
from basiq_async.transports.responses import error_from

SPEC = Path(os.environ.get("BASIQ_SPEC_DIR") or Path(__file__).parents[2] / "shared" / "spec")

PARAMETER = re.compile(r"\{[^}]*\}")


def without_names(path: str) -> str:
    """A path in which the parameters have no names: the reference's are often just ``id``."""
    return PARAMETER.sub("{}", path)


MODELS = {without_names(path): each.model for each in RESOURCES for path in (each.path, each.one)}


def examples() -> Iterator[tuple[str, str, int, Any]]:
    for file in sorted(SPEC.glob("*.json")):
        for path, operations in json.loads(file.read_text())["paths"].items():
            for method, operation in operations.items():
                for status, response in operation["responses"].items():
                    for content in response.get("content", {}).values():
                        for example in content.get("examples", {}).values():
                            yield method, path, int(status), example["value"]


FOUND = list(examples()) if SPEC.is_dir() else []


@pytest.mark.skipif(not FOUND, reason="the vendor's reference is not beside this checkout, nor at BASIQ_SPEC_DIR")
def test_every_example_of_an_answer_decodes() -> None:
    codec = Codec()
    read = 0
    for method, path, status, value in FOUND:
        body = json.dumps(value).encode()
        if status >= 400:
            error = error_from(Response(status, {}, body), method=method, path=path)
            assert error.status == status
            assert (error.code, error.correlation_id) == (value["data"][0]["code"], value["correlationId"])
            assert error.detail is not None
            assert error.detail in str(error)
        elif "data" in value and value.get("type") == "list":
            reader = codec.reader(MODELS[without_names(path)])
            items = [reader.hook(item, reader.model) for item in codec.page(body).items]
            assert all(item.id for item in items)
            read += len(items)
        else:
            assert codec.read(MODELS[without_names(path)], body).id == value["id"]
            read += 1
    assert read >= 20
