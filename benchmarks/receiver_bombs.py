"""What do hostile bodies cost a receiver, and how long do genuine deliveries wait meanwhile?

Bombs are eight POSTs of about 600 KiB that decompress to 600 MiB, with a new timestamp and a wrong signature. Another
150 POSTs send nearly 1 MiB and then stall. Processor time and memory are those of the server process. The wait of
genuine deliveries is measured in turns with and without bombs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import zlib
from datetime import UTC, datetime

from basiq_async.receiver import sign
from benchmarks._harness import Figure, figure, processor_time, ratios
from benchmarks._receiver_load import OTHER, percentile, request, resident, server

_BOMBS = 8
_INFLATED = 600 * 2**20
_STALLED = 150
_GENUINE = 200


def bomb() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = bytes(2**20)
    return b"".join([*(packer.compress(block) for _ in range(_INFLATED // len(block))), packer.flush()])


def post(length: int, *lines: str) -> bytes:
    named = [f"{name}: {value}" for name, value in sign(OTHER, "msg_bomb", datetime.now(UTC), b"").items()]
    start = ["POST /basiq HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {length}", *named, *lines, "", ""]
    return "\r\n".join(start).encode()


async def throw(port: int, body: bytes) -> None:
    """Send a bomb until the server closes the connection, for at most 10 s."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(post(len(body), "Content-Encoding: gzip") + body)
                await reader.read()
            finally:
                writer.close()


async def waits(port: int, name: str) -> list[float]:
    """Send genuine deliveries one after the other, and return their waits in seconds."""
    found: list[float] = []
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in range(_GENUINE):
        began = time.perf_counter()
        writer.write(request(f"{name}-{number}"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 204 " in head, head
        found.append(time.perf_counter() - began)
    writer.close()
    return found


async def stall(port: int) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(post(2**20) + b"x" * (2**20 - 1))
    return writer


async def measure(count: int = 3) -> list[Figure]:
    body = bomb()
    processor: list[float] = []
    calm: list[list[float]] = []
    beside: list[list[float]] = []
    with server("receiver") as (process, port):
        await waits(port, "warm")
        for number in range(count):
            calm.append(await waits(port, f"calm-{number}"))
            before = processor_time(process.pid)
            await waits(port, f"own-{number}")
            own = processor_time(process.pid) - before
            before = processor_time(process.pid)
            bombs = asyncio.gather(*(throw(port, body) for _ in range(_BOMBS)))
            beside.append(await waits(port, f"beside-{number}"))
            await bombs
            await asyncio.sleep(0.5)
            processor.append(processor_time(process.pid) - before - own)
        before_stalled = resident(process.pid)
        writers = await asyncio.gather(*(stall(port) for _ in range(_STALLED)))
        await asyncio.sleep(3)
        grown = resident(process.pid) - before_stalled
        for writer in writers:
            writer.close()
    print(f"a bomb of {len(body) / 1024:.0f} KiB; processor time of {_BOMBS}: {[f'{one:.2f} s' for one in processor]}")
    print(f"p50, p99 of the wait: {[_middle(one) for one in calm]} without, {[_middle(one) for one in beside]} beside")
    print(f"{_STALLED} stalled posts: {grown:.0f} MB")
    return [
        figure(
            "the mean wait of a delivery beside eight compression bombs",
            "one without them",
            ratios([_mean(one) for one in beside], [_mean(one) for one in calm]),
            "<= 1.2",
            what="time",
        )
    ]


def _mean(one: list[float]) -> float:
    return sum(one) / len(one)


def _middle(one: list[float]) -> str:
    return f"{1000 * percentile(one, 0.5):.1f}, {1000 * percentile(one, 0.99):.1f} ms"


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
