"""With this folder on PYTHONPATH, a Python on POSIX lacks what Windows does not have, and has ``msvcrt.locking``."""

import asyncio
import fcntl
import os
import signal
import sys
import types

sys.modules.update(dict.fromkeys(("fcntl", "grp", "pwd", "resource", "termios")))
for _owner, _names in (
    (os, "fork forkpty register_at_fork setpgid killpg geteuid getuid getgid getegid O_NOFOLLOW O_NONBLOCK fchmod"),
    (signal, "SIGHUP SIGKILL SIGALRM SIGCONT SIGUSR1 pthread_sigmask setitimer"),
):
    for _name in _names.split():
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
