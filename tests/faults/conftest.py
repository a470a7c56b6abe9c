"""Every scenario is run with secrets that can be recognised, and every log record of it is looked through."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.support import outcomes
from tests.support.environment import EXAMPLES
from tests.support.wire import MARK

NOT_OURS = ("httpcore", "httpx")
"""Loggers of what an example of a transport is made of: at DEBUG they show the headers of each response."""
ONLY_AIOHTTP = {
    "a huge header", "a thousand headers", "a huge reason", "br that is not", "zstd that is not", "gzip in two members",
}  # fmt: skip
"""Scenarios about limits and encodings that only the usual transport has."""


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(NOT_OURS):
            return
        self.texts.append(self.format(record))
        # Of a connection that the client has cut off, the streams of our own server can leave a future behind.
        ours = bool(record.exc_info) and isinstance(record.exc_info[1], (ConnectionResetError, BrokenPipeError))
        if record.name.startswith("asyncio") and record.levelno >= logging.ERROR and not ours:
            self.texts.append("asyncio complains")


@pytest.fixture(autouse=True)
def no_secret_is_logged() -> Iterator[None]:
    root = logging.getLogger()
    handler, level = _Records(), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    for text in handler.texts:
        assert MARK not in text, text
        assert text != "asyncio complains", handler.texts


@pytest.fixture(params=["aiohttp", "httpx"])
def over_both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scenario is run over the usual transport, and over the example of another one."""
    if request.param == "httpx":
        if any(name in request.node.name for name in ONLY_AIOHTTP):
            pytest.skip("httpx has no such limit or encoding")
        monkeypatch.syspath_prepend(EXAMPLES)
        from httpx_transport import HttpxTransport

        monkeypatch.setattr(outcomes, "make_transport", lambda timeout: HttpxTransport(timeout=timeout))
