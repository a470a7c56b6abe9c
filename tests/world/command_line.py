"""The command line in a world: a command is a job on a machine of its own, and its exit code is a promise."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any
from unittest.mock import patch

import attrs
import typer
from typer.main import get_command

from basiq_async.cli import _app, _inboxes, _run, _waiting  # private: a process would have a loop of its own
from basiq_async.cli._output import new_session  # private: what each invocation begins
from basiq_async.receiver import WebhookReceiver
from basiq_async.replay.targets import _http  # private: what it posts with
from basiq_async.transports import aiohttp

from .network import Posting, Wire

RECEIVER = "service:receiver"
"""Where the lines that doctor prints find the receiver."""


@attrs.define(eq=False)
class Command:
    """A command that runs, or has ended."""

    wire: Wire
    posting: Posting
    receiver: Callable[[], WebhookReceiver]
    code: int = 0
    output: list[str] = attrs.Factory(list[str])
    said: list[str] = attrs.Factory(list[str])
    error: BaseException | None = None
    signal: Callable[[int], None] = lambda number: None
    """Sends it a signal."""

    async def run(self, words: tuple[str, ...]) -> Command:
        """Do what ``_app.run`` does, in the loop that runs."""
        _CURRENT.set(self)
        with new_session(json=False):
            try:
                found = _program()(args=[*words], prog_name="basiq-async", standalone_mode=False)
                found = await found if inspect.iscoroutine(found) else found
                self.code = found if isinstance(found, int) else 0
            except typer.Exit as exc:
                self.code = exc.exit_code
            except Exception as exc:
                self.error, self.code = exc, _app._show(exc)
        return self

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in "".join(self.output).splitlines()]

    @property
    def row(self) -> dict[str, Any]:
        """The only row that it wrote; an empty one if it ended with an error before that."""
        return self.rows[0] if self.output else {}


_CURRENT = ContextVar[Command]("the command that runs")


def let_post(command: Command) -> None:
    """Let what runs now post as a command does."""
    _CURRENT.set(command)


@functools.cache
def _program() -> Any:
    return get_command(_app.build())


class _Stream(io.TextIOBase):
    """A standard stream, of whichever command writes to it."""

    encoding = "utf-8"

    def __init__(self, name: str) -> None:
        self._name = name

    def write(self, text: str) -> int:
        if (found := _CURRENT.get(None)) is not None:  # else a killed one is thrown away
            getattr(found, self._name).append(text)
        return len(text)


@contextlib.contextmanager
def _on_signals(handle: Callable[[int], None]) -> Iterator[None]:
    _CURRENT.get().signal = handle
    yield


@contextlib.contextmanager
def in_the_process(api_key: str) -> Iterator[None]:
    """Let commands run in the loop of the world, with its network, its receivers, and no process of their own."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("BASIQ_")}
    with (
        patch.dict(os.environ, {**environment, "BASIQ_API_KEY": api_key}, clear=True),
        patch.object(aiohttp, "AiohttpTransport", lambda **_: _CURRENT.get().wire),
        patch.object(_http, "StatusTransport", lambda *_, **__: _CURRENT.get().posting),
        patch.object(_inboxes, "_load", lambda place: _CURRENT.get().receiver),
        patch.object(_run, "on_signals", _on_signals),
        patch.object(_waiting, "show_logs", lambda *_: None),
        patch.object(sys, "stdout", _Stream("output")),
        patch.object(sys, "stderr", _Stream("said")),
    ):
        yield
