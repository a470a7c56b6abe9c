"""Every scenario is run with secrets that can be recognised, and every log record of it is looked through."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import pytest

from tests.support.wire import MARK


def assert_quiet(records: Iterable[logging.LogRecord]) -> None:
    """Check that no record shows a credential, and that asyncio complains of nothing."""
    for record in records:
        text = logging.Formatter("%(name)s %(message)s").format(record)
        assert MARK not in text, text
        # Of a connection that the client has cut off, the streams of our own server can leave a future behind.
        ours = bool(record.exc_info) and isinstance(record.exc_info[1], (ConnectionResetError, BrokenPipeError))
        assert ours or not record.name.startswith("asyncio") or record.levelno < logging.ERROR, text


@pytest.fixture(autouse=True)
def no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert_quiet([*caplog.get_records("call"), *caplog.records])
