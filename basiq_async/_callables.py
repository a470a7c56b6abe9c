"""What a callable can be called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable

__all__ = ["accepts"]


def accepts(function: Callable[..., object], count: int) -> bool:
    """Whether it can be called with that many arguments by position. True where it does not tell its signature."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:
        pass
    return True
