"""Private files, which only their owner can read: inboxes, exports and keys hold secrets or user data."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from glob import escape
from pathlib import Path

from ..errors import ConfigurationError

_OURS = 0o600
_ABANDONED = 3600.0
"""Seconds after which a draft is of a process that was killed: it takes a moment to write one."""
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
"""So that a named pipe in the file's place is refused, and not waited for."""


def lasting_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that means the same file when the process changes its working directory.

    Raises ``ConfigurationError`` for a relative path if that directory is gone.
    """
    try:
        return Path(path).absolute()
    except OSError:
        raise ConfigurationError(
            f"the path {os.fspath(path)!r} is relative to the working directory, which does not exist any more: pass "
            "an absolute one"
        ) from None


def create_private(path: str) -> bool:
    """Create a file that only its owner can read and write. Return False if the path exists already.

    A symbolic link counts as existing, even if its target does not exist: it is not followed. Raises OSError.
    """
    try:
        descriptor = open_new(path)
    except FileExistsError:
        return False
    os.close(descriptor)
    return True


def open_new(path: str | os.PathLike[str]) -> int:
    """Create a private file, and return its descriptor, open to read and write.

    Raises OSError (FileExistsError if the path exists, even as a symbolic link), and ValueError for a null character.
    """
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | _NO_LINKS | _BINARY, _OURS)


def replace_private(path: str | os.PathLike[str], content: bytes) -> None:
    """Write or replace a private file, atomically and durably. Raises OSError.

    It removes the drafts of processes that were killed while they did this, an hour or more ago.
    """
    name = Path(path).name
    draft = Path(path).with_name(f".{name}.{os.urandom(8).hex()}")
    descriptor = open_new(draft)
    try:
        with suppress(OSError):
            now = os.fstat(descriptor).st_mtime  # by the clock of the file system
            for each in draft.parent.glob(f".{escape(name)}.{'[0-9a-f]' * 16}"):
                if abs(now - each.lstat().st_mtime) >= _ABANDONED:
                    each.unlink()
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _sync_folder(Path(path).parent)
    finally:
        with suppress(OSError):
            draft.unlink()


def _sync_folder(folder: Path) -> None:
    """Let the names in a folder outlast a loss of power, where the system can do that."""
    with suppress(OSError):  # Windows opens no folders, and who may write to one need not be allowed to read it
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def open_private(path: str, flags: int) -> int:
    """Open a file with ``os.open``, and check that it is private; a new file is created as private.

    Raises OSError: a PermissionError with the reason if the file is not private.

    Do not use it on a file that SQLite has open in this process: closing the descriptor would end SQLite's locks on it.
    """
    if os.path.islink(path):
        raise PermissionError(errno.EPERM, _LINK, path)
    descriptor = os.open(path, flags | _NO_LINKS | _BINARY | _NO_WAIT, _OURS)
    try:
        problem = _problem(os.fstat(descriptor), mode=True)
        if problem:
            raise PermissionError(errno.EPERM, problem, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_private(path: str, *, mode: bool = True) -> str | None:
    """Return why an existing file is not private, or None if it is. Does not open the file. Raises OSError."""
    return _problem(os.lstat(path), mode=mode)


_LINK = "it is a symbolic link: pass the path of the file itself"


def _problem(found: os.stat_result, *, mode: bool) -> str | None:
    if stat.S_ISLNK(found.st_mode):
        return _LINK
    if not stat.S_ISREG(found.st_mode):
        return "it is not a regular file: pass the path of a file"
    if not hasattr(os, "geteuid"):
        return None  # on Windows, the folder's permissions decide
    if found.st_uid != os.geteuid():
        return f"it belongs to another user (uid {found.st_uid}): change its owner, or pass another path"
    if mode and found.st_mode & 0o077:
        return f"other users can open it (mode {stat.S_IMODE(found.st_mode):04o}): chmod 600 it, or pass another path"
    return None
