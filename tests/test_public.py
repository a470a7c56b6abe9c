"""The public surface: what is exported, that every module stands alone, and what is not loaded before its time."""

from __future__ import annotations

import ast
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import basiq_async
from tests.support.api import MODULES

ROOT = Path(basiq_async.__file__).parent


def modules() -> list[str]:
    found = [info.name for info in pkgutil.walk_packages([str(ROOT)], "basiq_async.")]
    return [name for name in found if not name.endswith("__main__")]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("package", MODULES)
def test_all_is_sorted_complete_and_true(package: str) -> None:
    module = import_module(package)
    names = list(module.__all__)
    assert names == sorted(names)
    assert len(names) == len(set(names))
    for name in names:
        assert getattr(module, name) is not None
    assert set(names) <= set(dir(module))


@pytest.mark.parametrize(
    "package", ["basiq_async", "basiq_async.receiver", "basiq_async.replay", "basiq_async.testing"]
)
def test_a_name_that_does_not_exist_is_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match=f"^module '{package}' has no attribute 'Nothing'$"):
        _ = import_module(package).Nothing


@pytest.mark.parametrize(
    ("package", "name", "home"),
    [
        ("receiver", "Claim", "basiq_async.receiver.protocol"),
        ("replay", "RecordError", "basiq_async"),
    ],
)
def test_a_name_for_implementers_and_an_error_have_one_home(package: str, name: str, home: str) -> None:
    with pytest.raises(ImportError, match=f"from {home} import {name}$"):
        exec(f"from basiq_async.{package} import {name}")
    assert hasattr(import_module(home), name)


def test_every_error_is_in_the_tree_of_the_docstring() -> None:
    errors = import_module("basiq_async.errors")
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(classes) >= 17
    for error in classes:
        assert issubclass(error, errors.BasiqError)
        assert error.__name__ in errors.__doc__
        assert error.__doc__
        assert error.__name__ in basiq_async.__all__


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ["aiohttp", "asyncio", "attrs", "backoff", "typer", "rich", "orjson"]
    heavy += ["basiq_async.testing", "basiq_async.receiver"]
    loaded = python(f"import sys, basiq_async\nprint([name for name in {heavy} if name in sys.modules])")
    assert loaded == "[]"


def test_the_road_in_memory_does_not_import_aiohttp() -> None:
    code = """
import asyncio, sys
from basiq_async import BasiqClient, InMemoryTransport

async def main():
    transport = InMemoryTransport()
    webhook_id = transport.fake.seed_messages(700)
    async with BasiqClient(transport.fake.DEFAULT_API_KEY, transport=transport) as basiq:
        return len(await basiq.messages.list(webhook_id).collect())

print(asyncio.run(main()), "aiohttp" in sys.modules)
"""
    assert python(code) == "700 False"


@pytest.mark.parametrize("name", ["errors", "models", "transports.base", "_wire.hosts"])
def test_the_lowest_modules_import_nothing_of_the_project(name: str) -> None:
    source = (ROOT / f"{name.replace('.', '/')}.py").read_text()
    # What only a type checker reads is not imported.
    source = re.sub(r"^if TYPE_CHECKING:\n(    .*\n)+", "", source, flags=re.MULTILINE)
    assert "from ." not in source
    assert "import basiq_async" not in source


def test_the_fake_shares_nothing_with_the_client_but_errors_and_the_seam_of_transports() -> None:
    folder = ROOT / "testing" / "fake"
    # For everybody, _wire/hosts.py says which hosts are this machine, _work how a task ends, and a wait, and _callables
    # what a callable takes, and _redaction/tracebacks.py hides what an error that is logged holds.
    allowed = {
        *("basiq_async.errors", "basiq_async.transports.base", "basiq_async._callables"),
        *("basiq_async._wire.hosts", "basiq_async._work.tasks", "basiq_async._work.limits"),
        "basiq_async._redaction.tracebacks",
    }
    for path in sorted(folder.rglob("*.py")):
        package = path.relative_to(ROOT.parent).parent.parts
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else ()
                modules = [".".join((*base, *filter(None, [node.module])))]
            else:
                continue
            for module in modules:
                inside = module.startswith("basiq_async.testing.fake")
                assert inside or not module.startswith("basiq_async") or module in allowed, f"{path}: {module}"


def test_the_package_is_typed() -> None:
    assert (ROOT / "py.typed").exists()


@pytest.mark.parametrize("home", [name.removeprefix("basiq_async.") for name in MODULES[1:]])
def test_each_name_of_a_package_is_found_where_it_is_asked_for_in_the_root(home: str) -> None:
    for name in import_module(f"basiq_async.{home}").__all__:
        if name not in basiq_async.__all__:
            with pytest.raises(ImportError, match=rf"from basiq_async\.[\w.]+ import {name}$"):
                getattr(basiq_async, name)
