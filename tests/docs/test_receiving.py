"""docs/receiving.md is true: its programs work, its answers are the receiver's, its links lead somewhere."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from basiq_async.receiver import sign
from basiq_async.receiver._outcome import STATUS
from tests.support.deliveries import OTHER_SECRET, SECRET, payload, signed

DOC = Path(__file__).parents[2] / "docs" / "receiving.md"
TEXT = DOC.read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def run(program: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(program, DOC.name, "exec"), names)
    return names


async def test_the_service_shown_handles_each_event_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = web.AppRunner(run(PROGRAMS[0])["make_app"](SECRET))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/basiq"
        body = payload("consent.revoked", "e-doc")
        statuses: list[int] = []
        async with aiohttp.ClientSession() as session:
            for headers in (signed(body), signed(body), signed(body, secret=OTHER_SECRET)):
                async with session.post(url, data=body, headers=headers) as answer:
                    statuses.append(answer.status)
    finally:
        await runner.cleanup()
    assert statuses == [204, 200, 401]
    assert capsys.readouterr().out == "consent.revoked e-doc\n"


def test_the_check_of_a_signature_shown_tells_genuine_from_forged(capsys: pytest.CaptureFixture[str]) -> None:
    genuine = run(next(program for program in PROGRAMS if "def genuine" in program))["genuine"]
    headers = sign(SECRET, "msg_1", datetime.now(UTC), b"{}")
    assert genuine(SECRET, headers, b"{}")
    assert not genuine(SECRET, headers, b"{ }")
    assert capsys.readouterr().out == "no-match\n"


def test_the_table_of_answers_has_every_status_that_a_receiver_gives() -> None:
    told = {int(status) for status in re.findall(r"^\|[^|]+\| (\d{3})\b", TEXT, re.MULTILINE)}
    assert told == set(STATUS.values())


def test_the_links_to_files_lead_somewhere() -> None:
    targets = re.findall(r"\]\(((?!https?:)[^)#]+)", TEXT)
    assert len(targets) >= 4
    for target in targets:
        assert (DOC.parent / target).exists(), target
