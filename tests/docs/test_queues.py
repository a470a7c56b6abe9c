"""The programs of ``examples/queues``, with the queues that they are for, by the commands that each names."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from basiq_async.testing import FakeBasiq
from tests.support.environment import ROOT
from tests.support.programs import run, started
from tests.support.served import served
from tests.support.servers import postgres_server, redis_server

QUEUES = ROOT / "examples" / "queues"
HANDLE = """async def handle(message: Message) -> None:
    while "COORDINATOR" in os.environ and not os.path.exists("handled"):
        await asyncio.sleep(0.02)  # a worker is first
    with open("handled", "a") as handled:
        handled.write(f"{'coordinator' if 'COORDINATOR' in os.environ else 'worker'} {message.id}\\n")
"""
COUNT = 200


def command(name: str, beginning: str) -> list[str]:
    """Return a command of a program's docstring."""
    (line,) = re.findall(rf"^ *({re.escape(beginning)}.*)$", (QUEUES / name).read_text(), re.MULTILINE)
    words = line.split()
    return [sys.executable, *(words[1:] if words[0] == "python" else ["-m", *words])]


@attrs.define
class Reader:
    """Who runs the programs, in a folder, with a Basiq that has a history."""

    folder: Path
    environment: dict[str, str]

    def write(self, *names: str, **ports: int) -> None:
        for name in ("job.py", *names):
            text = (QUEUES / name).read_text()
            if name == "job.py":
                text = text.replace("import os\n", "import asyncio\nimport os\n").replace(
                    "async def handle(message: Message) -> None: ...\n", HANDLE
                )
            for usual, port in ports.items():
                text = text.replace(f"127.0.0.1:{usual.strip('_')}", f"127.0.0.1:{port}")
            (self.folder / name).write_text(text)

    async def share(self, worker: list[str], coordinator: list[str]) -> None:
        """Start a worker, then the coordinator, and check what both have handled."""
        async with started(*worker, cwd=self.folder, **self.environment) as program:
            done = await asyncio.to_thread(run, *coordinator, cwd=self.folder, COORDINATOR="1", **self.environment)
            said = await program.stop()
        assert f"handled={COUNT}, " in done.stdout, (done.stdout, done.stderr, said)
        assert "finished=True" in done.stdout
        handled = [line.split() for line in (self.folder / "handled").read_text().splitlines()]
        assert Counter(Counter(id for _, id in handled).values()) == {1: COUNT}
        assert "worker" in {who for who, _ in handled}, ("the coordinator was alone", said)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    fake = FakeBasiq(page_size=10)
    webhook_id = fake.seed_messages(COUNT)
    with served(fake) as base_url:
        settings = {"BASIQ_API_KEY": fake.api_key, "BASIQ_BASE_URL": base_url, "BASIQ_WEBHOOK_ID": webhook_id}
        yield Reader(tmp_path, settings)


async def test_taskiq(reader: Reader, tmp_path: Path) -> None:
    pytest.importorskip("taskiq_redis")
    with redis_server(tmp_path) as redis:
        reader.write("taskiq_jobs.py", _6379=redis.port)
        coordinator = command("taskiq_jobs.py", "python")
        await reader.share(
            command("taskiq_jobs.py", "taskiq worker"), [*coordinator[:-1], reader.environment["BASIQ_WEBHOOK_ID"]]
        )


async def test_celery(reader: Reader, tmp_path: Path) -> None:
    pytest.importorskip("celery")
    with redis_server(tmp_path) as redis:
        reader.write("celery_jobs.py", _6379=redis.port)
        await reader.share(*[command("celery_jobs.py", each) for each in ("celery --app", "python")])


