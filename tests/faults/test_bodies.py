"""Bodies that are no JSON, or too much of it; with both decoders."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import subprocess
import sys
import zlib
from asyncio.subprocess import PIPE
from collections.abc import Callable, Iterator

import pytest

from basiq_async import (
    BadRequestError,
    TransportError,
    Webhook,
)
from tests.support.environment import unmeasured
from tests.support.outcomes import client_of, outcome
from tests.support.wire import KEY, WEBHOOK, Step, Wire, closing, http, trickling


async def test_a_deep_error_body_can_be_shown() -> None:
    body = f'{{"data":[{{"code":"c","detail":"d","more":{"[" * 900 + "]" * 900}}}]}}'
    async with Wire(http(400, body)) as wire, client_of(wire) as client:
        got = await outcome(client.webhooks.get("w1"))
        assert (type(got), got.code) == (BadRequestError, "c")
        assert json.dumps(got.errors)


async def test_a_broken_character_in_an_error_body_does_not_cost_its_correlation_id() -> None:
    body = b'{"correlationId":"c-1","data":[{"code":"c","detail":"caf\xe9"}]}'
    async with Wire(http(400, body)) as wire, client_of(wire) as client:
        got = await outcome(client.webhooks.get("w1"))
        assert (type(got), got.code, got.correlation_id, got.detail) == (BadRequestError, "c", "c-1", "caf\ufffd")


async def test_a_huge_body_of_an_error_is_not_read_as_json() -> None:
    body = b'{"data":[{"code":"c"}],"x":"' + b"x" * 2_000_000 + b'"}'
    async with Wire(http(400, body)) as wire, client_of(wire) as client:
        got = await outcome(client.webhooks.get("w1"))
        assert (type(got), got.code) == (BadRequestError, None)


async def test_a_body_announced_above_the_limit_is_refused_before_it_comes() -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {64 * 2**20 + 1}\r\n\r\n".encode()
    async with Wire(closing(head + b" "), http(200, json.dumps(WEBHOOK))) as wire, client_of(wire) as client:
        got = await outcome(client.webhooks.get("w1"))
        assert type(got) is TransportError
        assert "max_body_size" in str(got)
        assert isinstance(await outcome(client.webhooks.get("w1")), Webhook)


MIB = b" " * 2**20
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def bomb() -> bytes:
    """1 GiB in 1 MiB: the same block 1,024 times. Its checksum is wrong, and must not be reached."""
    packer = zlib.compressobj(9, wbits=31)
    head = packer.compress(MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    return http(200, head + block * 1023 + packer.flush(), "Content-Encoding: gzip")


def text_of_60_mb(end: str) -> bytes:
    return http(200, b'{"id":"w1","url":"https://example.com","name":"' + b"x" * (60 * 2**20) + end.encode() + b'"}')


HEAVY: dict[str, tuple[Callable[[], Step], set[str]]] = {
    "chunks without end": (lambda: trickling(CHUNKED, b"100000\r\n" + MIB + b"\r\n", every=0), {"TransportError"}),
    "gzip bomb": (bomb, {"TransportError"}),
    "gzip of many members": (
        lambda: http(200, gzip.compress(b"") * 200_000, "Content-Encoding: gzip"),
        {"ResponseDecodeError", "ConnectionFailedError"},
    ),
    "one header without end": (
        lambda: trickling(b"HTTP/1.1 200 OK\r\nX: ", MIB, every=0),
        {"ConnectionFailedError", "RequestTimeoutError"},
    ),
    "an extension without end": (
        lambda: trickling(CHUNKED + b"5;x=", MIB, every=0),
        {"ConnectionFailedError", "RequestTimeoutError"},
    ),
    "trailers without end": (
        lambda: trickling(CHUNKED + b"0\r\n", b"X: a\r\n" * 10_000, every=0),
        {"ConnectionFailedError", "RequestTimeoutError"},
    ),
    "60 MB of brackets": (lambda: http(200, b'{"data":[' + b"[]," * (20 * 2**20) + b"1]}"), {"ResponseDecodeError"}),
    "60 MB of text": (lambda: text_of_60_mb(""), {"Webhook"}),
    "60 MB of text with an emoji": (lambda: text_of_60_mb("\U0001f600"), {"ResponseDecodeError"}),
    "an error of 60 MB": (lambda: http(400, b'{"data":[' + b"[]," * (20 * 2**20) + b"1]}"), {"BadRequestError"}),
    "a token answer of 60 MB": (lambda: http(200, b'{"a":["' + b"x" * (60 * 2**20) + b'"]}'), {"ResponseDecodeError"}),
}
CLIENT = """
import asyncio, os, sys
import basiq_async._wire.codec, basiq_async.transports.aiohttp
from basiq_async import BasiqClient, BasiqError, RetryPolicy


async def main(url, key, timeout):
    async with BasiqClient(key, base_url=url, timeout=float(timeout), retry=RetryPolicy(max_retries=0)) as client:
        try:
            return type(await client.webhooks.get("w1")).__name__
        except BasiqError as exc:
            return type(exc).__name__


for line in sys.stdin:
    # A process for each call: what an earlier one left in the memory counts for none.
    if not (child := os.fork()):
        decoder, *words = line.split()
        if decoder == "json":
            basiq_async._wire.codec.default_loads = lambda: basiq_async._wire.codec._strict_loads
        name = asyncio.run(main(*words))
        with open("/proc/self/status") as status:
            print(name, next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM")), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def program() -> Iterator[subprocess.Popen[str]]:
    """It makes one call for each line, and says the name of its result or error, and the peak of its memory in MB."""
    command = [sys.executable, "-c", CLIENT]
    with subprocess.Popen(
        command, stdin=PIPE, stdout=PIPE, stderr=subprocess.STDOUT, text=True, env=unmeasured()
    ) as started:
        yield started


def call(program: subprocess.Popen[str], *words: str) -> str:
    assert program.stdin is not None
    assert program.stdout is not None
    print(*words, file=program.stdin, flush=True)
    return program.stdout.readline()


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak is read from /proc")
@pytest.mark.parametrize("case", HEAVY)
async def test_no_answer_takes_more_memory_than_400_mb(case: str, program: subprocess.Popen[str]) -> None:
    make, allowed = HEAVY[case]
    step = make()
    # Where no time limit may end it, the load of the machine must not do so either.
    timeout = "2" if "RequestTimeoutError" in allowed else "100"
    tokens = [step] if isinstance(step, bytes) and b'{"a":[' in step[:200] else []
    for decoder in ("orjson", "json") if "Webhook" in allowed else ("json",):
        async with Wire(step, tokens=tokens) as wire:
            got, peak = (await asyncio.to_thread(call, program, decoder, wire.url, KEY, timeout)).split()
            await wire.quiet()
        assert got in allowed
        assert int(peak) < 400, f"{peak} MB"
