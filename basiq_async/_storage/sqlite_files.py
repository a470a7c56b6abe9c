"""A SQLite file of this library: checked before it is used, private, and not used on both sides of a fork."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from .._redaction.tracebacks import drop_tracebacks
from .._work.failures import failure_text
from .._work.store_use import NO_INBOX, store_use
from ..errors import ConfigurationError, InboxError
from .private_files import check_private, create_private, lasting_path

_Identity = tuple[int, int]
_BESIDE = ("-journal", "-wal", "-shm")


@attrs.frozen
class FileKind:
    """A kind of file, recognised by SQLite's ``application_id`` and ``user_version``.

    schema: the statements that create the tables in a new file.
    """

    application_id: int
    version: int
    schema: tuple[str, ...]


class SQLiteFile:
    """A SQLite file in WAL mode with ``synchronous=FULL``: a commit survives a crash and a power failure.

    A file that this user cannot write is opened to be read. Where the process only looks (``store_use``), nothing is
    written: beside a log it is opened with ``mode=ro``, so that a live writer's commits are read (SQLite may make the
    ``-shm`` file that such a log needs); without a log with ``immutable=1``, which makes no file.

    Raises ``InboxError`` for a file that cannot be used; a file of another program is not changed. Only the owner can
    read a new file, and SQLite's files beside it. A symbolic link, a file of another user, and a file that other users
    can open are refused. All methods block.
    """

    def __init__(self, path: str | os.PathLike[str], kind: FileKind) -> None:
        text = os.fspath(path)
        no_file = not isinstance(text, str) or not text or "\0" in text
        if no_file or text.startswith((":memory:", "file:")):
            raise ConfigurationError("path must be the path of a file on a local disk, for the inbox")
        self.path = str(lasting_path(text))
        self.kind = kind
        self.use = store_use.get()
        self.for_a_look = False
        """Whether the connection sees the file as it was, and nothing that is written to it later."""
        self._seen: _Identity | None = None

    def open(
        self,
        *,
        timeout: float,
        fill: Callable[[sqlite3.Connection], None] | None = None,
    ) -> sqlite3.Connection:
        """Open the file. If it is missing or empty, create its tables, and call ``fill`` to write the first rows; or
        refuse it, as ``store_use`` says.

        ``timeout`` is the number of seconds to wait for another process. The connection may be used in any thread, and
        begins no transaction by itself. Close it with ``close``.
        """
        try:
            if self.use == "make":
                create_private(self.path)  # not by SQLite, so that the file is private from the first moment
            connection, blank = self._connect(timeout)
            try:
                if blank and self.use != "make":
                    raise self._unopenable(NO_INBOX)
                if blank:
                    self._make(connection, timeout, fill)
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("PRAGMA secure_delete=ON")  # what is removed is overwritten, in any build of SQLite
            except BaseException:
                self.close(connection)
                raise
        except (sqlite3.Error, OSError) as exc:
            raise self.translate(exc) from exc
        return connection

    def close(self, connection: sqlite3.Connection) -> None:
        """Close a connection that ``open`` returned."""
        connection.close()
        _open.pop(id(connection), None)

    def check_in_place(self) -> None:
        """Raise ``InboxError`` if the file was deleted or replaced since it was opened.

        SQLite keeps writing to a file that was deleted, so later entries would be lost.
        """
        try:
            found = _identity(self.path)
        except OSError:
            found = None
        if found != self._seen:
            raise InboxError(
                f"the file {self.path!r} of the inbox was deleted or replaced while it was open. Later entries may be "
                "lost: put the file back, then start again"
            )

    def fork_error(self) -> InboxError:
        """Return the error for a file that was open when this process forked."""
        return InboxError(
            f"the inbox {self.path!r} was open when this process forked, and SQLite cannot use a file on both sides of "
            "a fork: open it after the fork, in each worker process"
        )

    def translate(self, exc: BaseException) -> BaseException:
        """Return an ``InboxError`` for an error of SQLite, the file or its rows. Any other is returned unchanged."""
        if isinstance(exc, sqlite3.Error):
            said = _describe(exc, full=self._is_disk_full())
        elif isinstance(exc, OSError):
            said = (
                f"cannot be opened: {exc.strerror or exc}. Pass the path of a file that this process may write: is "
                f"there a folder {Path(self.path).parent}?"
            )
        elif isinstance(exc, (ValueError, TypeError, KeyError)):  # rows that this library did not write
            said = _DAMAGED.format(error=type(exc).__name__)
        else:
            return exc
        error = InboxError(f"the inbox {self.path!r} {said}")
        error._lasts = said != _LOCKED
        error.__cause__ = drop_tracebacks(exc)
        return error

    def _is_disk_full(self) -> bool:
        try:
            return shutil.disk_usage(Path(self.path).parent).free == 0
        except OSError:
            return False

    def _connect(self, timeout: float) -> tuple[sqlite3.Connection, bool]:
        """Return a connection, and whether the file is empty."""
        self._check_before_opening()
        look = f"{Path(self.path).as_uri()}?mode=ro"
        self.for_a_look = False
        if self.use == "look" and self._has_log():
            return self._connect_to(look, timeout)
        if self.use == "look":
            self.for_a_look = True
            return self._connect_to(f"{look}&immutable=1", timeout)
        try:
            return self._connect_to(self.path, timeout)
        except sqlite3.Error as exc:
            if _code(exc) not in _UNMADE or self._has_log():
                raise
        # SQLite makes two files beside it, which it cannot here. Without a log, nothing was written since.
        self.for_a_look = True
        return self._connect_to(f"{look}&immutable=1", timeout)

    def _has_log(self) -> bool:
        try:
            return os.path.getsize(f"{self.path}-wal") > 0
        except OSError:
            return False

    def _connect_to(self, place: str, timeout: float) -> tuple[sqlite3.Connection, bool]:
        connection = sqlite3.connect(
            place, timeout=timeout, isolation_level=None, check_same_thread=False, uri=place is not self.path
        )
        try:
            self._seen = _identity(self.path)
            _open[id(connection)] = self._seen, os.getpid(), connection
            connection.execute("BEGIN")  # read one consistent state, while another process may be creating the tables
            ours = self._is_ours(connection)
            connection.execute("COMMIT")
            if ours and (problem := check_private(self.path)):  # first: SQLite gives the files beside it the same mode
                raise self._unopenable(problem)
            self._check_beside()  # again, for files that were put there since the first check
        except BaseException:
            self.close(connection)
            raise
        return connection, not ours

    def _check_before_opening(self) -> None:
        # This opens no file: closing a file's descriptor would end the locks that SQLite has on it in this process.
        if problem := check_private(self.path, mode=False):
            raise self._unopenable(problem)
        self._check_beside()
        if _is_inherited(_identity(self.path)):
            raise self.fork_error()

    def _check_beside(self) -> None:
        # SQLite applies the journal or log beside a file, even if another user wrote it.
        for suffix in _BESIDE:
            path = self.path + suffix
            try:
                problem = check_private(path)
            except FileNotFoundError:
                continue
            if problem and (whole := check_private(self.path)):
                raise self._unopenable(f"{whole}. SQLite gives the files beside it (-wal, -shm) the same mode")
            if problem:
                raise self._unopenable(f"{path!r}: {problem}; if this program did not create it, remove it")

    def _unopenable(self, problem: str) -> InboxError:
        return InboxError(f"the inbox {self.path!r} cannot be opened: {problem}")

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        """Return True for a file of this kind, False for an empty file. Raises ``InboxError`` for any other file.

        It only reads, so that a file of another program is not changed.
        """
        kind = self.kind
        found: int = connection.execute("PRAGMA application_id").fetchone()[0]
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        tables: int = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if not (found or version or tables):
            return False
        if found != kind.application_id:
            raise InboxError(
                f"{self.path!r} is a SQLite file of another program, and no inbox. It was left as it is: pass another "
                "path"
            )
        if version != kind.version:
            raise InboxError(
                f"the inbox {self.path!r} has format {version}, and this release knows only format {kind.version}. It "
                "was left as it is: use the release that made it, or pass another path"
            )
        return True

    def _make(
        self, connection: sqlite3.Connection, timeout: float, fill: Callable[[sqlite3.Connection], None] | None
    ) -> None:
        os.chmod(self.path, 0o600)  # an empty file that was there before
        deadline = time.monotonic() + timeout
        while True:
            try:
                mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                break
            except sqlite3.OperationalError as exc:
                # SQLite does not wait for this lock by itself if two processes create the file at once.
                if _code(exc) != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                    raise
                time.sleep(0.005)
        if mode != "wal":
            raise InboxError(f"{self.path!r} is not on a local disk: SQLite's WAL mode does not work there")
        connection.execute("BEGIN IMMEDIATE")
        if not self._is_ours(connection):  # another process may have created the tables first
            for statement in self.kind.schema:
                connection.execute(statement)
            if fill is not None:
                fill(connection)
            connection.execute(f"PRAGMA application_id={self.kind.application_id}")
            connection.execute(f"PRAGMA user_version={self.kind.version}")
        connection.execute("COMMIT")


_DAMAGED = (
    "is damaged, or is no inbox at all ({error}). It was left as it is: restore it from a copy, or pass another path "
    "to begin again"
)
_UNWRITABLE = "cannot be written: give this user the right to write the file and its folder, or pass another path"
_LOCKED = "is locked by another process, which does not finish: try again later"
_WHAT_TO_DO = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_FULL: "cannot be written, because the disk is full. Nothing was recorded: make room, run it again",
    sqlite3.SQLITE_IOERR: "cannot be read or written ({error}): check the disk, then try again",
    sqlite3.SQLITE_READONLY: _UNWRITABLE,
    sqlite3.SQLITE_CANTOPEN: _UNWRITABLE,
    sqlite3.SQLITE_PERM: _UNWRITABLE,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_ERROR: _DAMAGED,  # a table or column is missing
}

_UNMADE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR)
"""The codes if SQLite cannot make the files beside its file: it is not allowed to, or the disk is full."""


_open: dict[int, tuple[_Identity, int, sqlite3.Connection]] = {}
"""Each open connection by its id, with the identity of its file, and the process that opened it.

A forked child inherits connections that it must not use. They are kept alive here, so that garbage collection in the
child does not close them.
"""


def _is_inherited(identity: _Identity) -> bool:
    return any(found == identity and pid != os.getpid() for found, pid, _ in list(_open.values()))


def _identity(path: str) -> _Identity:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _describe(exc: sqlite3.Error, *, full: bool) -> str:
    code = _code(exc)
    if full and code in _UNMADE:
        code = sqlite3.SQLITE_FULL
    return _WHAT_TO_DO.get(code, "failed: {error}").format(error=failure_text(exc))


def _code(exc: sqlite3.Error) -> int:
    """Return SQLite's primary error code; -1 if the error comes from the sqlite3 module itself."""
    code: int = getattr(exc, "sqlite_errorcode", -1)
    return code & 0xFF if code > 0 else code
