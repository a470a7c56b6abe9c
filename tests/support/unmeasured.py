"""Child processes that coverage does not measure: they start in half the time."""

from __future__ import annotations

import os


def unmeasured() -> dict[str, str]:
    """The environment for a child that runs nothing but what is measured elsewhere, or that is killed."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
