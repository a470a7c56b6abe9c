"""The log of a checkpoint: what commits change is what its entries say, for every store."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import attrs
import pytest

from basiq_async.replay import DeadLetter
from basiq_async.replay.checkpoints._base import (  # private: the form that all stores share
    Entry,
    apply,
    read_dead_letter,
    read_log,
    write_dead_letter,
)
from basiq_async.replay.protocol import Advance, Commit, State

ODD = "\ud800 \x00 é"
COMMITS = [
    Commit(done=["a"], handled=1),
    Commit(done=["b", ODD], handled=1, failed=1),
    Commit(advance=Advance("c" + ODD, 3, ["x"]), handled=2),
    Commit(notes=ODD),
    Commit(done=["y"], handled=1),
    Commit(ended=True, interrupted=7),
]


def entry(state: State, commit: Commit, before: State) -> Entry:
    return Entry.of(state, commit.done, before) if commit.advance is None else Entry.of(state, commit.advance.done)


def test_after_each_commit_the_log_is_the_state_that_the_commits_make() -> None:
    state = State()
    log = [Entry.of(state, ())]
    for commit in COMMITS:
        before, state = state, apply(state, commit)
        new = entry(state, commit, before)
        log = [new] if new.whole else [*log, new]
        assert read_log([(each.fields, each.done) for each in log], dead=2) == attrs.evolve(state, dead=2)
    assert (state.handled, state.failed, state.position, state.interrupted) == (5, 1, 3, 7)
    assert state.done == {"x", "y"}


def test_an_entry_holds_only_what_changed_and_is_ascii() -> None:
    before = State(cursor="c" * 1_000)
    after = apply(before, Commit(done=[ODD], handled=1))
    new = Entry.of(after, [ODD], before)
    assert json.loads(new.fields) == {"handled": 1}
    assert (new.fields + new.done).isascii()
    assert not new.whole


@pytest.mark.parametrize("fields", ["{}", "[]", "{", '{"handled": 1}', json.dumps({"odd": 1})])
def test_a_log_that_no_checkpoint_has_written_is_refused(fields: str) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        read_log([(fields, "[]")], dead=0)
    with pytest.raises((ValueError, TypeError, KeyError)):
        read_log([], dead=0)


def test_a_log_with_a_field_more_is_of_another_version_and_is_refused() -> None:
    whole = json.loads(Entry.of(State(), ()).fields)
    with pytest.raises(TypeError):
        read_log([(json.dumps({**whole, "odd": 1}), "[]")], dead=0)


def test_a_dead_letter_comes_back_as_it_was() -> None:
    dead = DeadLetter(ODD, f"failed: {ODD}", datetime(2026, 1, 2, tzinfo=UTC), {"id": ODD, "n": [1, None]})
    text = write_dead_letter(dead)
    assert text.isascii()
    found = read_dead_letter(text, 5)
    assert (found, found.number) == (dead, 5)
