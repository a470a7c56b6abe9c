"""Run many worlds; of one that breaks a promise, find the shortest story that still breaks it."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from .world import Ending, Story, live


def shrink(story: Story, live: Callable[[Story], Ending] = live, most: int = 80) -> tuple[Story, Ending]:
    """Return a story with as few steps as possible that breaks the same kind of promise, and its ending."""
    ending, lived = live(story), 0
    kind = _kind(ending)
    size = len(story.steps) // 2
    while size >= 1 and lived < most:
        start = 0
        while start < len(story.steps) and lived < most:
            left, lived = story.steps[:start] + story.steps[start + size :], lived + 1
            tried = attrs.evolve(story, steps=left)
            if _kind(found := live(tried)) == kind:
                story, ending = tried, found
            else:
                start += size
        size //= 2
    return story, ending


def _kind(ending: Ending) -> str | None:
    """Return the promise that was broken, without the names of events and times."""
    words = (ending.broken or "").split()
    return " ".join(word for word in words if word.isalpha())[:60] if words else None


def tell(story: Story, ending: Ending) -> str:
    """Return a failure as a person reads it."""
    kept = f"To run it again, make it a line of tests/world/stories.txt:\n{story}"
    return "\n".join([f"World {story.seed} broke a promise: {ending.broken}", *ending.told, kept])
