"""An inbox that a process had in use before it was forked."""

from __future__ import annotations

import os

import pytest

from basiq_async import InboxError
from basiq_async._work.calls import OneProcess


def test_only_a_fork_of_the_process_that_used_it_first_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    unused, used = OneProcess("the inbox"), OneProcess("the inbox")
    used.check()
    used.check()
    assert not used.inherited
    fork = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: fork)
    assert used.inherited
    with pytest.raises(InboxError, match="the inbox was in use when this process forked"):
        used.check()
    assert not unused.inherited
    unused.check()
    assert not unused.inherited
