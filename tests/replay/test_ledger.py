"""The account of finished messages: a record holds a place, and what is finished after it."""

from __future__ import annotations

from basiq_async import Message
from basiq_async.replay import DeadLetter
from basiq_async.replay._ledger import DeadLedger, Ledger  # private: the order in which messages finish is chosen here
from basiq_async.replay.protocol import State
from tests.support.deliveries import NOW


def message(name: str) -> Message:
    return Message(name, {"id": name})


def test_what_an_earlier_run_has_done_stays_recorded_when_it_is_read_again_and_until_then() -> None:
    ledger = Ledger(State(done=("a", "b")), most=10)
    ledger.mark("second page", 1)
    assert [ledger.match(each) for each in ("a", "a", "x")] == [True, False, False]
    advance = ledger.take().advance
    assert advance is not None
    assert (advance.cursor, advance.position, set(advance.done)) == ("second page", 1, {"a", "b"})
    ledger.mark("third page", 2)
    ledger.forget_earlier()
    last = ledger.take().advance
    assert last is not None
    assert (last.cursor, list(last.done)) == ("third page", []), "they are before the place, or not listed any more"


def test_the_place_is_that_of_the_oldest_unfinished_message_and_later_ones_are_named() -> None:
    ledger = Ledger(State(), most=10)
    first = ledger.begin()
    ledger.mark("second page", 1)
    second = ledger.begin()
    ledger.done(second, message("b"), counts_as="handled")
    commit = ledger.take()
    assert (list(commit.done), commit.advance, commit.handled, ledger.idle) == (["b"], None, 1, False)
    ledger.done(first, message("a"), counts_as="skipped")
    commit = ledger.take()
    assert commit.advance is not None
    assert (commit.advance.cursor, list(commit.advance.done), commit.handled) == ("second page", ["b"], 0)
    assert (ledger.idle, ledger.dirty, ledger.take().advance) == (True, False, None)


def test_a_commit_that_was_not_recorded_is_part_of_the_next_one() -> None:
    ledger = Ledger(State(), most=10)
    spans = [ledger.begin() for _ in range(2)]
    dead = DeadLetter("a", "no", NOW, {})
    ledger.done(spans[0], message("a"), dead=dead, counts_as="failed")
    ledger.mark("second page", 2)
    unsaved = ledger.unsaved
    lost = ledger.take()
    ledger.put_back(lost, unsaved)
    ledger.done(spans[1], message("b"), counts_as="handled")
    commit = ledger.take()
    assert (list(commit.done), list(commit.dead)) == (["a", "b"], [dead])
    assert (commit.failed, commit.handled, ledger.dead, ledger.unsaved) == (1, 1, 1, 0)
    assert commit.advance is not None


def test_a_slow_message_bounds_how_far_the_others_get_ahead() -> None:
    ledger = Ledger(State(), most=3)
    slow = ledger.begin()
    ledger.mark("second page", 1)
    assert not ledger.full
    ledger.mark("third page", 2)
    assert ledger.full
    ledger.done(slow, message("a"), counts_as="handled")
    ledger.take()
    assert not ledger.full


def test_a_dead_letter_that_succeeds_is_removed_and_one_that_fails_again_replaces_itself() -> None:
    ledger = DeadLedger(3, most=10, record_tried=True)
    again = DeadLetter("b", "no", NOW, {})
    ledger.done(ledger.begin(), message("a"), counts_as="handled")
    ledger.done(ledger.begin(), message("b"), dead=again, counts_as="failed")
    commit = ledger.take()
    assert (list(commit.revived), list(commit.dead), list(commit.done)) == (["a"], [again], ["a", "b"])
    assert ledger.dead == 2
    assert (commit.failed, commit.advance) == (0, None), "retried ones neither fail anew nor move the place in the list"
    ledger.put_back(commit, 2)
    assert list(ledger.take().revived) == ["a"], "one that succeeded is removed by the next commit"
