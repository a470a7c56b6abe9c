"""Programs that tests start many times begin warm: forked from a process that has imported what they need.

``warm()`` starts that process. ``PROGRAM`` is then ``basiq-async`` as a command of its own, in 40 ms instead of 700:
``warm_client.py`` has its standard streams, folder, environment, words, signals and exit code. What depends on how
Python starts, or stops a process by SIGSTOP, needs ``command_line.COLD``.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

CLIENT = (sys.executable, "-I", "-S", str(Path(__file__).with_name("warm_client.py")))
ADDRESS = "WARM_PROGRAMS"
"""The variable that leads the client here."""
IMPORTED = (
    "aiohttp.web", "rich.live", "rich.markdown", "rich.progress", "rich.table", "typer.rich_utils", "sqlite3",
    "aiosqlite", "sqlalchemy.ext.asyncio",
    "basiq_async.cli._app", "basiq_async.otel", "basiq_async.receiver", "basiq_async.replay", "basiq_async.testing",
    "basiq_async.testing.mock", "sybil", "tests.support.pages",
)  # fmt: skip


@contextmanager
def warm() -> Iterator[None]:
    """Have programs of ``CLIENT`` begin warm, until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="warm") as folder:
        address = f"{folder}/socket"
        command = [sys.executable, "-m", "tests.support.warm", address]
        root = Path(__file__).parents[2]
        with subprocess.Popen(
            command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            os.environ[ADDRESS] = address
            try:
                yield
            finally:
                del os.environ[ADDRESS]
                process.stdin.close()


class _Parent:
    """Forks a child for each client, gives it signals, and the client its exit status."""

    def __init__(self, address: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        self._listener.listen(64)
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, socket.socket] = {}
        self._ended, wake = socket.socketpair()
        for each in (self._ended, wake):
            each.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno())
        self._wake = wake

    def serve(self) -> None:
        """Serve until the end of standard input; then no child is left."""
        for each in (self._listener, self._ended, sys.stdin.fileno()):
            self._selector.register(each, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj == sys.stdin.fileno():
                    for pid in self._children:
                        os.kill(pid, signal.SIGKILL)
                    return
                if key.fileobj is self._listener:
                    self._start(self._listener.accept()[0])
                elif key.fileobj is self._ended:
                    self._ended.recv(4096)
                    self._reap()
                else:
                    self._signal(key.data)

    def _start(self, client: socket.socket) -> None:
        head, fds, _, _ = socket.recv_fds(client, 8, 3)
        body = b""
        while len(body) < int(head):
            body += client.recv(65_536)
        pid = os.fork()
        if not pid:
            self._become(json.loads(body), fds)
        for fd in fds:
            os.close(fd)
        self._children[pid] = client
        self._selector.register(client, selectors.EVENT_READ, pid)

    def _signal(self, pid: int) -> None:
        client = self._children[pid]
        try:
            numbers = client.recv(64) or bytes([signal.SIGKILL])  # it was killed itself
        except ConnectionError:
            numbers = bytes([signal.SIGKILL])
        if numbers[-1] == signal.SIGKILL:
            self._selector.unregister(client)
        for number in numbers:
            os.kill(pid, number)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            client = self._children.pop(pid)
            if client in {key.fileobj for key in self._selector.get_map().values()}:
                self._selector.unregister(client)
            with suppress(OSError):
                client.sendall(b"%8d" % os.waitstatus_to_exitcode(status))
            client.close()

    def _become(self, request: dict[str, Any], fds: list[int]) -> NoReturn:
        """Run the program in this process, which is a child."""
        code = 1
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for each in (self._listener, self._ended, self._wake, *self._children.values()):
                each.close()
            self._selector.close()
            _give_streams(request["open"], fds)
            os.chdir(request["folder"])
            os.environ.clear()
            os.environ.update(request["environment"])
            sys.path[:1] = ["", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
            target, *words = request["words"]
            sys.argv = [target, *words]
            random.seed()
            if "-W" in request["options"]:
                warnings.simplefilter("error")
            module, _, name = target.partition(":")
            try:
                getattr(importlib.import_module(module), name)()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
                if isinstance(end.code, str):
                    print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            _end(code)


def run_text() -> None:
    """Run the program that is the first word, as ``python -c`` does."""
    exec(compile(sys.argv[1], "<string>", "exec", dont_inherit=True), {"__name__": "__main__"})


def run_file() -> None:
    """Run the file that is the first word, as ``python FILE`` does."""
    sys.path[:1] = [str(Path(sys.argv[1]).parent)]
    runpy.run_path(sys.argv[1], run_name="__main__")


def _give_streams(numbers: list[int], fds: list[int]) -> None:
    """Have standard streams as Python makes them, where the client has them."""
    for number in range(3):
        os.close(number)
    for number, fd in zip(numbers, fds, strict=True):
        os.dup2(fd, number)
        os.close(fd)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = None
        if number in numbers:
            live = number == 2 or os.isatty(number) or bool(os.environ.get("PYTHONUNBUFFERED"))
            errors = "backslashreplace" if number == 2 else "strict"
            stream = os.fdopen(number, "w" if number else "r", 1 if live else -1, "utf-8", errors, closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _end(code: int) -> NoReturn:
    import atexit
    import threading

    try:
        threading._shutdown()  # type: ignore[attr-defined]  # as Python does at its end, before what atexit has
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except BaseException:
        code = code or 120
    os._exit(code)


if __name__ == "__main__":
    import gc

    from typer.main import get_command

    for module in IMPORTED:
        importlib.import_module(module)
    from basiq_async.cli import _app  # private: the program is built once

    built: Any = get_command(_app.build())
    _app.build = lambda words: built
    gc.freeze()
    _Parent(sys.argv[1]).serve()
