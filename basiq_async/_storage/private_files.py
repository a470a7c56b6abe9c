"""Files that their owner alone can read: inboxes, checkpoints, exports, keys. They hold secrets and consumers' data."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_OURS = 0o600
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)


def create_private(path: str) -> bool:
    """Make the file, readable and writable by its owner alone. False where something is there already.

    A symbolic link counts as something, also one that leads nowhere: it is not followed. Raises OSError.
    """
    try:
        descriptor = open_new(path)
    except FileExistsError:
        return False
    os.close(descriptor)
    return True


def open_new(path: str | os.PathLike[str]) -> int:
    """Make a file for its owner alone, and open it to read and write.

    Raises OSError: FileExistsError where something is there, a symbolic link too; ValueError for a null character.
    """
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | _NO_LINKS | _BINARY, _OURS)


def replace_private(path: str | os.PathLike[str], content: bytes) -> None:
    """Write or replace a file, whole or not at all, durably. Raises OSError."""
    with _draft(Path(path), content) as draft:
        draft.replace(path)


def publish_private(path: str | os.PathLike[str], content: bytes) -> bool:
    """Write a new file, whole or not at all, durably. False where something is there. Raises OSError, ValueError."""
    if os.path.lexists(path):
        return False
    with _draft(Path(path), content) as draft:
        try:
            os.link(draft, path)  # never over what another process has published meanwhile
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            draft.replace(path)
    return True


@contextmanager
def _draft(path: Path, content: bytes) -> Iterator[Path]:
    """A file beside ``path`` with all of the content on disk; it is gone afterwards."""
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    descriptor = open_new(draft)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        with suppress(OSError):
            draft.unlink()


def open_private(path: str, flags: int) -> int:
    """Open a file with ``os.open`` and check it; a new one is made for its owner alone.

    Raises OSError: PermissionError, with the reason, where the file is not private.

    Not for a file that SQLite has open in this process: closing the descriptor would end SQLite's locks on it.
    """
    if os.path.islink(path):
        raise PermissionError(errno.EPERM, _LINK, path)
    descriptor = os.open(path, flags | _NO_LINKS | _BINARY, _OURS)
    try:
        problem = _problem(os.fstat(descriptor), mode=True)
        if problem:
            raise PermissionError(errno.EPERM, problem, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_private(path: str, *, mode: bool = True) -> str | None:
    """Return why an existing file is not private, or None. Follows no link and opens nothing. Raises OSError."""
    return _problem(os.lstat(path), mode=mode)


_LINK = "it is a symbolic link: pass the path of the file itself"


def _problem(found: os.stat_result, *, mode: bool) -> str | None:
    if stat.S_ISLNK(found.st_mode):
        return _LINK
    if not stat.S_ISREG(found.st_mode):
        return "it is not a regular file: pass the path of a file"
    if not hasattr(os, "geteuid"):
        return None  # Windows, where the folder's permissions decide
    if found.st_uid != os.geteuid():
        return f"it belongs to another user (uid {found.st_uid}): change its owner, or pass another path"
    if mode and found.st_mode & 0o077:
        return f"other users can open it (mode {stat.S_IMODE(found.st_mode):04o}): chmod 600 it, or pass another path"
    return None
