"""Read an error as an error reporter does: the local variables of all frames of the error and of its causes.

Sentry captures them by default, structlog's ``dict_tracebacks`` and rich on request. The tests' own frames are left
out, because the library cannot control its caller's variables.
"""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path

TESTS = str(Path(__file__).parents[1])
FAKE = str(Path(__file__).parents[2] / "basiq_async" / "testing")
"""The fake's bodies are made up."""
CANARIES = (
    "c2FuZGJveC1rZXk6b25seS1mb3ItdGVzdHM",  # the API key of tests/support/scripted.py
    "token-that-must-not-show",
    "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",  # the signing secrets of tests/support/deliveries.py
    "c29tZSBvdGhlciBzaWduaW5nIHNlY3JldA",
    "S3CRET",  # in every credential of tests/support/wire.py
)


def forms_of(canary: str) -> set[str]:
    """Return the canary, and its forms within a base64 text at each alignment."""
    raw = canary.encode()
    inside = set()
    for before in range(3):
        whole = base64.b64encode(b"x" * before + raw).decode().rstrip("=")
        # Only the characters that depend on the canary alone.
        inside.add(whole[-(-before * 8 // 6) : len(whole) - (1 if (before + len(raw)) % 3 else 0)])
    return {canary, *(form for form in inside if len(form) >= 6)}


BODIES = ("eventId':", 'eventId":', 'eventId\\":')
"""How a field shows that each delivery and each message has, in a dict, in JSON, and in the repr of JSON."""
FORMS = {*(form for canary in CANARIES for form in forms_of(canary)), *BODIES}


def leaks(exc: BaseException, forms: Iterable[str] = FORMS) -> list[str]:
    """Return a text for each variable that shows a canary, with its frame."""
    found = []
    for where, name, text in variables(exc):
        plain = urllib.parse.unquote(text) if "%" in text else text
        shown = [form for form in forms if form in text or form in plain]
        found += [f"{where}: {name} shows {form!r}" for form in shown if form not in BODIES or FAKE not in where]
    return found


def chain(exc: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that led to it: causes, contexts and members of groups."""
    seen: set[int] = set()
    left: list[BaseException | None] = [exc]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            left += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
            yield one


def variables(exc: BaseException) -> Iterator[tuple[str, str, str]]:
    """Yield the frame, name and repr of each local variable in the tracebacks of an error and its causes."""
    for one in chain(exc):
        traceback = one.__traceback__
        while traceback is not None:
            frame = traceback.tb_frame
            if not frame.f_code.co_filename.startswith(TESTS):
                where = f"{type(one).__name__} in {frame.f_code.co_filename}:{traceback.tb_lineno}"
                for name, value in frame.f_locals.items():
                    yield where, name, show(value)
            traceback = traceback.tb_next


def show(value: object) -> str:
    """Return a value's repr, as a reporter shows it; the repr may fail."""
    try:
        return repr(value)
    except Exception as exc:
        return f"<repr failed: {type(exc).__name__}>"
