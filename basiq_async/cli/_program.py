"""The program that the demo runs and prints: ``examples/recover_after_outage.py``, which a wheel brings along."""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..receiver import WebhookReceiver
    from ..replay import Recovery

_NAME = "recover_after_outage.py"


def file() -> Path:
    """Return where the program is: beside this file in a wheel, in examples/ of the sources."""
    packaged = Path(__file__).with_name(f"_example_{_NAME}")
    return packaged if packaged.exists() else Path(__file__).parents[2] / "examples" / _NAME


def source() -> str:
    """Return its text."""
    return file().read_text(encoding="utf-8").rstrip()


def catch_up(
    basiq: BasiqClient, receiver: WebhookReceiver, url: str, folder: Path, events: Sequence[str]
) -> Awaitable[Recovery]:
    """Run the program's function of this name."""
    found: Awaitable[Recovery] = _module().catch_up(basiq, receiver, url, folder, events)
    return found


@cache
def _module() -> Any:
    spec = importlib.util.spec_from_file_location("basiq_async_demo_program", file())
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{file()} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
