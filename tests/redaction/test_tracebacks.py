"""No frame of an error holds what a function was given, where that can be a key, a secret or a body."""

from __future__ import annotations

import inspect
import traceback

import pytest

from basiq_async import ConfigurationError
from basiq_async._redaction.tracebacks import hide_arguments
from tests.support.deliveries import payload
from tests.support.frames import leaks, variables


@hide_arguments
def read(text: str, *, strict: bool = True) -> int:
    """Read a number."""
    try:
        return int(text)
    except ValueError as exc:
        if not strict:
            raise
        raise ConfigurationError("this is no number") from exc


def test_the_result_and_the_signature_are_those_of_the_function() -> None:
    assert read("7") == 7
    assert (read.__name__, read.__doc__) == ("read", "Read a number.")
    assert list(inspect.signature(read).parameters) == ["text", "strict"]


def test_an_error_has_no_frame_and_no_cause_that_holds_the_argument() -> None:
    with pytest.raises(ConfigurationError, match="this is no number") as caught:
        read("S3CRET")
    assert not any("S3CRET" in text for _, _, text in variables(caught.value))
    assert caught.value.__cause__ is None


def test_the_error_that_the_caller_was_handling_stays_its_context() -> None:
    with pytest.raises(ConfigurationError) as caught:
        try:
            raise KeyError("before")
        except KeyError:
            read("x")
    assert isinstance(caught.value.__context__, KeyError)


def test_an_error_of_another_kind_is_a_fault_of_the_program_and_keeps_its_frames() -> None:
    with pytest.raises(ValueError, match="invalid literal") as caught:
        read("x", strict=False)
    assert len(traceback.extract_tb(caught.value.__traceback__)) > 2


@pytest.mark.parametrize("body", [payload(), payload().decode(), {"payload": {"eventId": "e"}}, [payload()]], ids=type)
def test_the_sweep_of_all_tests_finds_a_body_in_a_frame(body: object) -> None:
    code: dict[str, object] = {}
    exec(compile("def fail(body):\n    raise ValueError('no')", "a module of the package", "exec"), code)
    with pytest.raises(ValueError, match="no") as caught:
        code["fail"](body)  # type: ignore[operator]
    assert len(leaks(caught.value)) >= 1
    with pytest.raises(ValueError, match="no") as caught:
        code["fail"]({"eventId.eq('e')": 1})  # type: ignore[operator]
    assert leaks(caught.value) == []
