"""The README is true: its programs run, its tree is the errors' tree, its commands exist."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import basiq_async
from basiq_async import errors
from basiq_async.testing import FakeBasiq, serve

README = (Path(__file__).parents[2] / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_programs_are_found() -> None:
    assert len(PROGRAMS) >= 5


@pytest.mark.parametrize("program", PROGRAMS, ids=[f"program {number}" for number in range(1, len(PROGRAMS) + 1)])
async def test_a_program_of_the_readme_runs(program: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    fake = FakeBasiq()
    fake.seed_messages(1_234, failed=0.5)
    fake.route("https://example.com/basiq", _accept)
    fake.emit("consent.revoked")
    monkeypatch.setenv("BASIQ_API_KEY", fake.DEFAULT_API_KEY)
    async with serve(fake) as base_url:
        # The one thing that is changed: where the API is.
        monkeypatch.setattr(basiq_async, "BasiqClient", partial(basiq_async.BasiqClient, base_url=base_url))
        await asyncio.to_thread(exec, compile(program, "README.md", "exec"), {"__name__": "__main__"})
    assert list(fake.violations) == []


async def _accept(headers: object, body: bytes) -> int:
    return 204


def test_the_tree_of_errors_is_the_real_one() -> None:
    tree = re.search(r"```\n(BasiqError\n.*?)```", README, re.DOTALL)
    assert tree is not None
    depths = re.findall(r"^([│ ]*(?:├── |└── )?)([A-Z]\w+Error)\b", tree[1], re.MULTILINE)
    path: list[type] = []
    named = set()
    for indent, name in depths:
        depth = len(indent) // 4
        found = getattr(errors, name)
        assert depth == 0 or issubclass(found, path[depth - 1])
        path[depth:] = [found]
        named.add(name)
    real = {n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, errors.BasiqError)}
    assert named == real


def test_the_links_to_files_lead_somewhere() -> None:
    for target in re.findall(r"\]\(((?!https?:)[^)#]+)", README):
        assert (Path(__file__).parents[2] / target).exists(), target
