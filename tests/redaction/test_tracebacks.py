"""What an error shows of its own: SQLAlchemy's would show the parameters of a statement."""

from __future__ import annotations

from sqlalchemy.exc import IntegrityError, StatementError

from basiq_async._redaction.tracebacks import hide_parameters


def test_no_error_that_led_to_another_shows_parameters() -> None:
    first = StatementError("no", "insert", {"balance": "98765.43"}, ValueError())
    second = IntegrityError("insert", {"balance": "98765.43"}, ValueError("twice"))
    second.__context__ = first
    group = ExceptionGroup("several", [second])
    assert "98765.43" in str(second)
    assert hide_parameters(group) is group
    assert "98765.43" not in str(first) + str(second)


def test_other_errors_stay_as_they_are() -> None:
    error = ValueError("what")
    assert vars(hide_parameters(error)) == {}
