"""``basiq-async jobs``: manage the jobs of a fleet, from any machine that can reach its Redis; and ``worker``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigurationError, ConnectionFailedError, RecordError, ReplayError
from ._command import Group, command
from ._inboxes import naming_errors
from ._options import Filter, LogLevel, Oldest, WebhookId, option
from ._output import live, say, show_logs
from ._quarantine import OF_A_JOB, entries_of, show_entries, tell_dropped
from ._replay import Source
from ._results import ROWS, Column, Output, Row, View, count_details

if TYPE_CHECKING:
    from ..distributed import Fleet, Job, JobProgress


jobs_app = Group("The jobs of a fleet: show, watch, pause, resume or cancel them.")

FleetPlace = Annotated[
    str | None,
    option(
        "The module and variable of the Fleet, such as jobs:fleet.",
        metavar="MODULE:FLEET",
        envvar="BASIQ_FLEET",
    ),
]
Key = Annotated[str, typer.Argument(help="The key that the job was submitted with.")]
_PATIENCE = 4.0
"""Maximum seconds for a response of the fleet's Redis."""


_PROGRESS: View[JobProgress] = View(
    "state reason problem handled failed skipped quarantined waiting at_service read lag rate remaining eta workers "
    "worker_names segments takeovers paused elapsed",
    reason=lambda job: job.reason or None,
    problem=lambda job: job.problem or None,
    rate=lambda job: round(job.rate, 1),
)
_JOB: View[Row] = View(
    " ".join(["key", *_PROGRESS.names]),
    Column("KEY", "key"),
    Column("STATE", "state"),
    Column("HANDLED", lambda job: f"{job['handled']:,}"),
    Column("FAILED", lambda job: f"{job['failed']:,}"),
    Column("QUARANTINE", lambda job: f"{job['quarantined']:,}"),
    Column("WORKERS", "workers"),
    Column("WHY", lambda job: job["reason"] or job["problem"], flexible=16),
)


def _row(key: str, progress: JobProgress) -> dict[str, Any]:
    return {"key": key, **_PROGRESS.row(progress)}


@jobs_app.add(_JOB, empty="there are no jobs; start one with 'basiq-async jobs submit'", name="list")
async def list_(fleet: FleetPlace = None) -> Sequence[Row]:
    """List all jobs. A job stays in the list until it is forgotten."""
    async with _open_fleet(fleet) as found:
        return [await _read(job) for job in await found.jobs()]


@jobs_app.add(ROWS, details=count_details)
async def submit(
    function: str,
    webhook_id: WebhookId,
    key: Annotated[str, typer.Option(help="The job's key.")],
    source: Source = "messages",
    filter: Filter = None,
    rate: float | None = None,
) -> Row:
    """Start a job of a fleet, or resume the job with this key.

    function MODULE:FUNCTION: The job function, such as jobs:refill.
    source: messages or events, as for replay.
    rate: Maximum messages per second.
    """
    from ..distributed.processes import find_job

    with naming_errors(function):
        found, name = find_job(function)
    async with _open_fleet(None, found) as opened:
        return await _read(await opened.submit(name, webhook_id, key=key, filter=filter, source=source, rate=rate))


@jobs_app.add(ROWS, details=count_details)
async def show(key: Key, fleet: FleetPlace = None) -> Row:
    """Show the state and the counts of one job."""
    async with _open_job(fleet, key) as job:
        return await _read(job)


@jobs_app.add()
async def watch(output: Output, key: Key, fleet: FleetPlace = None) -> int:
    """Watch a job until it ends. The exit code is 1 if it failed, was cancelled, or left something.

    That is what is in its quarantine, and of a job that posts, what waits or failed in the service's inbox at its end.
    """
    shown = None
    async with _open_job(fleet, key) as job:
        async for progress in job.watch():
            shown = _row(key, progress)
            if output.as_json:
                output.one(shown)
            else:
                live(_line(shown))
        live(None)
        last = await _read(job)  # the last of the watch can be from before the last commit
    if shown is None or not output.as_json or last != {**shown, "rate": last["rate"], "elapsed": last["elapsed"]}:
        output.one(last, details=count_details(last))
    left = last["quarantined"] or last["waiting"] or last["at_service"]
    return 0 if last["state"] == "finished" and not left else 1


Reason = Annotated[str, option("Shown by list and show.")]


@jobs_app.add()
async def pause(key: Key, fleet: FleetPlace = None, reason: Reason = "") -> None:
    """Pause a job: workers finish the messages under way, and start no further ones."""
    await _set_state(fleet, key, lambda job: job.pause(reason))


@jobs_app.add()
async def resume(key: Key, fleet: FleetPlace = None) -> None:
    """Continue a job that was paused or cancelled, or that failed."""
    await _set_state(fleet, key, lambda job: job.resume())


@jobs_app.add()
async def cancel(key: Key, fleet: FleetPlace = None, reason: Reason = "") -> None:
    """End a job. Messages under way are finished and recorded."""
    await _set_state(fleet, key, lambda job: job.cancel(reason))


