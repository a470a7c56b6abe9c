"""Share a replay with the workers of a taskiq broker. Needs the extra ``distributed``."""

from __future__ import annotations

from importlib.util import find_spec

from .._lazy import missing_extra

if find_spec("taskiq") is None:
    raise missing_extra(__name__, "distributed")

from ._fleet import Fleet

__all__ = ["Fleet"]
