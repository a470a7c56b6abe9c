"""Write entries of a quarantine to a file."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from .._work.protocol import InboxEntry
from ..errors import ConfigurationError, ReplayError
from .private_files import open_new


async def export_entries(entries: AsyncGenerator[InboxEntry] | None, path: str | os.PathLike[str]) -> int:
    """Write entries of the quarantine to a new file, a line of JSON each, and return their number.

    If an error interrupts the writing, the file is removed. Raises ``ConfigurationError`` if the file exists, and
    ``ReplayError`` if it cannot be written.
    """
    count, whole = 0, False
    try:
        descriptor = open_new(path)
    except FileExistsError:
        raise ConfigurationError(f"the file {os.fspath(path)!r} exists already: pass another path") from None
    except (OSError, ValueError) as exc:
        raise _unwritable(path, exc) from exc
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            if entries is not None:
                async with aclosing(entries) as found:
                    async for entry in found:
                        file.write(_line(entry))
                        count += 1
            file.flush()
            await asyncio.to_thread(os.fsync, descriptor)
        whole = True
    except OSError as exc:
        raise _unwritable(path, exc) from exc
    finally:
        if not whole:
            with suppress(OSError):
                os.unlink(path)
    return count


def _line(entry: InboxEntry) -> str:
    try:
        body = json.loads(entry.body)
    except (ValueError, RecursionError):
        body = entry.body.decode("utf-8", "replace")
    fields = {
        "id": entry.delivery_id,
        "kind": entry.kind,
        "eventTypeId": entry.event_type_id,
        "eventId": entry.event_id,
        "error": entry.error,
        "failures": entry.failures,
        "quarantinedAt": entry.quarantined_at.isoformat(),
        "body": body,
    }
    return json.dumps(fields, separators=(",", ":")) + "\n"


def _unwritable(path: str | os.PathLike[str], exc: OSError | ValueError) -> ReplayError:
    why = exc.strerror if isinstance(exc, OSError) else "its name holds a null character"
    return ReplayError(f"the file {os.fspath(path)!r} cannot be written: {why}")
