"""What an operation of the control API is, and what it drives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs

from ..fake._fake import FakeBasiq
from . import _shapes as shapes
from ._fields import Field


@attrs.define
class Control:
    """A fake, as the control API drives and shows it. ``first`` is the one that it is a state of, or itself.

    ``api_key`` is the application of the fake that a call is for; None for its first one.
    """

    fake: FakeBasiq
    base_url: str
    first: FakeBasiq = attrs.field(default=attrs.Factory(lambda self: self.fake, takes_self=True))
    api_key: str | None = attrs.field(default=None, repr=False)

    def of(self, fake: FakeBasiq, api_key: str | None) -> Control:
        """The same for another state, or another application of this one."""
        return Control(fake, self.base_url, self.first, api_key)

    def done(self) -> shapes.Done:
        """What a call returns that changed something."""
        return shapes.Done(now=self.fake.now(), next_due=self.fake.next_due)


Run = Callable[[Control, Any], Awaitable[attrs.AttrsInstance]]


@attrs.frozen
class Operation:
    """One operation: what it takes, what it returns, and what it does.

    ``fields`` are those of the body of a POST, or the parameters of a GET's query. ``run`` gets them by name, the
    path's parameters among them.
    """

    name: str
    method: str
    path: str
    summary: str
    returns: str
    run: Run
    fields: tuple[Field, ...] = ()