async def test_procrastinate(reader: Reader) -> None:
    pytest.importorskip("procrastinate")
    from procrastinate import App, PsycopgConnector

    with postgres_server() as database:
        async with App(connector=PsycopgConnector(conninfo=database.plain_url)).open_async() as app:
            await app.schema_manager.apply_schema_async()
        reader.write("procrastinate_jobs.py")
        reader.environment["DATABASE_URL"] = database.plain_url
        await reader.share(
            *[command("procrastinate_jobs.py", f"python procrastinate_jobs.py {role}") for role in ("worker", "share")]
        )


async def test_dbos(reader: Reader) -> None:
    pytest.importorskip("dbos")
    reader.write("dbos_jobs.py")
    reader.environment["DBOS_DATABASE_URL"] = "sqlite:///dbos.sqlite"
    await reader.share(*[command("dbos_jobs.py", f"python dbos_jobs.py {role}") for role in ("worker", "share")])


QUEUE = {"taskQueue": {"name": "basiq"}}
TEXT = {"encoding": "anNvbi9wbGFpbg=="}  # "json/plain" in base64, as is the page
HISTORY: list[tuple[str, dict[str, Any]]] = [
    ("WORKFLOW_EXECUTION_STARTED", QUEUE | {
        "workflowType": {"name": "Page"},
        "input": {"payloads": [{"metadata": TEXT, "data": "InBhZ2Ui"}]},
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
        "activityType": {"name": "work"},
        "workflowTaskCompletedEventId": "4",
    }),
    ("ACTIVITY_TASK_STARTED", {"scheduledEventId": "5", "attempt": 1}),
    ("ACTIVITY_TASK_COMPLETED", {"scheduledEventId": "5", "startedEventId": "6"}),
    ("WORKFLOW_TASK_SCHEDULED", QUEUE | {"startToCloseTimeout": "10s", "attempt": 1}),
    ("WORKFLOW_TASK_STARTED", {"scheduledEventId": "8"}),
    ("WORKFLOW_TASK_COMPLETED", {"scheduledEventId": "8", "startedEventId": "9"}),
    ("WORKFLOW_EXECUTION_COMPLETED", {"workflowTaskCompletedEventId": "10"}),
]  # fmt: skip
"""What Temporal's server records of a page: one activity, and the end."""


def temporal_history() -> str:
    events = []
    for number, (name, attributes) in enumerate(HISTORY, start=1):
        words = [word.capitalize() for word in name.split("_")]
        field = "".join([words[0].lower(), *words[1:], "EventAttributes"])
        when = "2026-01-05T00:00:00Z"
        events.append({"eventId": f"{number}", "eventTime": when, "eventType": f"EVENT_TYPE_{name}", field: attributes})
    return json.dumps({"events": events})


async def test_temporal(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its server, which is not packaged: its sandbox runs the workflow, and its environment the activity."""
    pytest.importorskip("temporalio")
    from temporalio.client import WorkflowHistory
    from temporalio.testing import ActivityEnvironment
    from temporalio.worker import Replayer

    reader.write("page.py", "temporal_jobs.py")
    monkeypatch.syspath_prepend(str(reader.folder))
    monkeypatch.chdir(reader.folder)
    for name, value in reader.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("job", "page", "temporal_jobs"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import job
    import page
    import temporal_jobs

    await Replayer(workflows=[page.Page]).replay_workflow(WorkflowHistory.from_json("workflow", temporal_history()))

    ids = set[str]()

    class Client:
        async def start_workflow(self, workflow: Any, text: str, *, id: str, task_queue: str) -> None:
            assert (workflow, task_queue) == (page.Page.run, "basiq")
            assert id not in ids
            ids.add(id)
            activities.create_task(ActivityEnvironment().run(temporal_jobs.work, text))

    async with job.opened() as replay, job.opened() as coordinator, asyncio.TaskGroup() as activities:
        temporal_jobs.client, temporal_jobs.replay = Client(), replay
        report = await temporal_jobs.share(coordinator, temporal_jobs.send)
    assert (report.handled, report.finished, len(ids)) == (COUNT, True, COUNT / 10)
    assert len((reader.folder / "handled").read_text().splitlines()) == COUNT
