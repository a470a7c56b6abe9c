"""The fake served over HTTP, with its control API, its page and its state file.

``OPERATIONS`` are the operations of the control API. Its OpenAPI document and the ``mock`` commands are made from them.
"""

from __future__ import annotations

from ._operation import Field, Operation
from ._operations import OPERATIONS

__all__ = ["OPERATIONS", "Field", "Operation"]
