"""The world itself: a story is the same each time, one that broke a promise stays mended, a planted fault is found."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from .faults import FAULTS, find, plant
from .telling import shrink, tell
from .world import Ending, Story, live

STORIES = [
    line
    for line in Path(__file__).with_name("stories.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


@pytest.mark.parametrize("line", STORIES)
def test_a_story_that_broke_a_promise_breaks_it_no_more(line: str) -> None:
    story = Story.read(line)
    ending = live(story)
    assert ending.broken is None, tell(story, ending)


@pytest.mark.parametrize("seed", range(100, 112))
def test_a_world_breaks_no_promise(seed: int) -> None:
    ending = live(story := Story.draw(seed))
    assert ending.broken is None, tell(story, ending)


@pytest.mark.parametrize("seed", range(3))
def test_a_story_is_the_same_each_time(seed: int) -> None:
    story = Story.draw(seed)
    first, second = live(story), live(Story.read(str(story)))
    assert first == second
    assert len(first.told) > 5


def test_a_story_is_shortened_to_the_steps_that_matter() -> None:
    story = Story.draw(1)
    (needed,) = {story.steps[3], story.steps[3]}

    def ends(tried: Story) -> Ending:
        return Ending("e1 was handled twice" if needed in tried.steps else None, ())

    assert shrink(story, ends)[0] == attrs.evolve(story, steps=(needed,))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_be_planted(fault: object, tmp_path: Path) -> None:
    plant(fault, tmp_path)  # type: ignore[arg-type]


def test_a_planted_fault_is_found() -> None:
    found = find(FAULTS[1], most=50)
    assert found is not None
    assert "was handled twice" in found[1]
