"""The suite for inboxes names one that forgets early, or lies about how long it remembers."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from basiq_async.receiver import SQLiteInbox
from basiq_async.testing.conformance._inbox import known_since_opened  # private: one promise alone

from .broken_inboxes import (
    Broken,
    ForgetsAfterADay,
    ForgetsTheOldestOfAFew,
    KnewBeforeItBegan,
    KnowsSinceEver,
    KnowsSinceItBeganThoughItForgets,
    KnowsSinceNow,
    check,
)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (
            ForgetsAfterADay,
            "a key was forgotten 24 hours after it was handled; Basiq sends again for 27 h 35 min",
        ),
        (
            ForgetsTheOldestOfAFew,
            "a claim of a key after which 100 others were handled was CLAIMED, not DONE",
        ),
        (KnowsSinceItBeganThoughItForgets, "was forgotten, and known_since() was 20"),
        (KnowsSinceNow, "though the inbox remembers what was handled in between"),
        (KnowsSinceEver, "known_since() was 1970-01-01 00:00:00+00:00, when no inbox can have existed"),
        (KnewBeforeItBegan, "known_since() of an inbox that was made at 20"),
    ],
)
def test_an_inbox_that_forgets_early_or_lies_about_its_memory_is_told_so(broken: type[Broken], said: str) -> None:
    found = check(broken)
    assert any(said in what for what in found.values()), found


class KnowsSinceItWasOpened(SQLiteInbox):
    """It lies after a restart."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._opened = datetime.now(UTC)

    async def known_since(self) -> datetime:
        return self._opened


async def test_an_inbox_that_knows_only_since_a_restart_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="when the inbox was opened again, though the inbox remembers"):
        await known_since_opened(partial(KnowsSinceItWasOpened, tmp_path / "inbox.db"), None)
