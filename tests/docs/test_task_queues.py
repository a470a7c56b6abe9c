"""The programs of the page on other task queues, with the libraries that they are for, as they stand on the page."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from basiq_async.testing import FakeBasiq
from tests.support.environment import ROOT
from tests.support.programs import run, started
from tests.support.real_time import PATIENCE
from tests.support.served import served
from tests.support.servers import REDIS_PROGRAM, RedisServer, redis_server

PAGE = (ROOT / "docs" / "howto" / "use-another-queue.md").read_text("utf-8")

pytestmark = pytest.mark.skipif(REDIS_PROGRAM is None, reason="no redis-server is installed here")


def write_programs(folder: Path, *names: str, redis: RedisServer) -> None:
    """Write the programs of the page that begin with their names into a folder, for the test's Redis."""
    for name in names:
        (program,) = re.findall(rf"```python\n(# {re.escape(name)}\n.*?)```", PAGE, re.DOTALL)
        (folder / name).write_text(program.replace("127.0.0.1:6379", f"127.0.0.1:{redis.port}"))


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def basiq(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The id of a webhook with messages, at the Basiq to which the environment leads."""
    fake = FakeBasiq(page_size=20)
    webhook_id = fake.seed_messages(60)
    with served(fake) as base_url:
        monkeypatch.setenv("BASIQ_API_KEY", fake.api_key)
        monkeypatch.setenv("BASIQ_BASE_URL", base_url)
        yield webhook_id


SUBMIT = """
import asyncio, sys
from tasks import fleet

async def main():
    async with fleet:
        job = await fleet.submit("refill", sys.argv[1], key="celery")
        print((await job.wait(timeout=250)).handled)

asyncio.run(main())
"""


async def test_a_celery_worker_handles_every_message_and_ends_by_a_signal(
    tmp_path: Path, redis: RedisServer, basiq: str
) -> None:
    pytest.importorskip("celery")
    write_programs(tmp_path, "tasks.py", redis=redis)
    (command,) = re.findall(r"```sh\ncelery (.*)\n```", PAGE)
    settings = {name: os.environ[name] for name in ("BASIQ_API_KEY", "BASIQ_BASE_URL")}
    async with started(sys.executable, "-m", "celery", *command.split(), cwd=tmp_path, **settings) as worker:
        done = await asyncio.to_thread(run, sys.executable, "-c", SUBMIT, basiq, cwd=tmp_path, **settings)
        log = await worker.stop()
    assert (done.stdout.split(), worker.process.returncode) == (["60"], 0), (done.stderr, log)


QUEUE = {"taskQueue": {"name": "basiq"}}
TEXT = {"encoding": "anNvbi9wbGFpbg=="}  # "json/plain" in base64, as are the job and the segment
HISTORY: list[tuple[str, dict[str, Any]]] = [
    ("WORKFLOW_EXECUTION_STARTED", QUEUE | {
        "workflowType": {"name": "Look"},
        "input": {"payloads": [{"metadata": TEXT, "data": "ImpvYiI="}, {"metadata": TEXT, "data": "IjAuMCI="}]},
        "workflowTaskTimeout": "10s",
        "originalExecutionRunId": "run",
        "attempt": 1,
    }),
    ("WORKFLOW_TASK_SCHEDULED", QUEUE | {"startToCloseTimeout": "10s", "attempt": 1}),
    ("WORKFLOW_TASK_STARTED", {"scheduledEventId": "2"}),
    (
        "WORKFLOW_TASK_COMPLETED",
        {"scheduledEventId": "2", "startedEventId": "3", "sdkMetadata": {"coreUsedFlags": [1]}},  # compare names
    ),
    ("ACTIVITY_TASK_SCHEDULED", QUEUE | {
        "activityId": "1",
        "activityType": {"name": "process_segment"},
        "workflowTaskCompletedEventId": "4",
    }),
    ("ACTIVITY_TASK_STARTED", {"scheduledEventId": "5", "attempt": 1}),
    ("ACTIVITY_TASK_COMPLETED", {"scheduledEventId": "5", "startedEventId": "6"}),
    ("WORKFLOW_TASK_SCHEDULED", QUEUE | {"startToCloseTimeout": "10s", "attempt": 1}),
    ("WORKFLOW_TASK_STARTED", {"scheduledEventId": "8"}),
    ("WORKFLOW_TASK_COMPLETED", {"scheduledEventId": "8", "startedEventId": "9"}),
    ("WORKFLOW_EXECUTION_COMPLETED", {"workflowTaskCompletedEventId": "10"}),
]  # fmt: skip
"""What Temporal's server records of a notification: one activity, and the end."""


def history() -> str:
    events = []
    for number, (name, attributes) in enumerate(HISTORY, start=1):
        words = [word.capitalize() for word in name.split("_")]
        field = "".join([words[0].lower(), *words[1:], "EventAttributes"])
        when = "2026-01-05T00:00:00Z"
        events.append({"eventId": f"{number}", "eventTime": when, "eventType": f"EVENT_TYPE_{name}", field: attributes})
    return json.dumps({"events": events})


async def test_temporals_sandbox_runs_the_workflow_of_one_activity(
    tmp_path: Path, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("temporalio")
    from temporalio.client import WorkflowHistory
    from temporalio.worker import Replayer

    write_programs(tmp_path, "look.py", redis=redis)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "look", raising=False)
    from look import Look

    await Replayer(workflows=[Look]).replay_workflow(WorkflowHistory.from_json("workflow", history()))


async def test_temporals_activity_handles_every_message(
    tmp_path: Path, redis: RedisServer, basiq: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a server of Temporal, which is not packaged: what it would start runs in its environment for tests."""
    pytest.importorskip("temporalio")
    from temporalio.testing import ActivityEnvironment

    write_programs(tmp_path, "look.py", "serve.py", redis=redis)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("look", "serve"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import serve

    class Client:
        async def start_workflow(self, workflow: Any, *, args: list[str], id: str, task_queue: str) -> None:
            assert (workflow, task_queue) == (serve.Look.run, "basiq")
            assert id.startswith("/".join(args))
            activities.create_task(ActivityEnvironment().run(serve.process_segment, *args))

    async with serve.fleet, serve.fleet.worker() as worker, asyncio.TaskGroup() as activities:
        serve.client, serve.worker = Client(), worker
        job = await serve.fleet.submit("refill", basiq, key="temporal")
        assert (await job.wait(timeout=PATIENCE)).handled == 60
