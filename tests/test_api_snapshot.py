"""The public interface is the committed one: a break is seen in review, as a change of tests/api.txt."""

from __future__ import annotations

from .support import api


def test_the_public_interface_is_the_committed_one() -> None:
    assert api.render().splitlines() == api.SNAPSHOT.read_text().splitlines(), (
        "the public interface changed: `make generated` writes it to tests/api.txt"
    )
