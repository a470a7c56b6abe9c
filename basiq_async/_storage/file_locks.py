"""Lock a file for one program: by ``flock``, and on Windows by ``msvcrt``. No function here waits for a lock."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from .private_files import open_private

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


@contextmanager
def try_lock_beside(path: Path) -> Iterator[bool]:
    """Lock a file for writers, by one beside it, which is removed at the end. Yield False if another writer has it.

    A lock on the file itself would be lost when the file is replaced, and any user who may read its folder can hold a
    lock on that. A file of another user in this place, or a link, is refused. Raises OSError. Where the system has no
    such locks, nothing is locked.
    """
    beside = str(path.with_name(f".{path.name}.lock"))
    if fcntl is None:
        yield True
        return
    descriptor = open_private(beside, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # some network file systems have no locks
            pass
        if not _is_at(descriptor, beside):  # the writer before has removed it
            yield False
            return
        try:
            yield True
        finally:
            with suppress(OSError):
                os.unlink(beside)
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
