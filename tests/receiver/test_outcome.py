"""What the log says of an inbox whose storage is away."""

from __future__ import annotations

import asyncio
import logging

import pytest

from basiq_async import InboxError
from basiq_async.receiver import Result
from basiq_async.receiver._outcome import shorten  # private: texts of any length
from tests.support import virtual
from tests.support.deliveries import Service, payload, signed
from tests.support.inboxes import fail_in


async def post(service: Service) -> Result:
    body = payload()
    return (await service.receiver.handle(signed(body), body)).result


def test_a_text_from_outside_is_cut_after_two_hundred_characters() -> None:
    assert shorten("x" * 200) == "x" * 200
    assert shorten("x" * 201) == "x" * 200 + "…"


@pytest.mark.parametrize("at", ["claim", "complete"])
@virtual.clocked
async def test_an_outage_is_one_record_a_second_with_the_number_of_deliveries(
    at: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(inbox=fail_in(at, error=InboxError("the database did not respond")))
    for _ in range(50):
        await asyncio.gather(*(post(service) for _ in range(20)))
        await asyncio.sleep(0.1)
    await service.receiver.aclose()
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert 1 <= len(errors) <= 7, "one at once, and one for each second"
    assert sum(getattr(record, "count", 0) for record in errors) == 1000, "none is left out"
    assert all("the database did not respond" in record.getMessage() for record in errors)
    assert all(record.exc_info is None for record in errors), "its text is enough"
    assert "Traceback" not in caplog.text


@virtual.clocked
async def test_a_single_failure_is_told_at_once_and_nothing_follows(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(inbox=fail_in("claim", error=InboxError("away")))
    await post(service)
    assert [record.getMessage() for record in caplog.records] == [
        "delivery 'msg_1' could not be claimed, and the response asks Basiq to send it again: InboxError: away"
    ]
    await asyncio.sleep(10)
    await service.receiver.aclose()
    assert len(caplog.records) == 1


@virtual.clocked
async def test_an_inbox_that_hangs_is_an_error_that_says_so(caplog: pytest.LogCaptureFixture) -> None:
    for at in ("claim", "complete"):
        service = Service(inbox=fail_in(at), inbox_timeout=3)
        began = virtual.now()
        assert await post(service) is {"claim": Result.UNAVAILABLE, "complete": Result.HANDLED}[at]
        assert virtual.now() - began == pytest.approx(3)
        await service.receiver.aclose()
    assert len(caplog.records) == 2
    for record in caplog.records:
        assert record.getMessage().endswith("InboxError: the inbox did not respond within 3 s")


@virtual.clocked
async def test_an_error_of_another_kind_keeps_its_traceback_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(inbox=fail_in("claim", error=KeyError("a bug")))
    for _ in range(10):
        await post(service)
    await service.receiver.aclose()
    assert [bool(record.exc_info) for record in caplog.records if record.levelno >= logging.ERROR] == [True, True]
