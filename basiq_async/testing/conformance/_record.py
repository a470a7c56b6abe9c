"""The promises of a fleet's ``Record``, as a suite that any store can be held to."""

from __future__ import annotations

from ._record_claims import ClaimsProbe
from ._record_jobs import JobsProbe
from ._record_letters import LettersProbe
from ._record_model import ModelProbe
from ._record_probe import MakeRecord
from ._runner import keep


async def check_record(make_record: MakeRecord, *, seconds: float = 20.0) -> None:
    """Hold a record to what ``Record`` promises.

    ``make_record`` is called for every caller that the suite plays, and always for the same storage; the keys of jobs
    are new each time. Each promise may take ``seconds``. Raises ``BrokenPromisesError``, an ``AssertionError`` that
    names every promise that is broken and what happened.
    """
    probe = Probe(make_record)
    try:
        await keep("the record", probe.promises(), seconds=seconds)
    finally:
        await probe.aclose()


class Probe(ClaimsProbe, JobsProbe, LettersProbe, ModelProbe):
    """Callers of the same record, and all that is tried with them."""
