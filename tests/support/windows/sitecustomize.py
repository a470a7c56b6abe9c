"""With this folder on PYTHONPATH, a Python on POSIX lacks what Windows does not have, and has ``msvcrt.locking``."""

import asyncio
import fcntl
import os
import signal
import sys
import types

sys.modules.update(dict.fromkeys(("fcntl", "grp", "pwd", "resource", "termios")))
_SIGNALS = ("SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM")
_OTHERS = [name for name in vars(signal) if name.startswith("SIG") and name[3:].isalpha() and name not in _SIGNALS]
for _owner, _names in (
    (os, ["fork", "forkpty", "register_at_fork", "setpgid", "killpg", "geteuid", "O_NOFOLLOW", "fchmod"]),
    (signal, [*_OTHERS, "pthread_sigmask", "setitimer"]),
):
    for _name in _names:
        delattr(_owner, _name)


def _no_signals(*arguments: object) -> None:
    raise NotImplementedError


asyncio.SelectorEventLoop.add_signal_handler = _no_signals  # type: ignore[method-assign]
asyncio.SelectorEventLoop.remove_signal_handler = _no_signals  # type: ignore[method-assign,assignment]


def _locking(descriptor: int, mode: int, count: int) -> None:
    fcntl.flock(descriptor, mode)


msvcrt = types.ModuleType("msvcrt")
vars(msvcrt).update(locking=_locking, LK_NBLCK=fcntl.LOCK_EX | fcntl.LOCK_NB)
sys.modules["msvcrt"] = msvcrt
