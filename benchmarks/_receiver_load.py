"""The sender for the benchmarks of receivers: prepared requests over kept-alive connections, without HTTP library."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from basiq_async.receiver import sign

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_c29tZSBvdGhlciBzaWduaW5nIHNlY3JldA=="


def request(number: object, *, event_type: str = "user.created", secret: str = SECRET) -> bytes:
    """Return one delivery as bytes. Its body has about 300 bytes, as Basiq's bodies have."""
    links = {
        "event": f"https://au-api.basiq.io/events/{number}",
        "eventEntity": "https://au-api.basiq.io/users/6a52015e-5c9b-4d7f-8d4a-0e3ac6b0f4f1",
    }
    body = json.dumps({"eventTypeId": event_type, "eventId": f"event-{number}", "links": links}).encode().ljust(300)
    headers = {
        "Host": "127.0.0.1",
        "User-Agent": "benchmark",
        "Accept": "*/*",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **sign(secret, f"msg_{number}", datetime.now(UTC), body),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return b"POST /basiq HTTP/1.1\r\n" + head.encode() + b"\r\n" + body


@contextlib.contextmanager
def server(
    kind: str, *arguments: str, program: str = "_receiver_server.py"
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a server process; yield it and its port."""
    command = [sys.executable, str(Path(__file__).with_name(program)), kind, "--secret", SECRET]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.terminate()
            process.wait(30)


async def connection(port: int, requests: Iterator[bytes], statuses: list[int], latencies: list[float]) -> None:
    """Send one request after another, until none are left."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for sent in requests:
            began = time.perf_counter()
            writer.write(sent)
            head = await reader.readuntil(b"\r\n\r\n")
            latencies.append(time.perf_counter() - began)
            statuses.append(int(head[9:12]))
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            if length.strip() not in (b"", b"0"):
                await reader.readexactly(int(length))
    finally:
        writer.close()


async def load(port: int, requests: Sequence[bytes], connections: int) -> tuple[float, list[int], list[float]]:
    """Send all requests over so many connections. Return the seconds, the statuses and the latencies."""
    statuses: list[int] = []
    latencies: list[float] = []
    waiting = iter(requests)
    began = time.perf_counter()
    await asyncio.gather(*(connection(port, waiting, statuses, latencies) for _ in range(connections)))
    return time.perf_counter() - began, statuses, latencies


async def load_at(port: int, requests: Sequence[bytes], rate: float) -> tuple[list[int], list[float]]:
    """Send so many requests a second, each when its time has come. Return the statuses and the latencies.

    A latency counts from that time on: a service that falls behind does not make its own load lighter.
    """
    statuses: list[int] = []
    latencies: list[float] = []
    began = time.perf_counter()

    async def send(number: int, sent: bytes) -> None:
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await connection(port, iter([sent]), statuses, [])
        latencies.append(time.perf_counter() - due)

    await asyncio.gather(*(send(*each) for each in enumerate(requests)))
    return statuses, latencies


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def resident(pid: int) -> float:
    """Return the memory of a process, in megabytes (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024
