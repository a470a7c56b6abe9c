"""The fake over HTTP: deliveries, the control API, the page, the state file.

``OPERATIONS`` are those of the control API: the OpenAPI document and the command line are made from them.
"""

from __future__ import annotations

from ._operation import Field, Operation
from ._operations import OPERATIONS

__all__ = ["OPERATIONS", "Field", "Operation"]
