"""One writer for a file, on every system."""

from __future__ import annotations

import sys
from typing import BinaryIO

if sys.platform == "win32":  # pragma: no cover
    import errno
    import msvcrt

    _FAR_BEHIND = 2**40
    """Windows keeps others from reading what is locked: a byte that no file has."""

    def lock(file: BinaryIO) -> None:
        """Lock a file until it is closed. Raises ``BlockingIOError`` where somebody else has."""
        file.seek(_FAR_BEHIND)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as exc:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked") from exc

else:
    import fcntl

    def lock(file: BinaryIO) -> None:
        """Lock a file until it is closed. Raises ``BlockingIOError`` where somebody else has."""
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
