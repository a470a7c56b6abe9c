"""``python -m tests.world``: live through worlds, or look how many of them a planted fault needs."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from .faults import hunt
from .telling import shrink, tell
from .world import Story, live

_AT_ONCE = 10
"""So many worlds are one piece of work."""


def look(seeds: range, days: float) -> list[str]:
    """Return the stories of the worlds that broke a promise, shortened."""
    told = []
    for seed in seeds:
        story = Story.draw(seed, days=days)
        if live(story).broken is not None:
            told.append(tell(*shrink(story)))
    return told


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.world", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many worlds")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first one")
    parser.add_argument("--days", type=float, default=3.0, help="how long a world lasts at most")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--story", help="live through one story, a line of stories.txt, and tell it")
    parser.add_argument("--until-broken", action="store_true", help="end at the first broken promise; print its seed")
    parser.add_argument(
        "--faults", nargs="*", help="plant each fault, or these, and count the worlds until it is found"
    )
    given = parser.parse_args(arguments)
    if given.faults is not None:
        return hunt(given.faults, most=given.seeds, workers=given.workers)
    if given.story is not None:
        story = Story.read(given.story)
        ending = live(story)
        print("\n".join(ending.told) if ending.broken is None else tell(story, ending))
        return int(ending.broken is not None)
    seeds = range(given.first, given.first + given.seeds)
    if given.until_broken:
        for seed in seeds:
            if (why := live(Story.draw(seed, days=given.days)).broken) is not None:
                print(f"{seed}\t{why}")
                return 1
        return 0
    began, lived, broken = time.monotonic(), 0, 0
    parts = [seeds[start : start + _AT_ONCE] for start in range(0, len(seeds), _AT_ONCE)]
    with ProcessPoolExecutor(given.workers, mp_context=get_context("fork")) as pool:
        for done in as_completed(pool.submit(look, part, given.days) for part in parts):
            told, before = done.result(), lived
            lived, broken = lived + _AT_ONCE, broken + len(told)
            for text in told:
                print(f"{text}\n", flush=True)
            if lived // 100 > before // 100 and lived < len(seeds):
                print(f"{lived} worlds in {time.monotonic() - began:.0f} s: {broken} broke a promise", flush=True)
    print(f"{given.seeds} worlds in {time.monotonic() - began:.0f} s: {broken} broke a promise")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