@jobs_app.add(name="quarantine")
async def list_quarantine(output: Output, key: Key, fleet: FleetPlace = None, limit: Oldest = None) -> int:
    """List the messages of a job that failed, and were set aside. The exit code is 1 if there are any."""
    async with _open_job(fleet, key) as job:
        entries = job._read_quarantine()
        return await show_entries(entries, output, limit, OF_A_JOB, empty="the quarantine is empty")


@jobs_app.add()
async def retry(key: Key, fleet: FleetPlace = None) -> None:
    """Have the workers hand out again what is in the quarantine of a job."""
    async with _open_job(fleet, key) as job:
        await job.retry_quarantined()
    say("what is in the quarantine will be tried again; see 'basiq-async jobs watch'")


@jobs_app.add()
async def export(
    key: Key,
    file: str,
    fleet: FleetPlace = None,
) -> None:
    """Copy the quarantine of a job to a new file that only its owner can read.

    file: The new file, with a line of JSON for each message.
    """
    async with _open_job(fleet, key) as job:
        say(f"{entries_of(await job.export_quarantined(file))} written to {file!r}")


@jobs_app.add(ask=lambda key, ids, fleet: f"Remove {entries_of(len(set(ids)))} of the quarantine of {key} for good?")
async def drop(
    key: Key,
    ids: list[str],
    fleet: FleetPlace = None,
) -> None:
    """Remove messages from the quarantine of a job for good. Asks first.

    ids ID...: The ids to remove.
    """
    async with _open_job(fleet, key) as job:
        dropped = await job.drop_quarantined(ids)
        tell_dropped(dropped, len(set(ids)) - dropped)


@jobs_app.add(ask=lambda key, fleet: f"Remove the job {key} with its counts and its quarantine?")
async def forget(key: Key, fleet: FleetPlace = None) -> None:
    """Remove a job that has ended, with its counts and its quarantine. Asks first."""
    async with _open_job(fleet, key) as job:
        await job.forget()


async def _read(job: Job) -> Row:
    return _row(job.key, await job.progress())


def _line(job: Row) -> str:
    parts = [f"{job['key']}: {job['state']}", f"{job['handled']:,} handled"]
    if job["failed"]:
        parts.append(f"{job['failed']:,} failed")
    parts += [f"{job['rate']:,.0f}/s", f"{job['workers']} workers"]
    if job["remaining"] is not None:
        parts.append(f"{job['remaining']:,} left")
    if job["eta"] is not None:
        parts.append(f"{job['eta']:,.0f} s to go")
    if job["paused"]:
        parts.append(f"paused for {job['paused']:.0f} s")
    return " \u00b7 ".join(parts)


async def _set_state(place: str | None, key: str, action: Callable[[Job], Awaitable[None]]) -> None:
    async with _open_job(place, key) as job:
        await action(job)
        say(f"{key}: {(await job.progress()).state}")


@asynccontextmanager
async def _open_job(place: str | None, key: str) -> AsyncIterator[Job]:
    async with _open_fleet(place) as fleet:
        try:
            job = await fleet.get(key)
        except RecordError:
            raise
        except ReplayError:
            raise ReplayError(f"there is no job {key!r}; 'basiq-async jobs list' shows all jobs") from None
        yield job


@asynccontextmanager
async def _open_fleet(place: str | None, fleet: Fleet | None = None) -> AsyncIterator[Fleet]:
    from .._work.limits import limit

    opened = fleet or _find(_check_place(place))
    async with AsyncExitStack() as stack:
        slow = f"the fleet's Redis did not respond within {_PATIENCE:g} s: does it run, and is its address right?"
        async with limit(_PATIENCE, ConnectionFailedError(slow)):
            await stack.enter_async_context(opened)
            await opened.jobs()
        yield opened


def _find(place: str) -> Fleet:
    from ..distributed.processes import find_fleet

    with naming_errors(place):
        return find_fleet(place)


def _check_place(place: str | None) -> str:
    if not place:
        raise ConfigurationError("name the fleet with --fleet MODULE:FLEET or the environment variable BASIQ_FLEET")
    return place


@command()
def worker(
    fleet: FleetPlace = None,
    processes: Annotated[int, typer.Option(min=1)] = 1,
    segments: Annotated[int, typer.Option(min=1)] = 2,
    log_level: LogLevel = "INFO",
) -> None:
    """Work on the jobs of a fleet until SIGTERM or Ctrl-C.

    It then finishes and records the messages under way; a second signal ends it at once.

    processes: How many worker processes to run.
    segments: How many pages a process works on at once.
    """
    from ..distributed.processes import run_workers

    set_up = partial(show_logs, log_level, "%(asctime)s %(levelname)s %(processName)s %(name)s %(message)s")
    set_up()  # what a module of jobs logs when it is imported is shown too
    with naming_errors(_check_place(fleet)):
        run_workers(_check_place(fleet), processes=processes, segments=segments, set_up=set_up)
