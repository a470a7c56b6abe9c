"""Lock a file for one program: by ``flock``, and on Windows by ``msvcrt``."""

from __future__ import annotations

import errno
from importlib import import_module
from typing import Any, BinaryIO

fcntl: Any
try:
    import fcntl
except ImportError:
    fcntl = None

_PAST_THE_END = 2**40


def lock_file(file: BinaryIO) -> None:
    """Lock a file until it is closed. Raises ``BlockingIOError`` if another process has locked it."""
    if fcntl is not None:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    msvcrt: Any = import_module("msvcrt")
    file.seek(_PAST_THE_END)  # no process can read a locked part, so it must be no line
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as exc:
        raise BlockingIOError(errno.EWOULDBLOCK, "locked") from exc
