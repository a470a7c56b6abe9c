"""The page on dlt, with the real library where it is installed: a history becomes tables, each message once."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest

from basiq_async.testing import FakeBasiq, serve
from tests.support.environment import ROOT
from tests.support.programs import run

COUNT = """
import duckdb, json
with duckdb.connect("basiq.duckdb") as tables:
    print(json.dumps([tables.execute(f"select count(*) from webhooks.{name}").fetchone()[0]
                      for name in ("messages", "messages__attempts")]))
"""


async def python(folder: Path, *words: str, **environment: str) -> str:
    quiet = {"HOME": str(folder), "DLT_DATA_DIR": str(folder / "dlt"), "RUNTIME__DLTHUB_TELEMETRY": "false"}
    done = await asyncio.to_thread(run, sys.executable, *words, cwd=folder, **quiet, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def test_the_program_of_the_page_loads_each_message_once(tmp_path: Path) -> None:
    pytest.importorskip("dlt")
    pytest.importorskip("duckdb")
    page = (ROOT / "docs" / "howto" / "load-with-dlt.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "load.py").write_text(program)
    fake = FakeBasiq()
    webhook_id = fake.seed_messages(34)
    async with serve(fake) as base_url:
        for _ in range(2):
            await python(tmp_path, "load.py", webhook_id, BASIQ_BASE_URL=base_url, BASIQ_API_KEY=fake.api_key)
    assert json.loads(await python(tmp_path, "-c", COUNT)) == [34, 34]
    assert list(fake.misuses) == []
