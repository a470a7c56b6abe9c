"""``basiq-async listen``: acknowledged is only what was shown, or what a service accepted."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from basiq_async.cli._run import on_signals  # private: in the loop of another system, which no option chooses

from ..support import served, wire
from ..support.command_line import COLD, run_command
from ..support.deliveries import OTHER_SECRET, SECRET, payload, signed
from ..support.real_time import PATIENCE
from .conftest import hanging, listening

BODY = payload("consent.revoked")
NAMED_SECRET = "whsec_bmFtZWQtaW4tYW4tb3B0aW9uLW9mLXRoZS1saW5l"


async def test_each_delivery_is_a_line_of_json_in_a_pipe_until_sigterm() -> None:
    async with listening() as listener:
        body = payload("consent.revoked")
        assert await listener.post(body, signed(body, message_id="msg_1")) == 204
        line = await listener.row()
        assert (line["status"], line["result"], line["event_type_id"]) == (204, "handled", "consent.revoked")
        assert await listener.post(body, signed(body, message_id="msg_1")) == 200
        assert (await listener.row())["result"] == "duplicate"
        assert await listener.post(body, signed(body, secret=OTHER_SECRET)) == 401
        line = await listener.row()
        assert (line["result"], line["reason"], line["delivery_id"]) == ("rejected", "no-match", None)
        assert await listener.end(signal.SIGTERM) == (0, [])


async def test_a_delivery_that_cannot_be_shown_any_more_is_not_acknowledged() -> None:
    reading, writing = os.pipe()
    async with listening(program=COLD, stdout=writing) as listener:
        os.close(writing)
        assert await listener.post(BODY, signed(BODY, message_id="msg_1")) == 204
        assert json.loads(os.read(reading, 65_536))["delivery_id"] == "msg_1"
        # Stopped, so that the program has the delivery before it can see the pipe close.
        listener.process.send_signal(signal.SIGSTOP)
        posting = asyncio.create_task(listener.post(BODY, signed(BODY, message_id="msg_2")))
        await asyncio.sleep(0.02)
        os.close(reading)
        listener.process.send_signal(signal.SIGCONT)
        with suppress(aiohttp.ClientError):  # no response is no acknowledgement either
            assert await posting == 503
        assert (await listener.end(), listener.shown) == ((0, []), "")


async def test_listening_ends_when_the_reader_leaves_though_nothing_comes() -> None:
    reading, writing = os.pipe()
    async with listening(program=COLD, stdout=writing) as listener:
        os.close(writing)
        os.close(reading)
        assert (await listener.end(), listener.shown) == ((0, []), "")


async def test_a_genuine_delivery_is_forwarded_as_it_came_and_the_services_response_returned() -> None:
    received, status = list[tuple[dict[str, str], bytes]](), 200

    async def handle(request: web.Request) -> web.Response:
        received.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return web.Response(status=status, text="from the service", headers={"Retry-After": "7"})

    async with served.serving(handle) as url, listening("--forward-to", url) as listener:
        odd = BODY.replace(b'"links"', b'\n  "links"')  # the raw bytes, not the same JSON again
        headers = signed(odd, message_id="msg_1")
        assert await listener.post(odd, headers) == 200
        line = await listener.row()
        assert (line["result"], line["forwarded_status"], line["forward_error"]) == ("handled", 200, None)
        status = 500
        assert await listener.post(odd, headers) == 500  # and it was not taken for a duplicate
        line = await listener.row()
        assert (line["result"], line["status"], line["forwarded_status"]) == ("not-accepted", 500, 500)
        assert await listener.post(odd, signed(odd, secret=OTHER_SECRET)) == 401
        assert (await listener.row())["result"] == "rejected"
        assert [body for _, body in received] == [odd, odd]
        assert {name: value for name, value in received[0][0].items() if name.startswith("webhook-")} == headers
        assert await listener.end(signal.SIGINT) == (0, [])


async def test_a_service_that_is_down_is_a_502_to_basiq() -> None:
    async with listening("--forward-to", "http://127.0.0.1:9/hook") as listener:
        assert await listener.post(BODY, signed(BODY)) == 502
        line = await listener.row()
        assert line["forwarded_status"] is None
        assert line["forward_error"].startswith("no response: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signals_need_nothing_that_windows_lacks(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("asyncio.unix_events._UnixSelectorEventLoop.add_signal_handler")
    received, before = asyncio.Queue[int](), signal.getsignal(number)
    with on_signals(received.put_nowait):
        os.kill(os.getpid(), number)
        async with asyncio.timeout(PATIENCE):
            assert await received.get() == number
    assert signal.getsignal(number) == before


async def test_a_signal_that_interrupts_no_system_call_wakes_an_idle_loop() -> None:
    received = asyncio.Queue[int]()

    def send() -> None:
        time.sleep(0.02)  # until the loop waits, in another thread than the one that gets the signal
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    with on_signals(received.put_nowait):
        sender = threading.Thread(target=send)
        began = time.monotonic()
        sender.start()
        async with asyncio.timeout(PATIENCE):
            assert await received.get() == signal.SIGTERM
        assert time.monotonic() - began < PATIENCE / 2  # and no limit woke the loop
        sender.join()


async def test_a_second_signal_ends_it_at_once_and_in_order_though_the_service_hangs() -> None:
    async with hanging() as (url, reached), listening("--forward-to", url) as listener:
        posting = asyncio.create_task(listener.post(BODY, signed(BODY)))
        await reached.wait()
        listener.process.send_signal(signal.SIGINT)
        await listener.hear("a second signal stops at once")
        assert await listener.end(signal.SIGINT) == (130, [])
        assert listener.shown.count("\n") == 1  # no connection is left open
        with suppress(aiohttp.ClientError):
            assert await posting != 200


async def test_a_secret_file_that_is_named_comes_before_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{OTHER_SECRET} {NAMED_SECRET}\n")
    secrets = {"environment": SECRET, "file": OTHER_SECRET, "also in the file": NAMED_SECRET}
    for options, accepted in (
        (("--secret-file", str(file)), {"file", "also in the file"}),  # the environment has a secret, too
        ((), {"environment"}),
    ):
        async with listening(*options) as listener:
            for name, secret in secrets.items():
                status = await listener.post(BODY, signed(BODY, secret=secret))
                assert (status < 300) is (name in accepted), (options, name, status)
    missing = await asyncio.to_thread(run_command, "listen", "--secret-file", str(tmp_path / "none"))
    assert (missing.exit_code, "cannot be read" in missing.stderr) == (2, True)


async def test_a_request_that_is_not_http_prints_no_traceback() -> None:
    async with listening() as listener:
        parts = urlsplit(listener.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(b"POST /basiq HTTP/1.1\r\nHost: x\r\nwebhook-id: \x1b[31m\r\n\r\n")
        assert b"400" in await reader.readline()
        writer.close()
        assert (await listener.end(signal.SIGTERM), listener.shown) == ((0, []), "")


async def answered(url: str, headers: dict[str, str], *lines: str) -> bytes:
    """Post the head of a request with a body that never comes, and return the status line of the response."""
    named = "\r\n".join([*(f"{name}: {value}" for name, value in headers.items()), *lines, "", ""])
    return await served.first_line(url, f"POST {{path}} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n{named}")


@pytest.mark.parametrize(
    ("changes", "lines", "status"),
    [
        (None, (), b"401"),
        ({"webhook-timestamp": "1"}, (), b"401"),
        ({"webhook-signature": "v1," + "A" * 4096}, (), b"401"),
        ({}, ("Content-Encoding: gzip",), b"415"),
        ({}, ("Content-Encoding: identity", "Content-Encoding: gzip"), b"415"),
        ({}, ("X-None: x",), None),
    ],
    ids=["no headers", "stale", "malformed", "compressed", "compressed in secret", "genuine"],
)
async def test_a_body_is_read_only_for_fresh_headers_and_never_decompressed(
    changes: dict[str, str] | None, lines: tuple[str, ...], status: bytes | None
) -> None:
    async with listening() as listener:
        headers = {} if changes is None else {**signed(BODY), **changes}
        asking = asyncio.create_task(answered(listener.url, headers, *lines))
        done, _ = await asyncio.wait([asking], timeout=PATIENCE if status else 0.05)
        if status is not None:
            assert status in asking.result()
        else:  # it waits for the body; the other cases would wait too if their bodies were read
            assert not done
            asking.cancel()
            await asyncio.wait([asking])
        assert await listener.post(BODY, signed(BODY, message_id="msg_2")) == 204


async def test_a_body_that_never_comes_does_not_keep_it_from_ending() -> None:
    async with listening() as listener:
        asking = asyncio.create_task(answered(listener.url, signed(BODY)))
        await asyncio.sleep(0.02)
        assert (await listener.end(signal.SIGTERM), listener.shown) == ((0, []), "")
        await asyncio.wait([asking])


async def forwarded(answer: bytes) -> tuple[int, list[tuple[str, str]], bytes, bytes]:
    """Have a delivery forwarded to a service with this raw answer. Return what Basiq gets, and what the service got."""
    asked, over = bytearray(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.extend(await reader.readuntil(b"\r\n\r\n"))
        with suppress(ConnectionError):
            for part in answer.split(b"|"):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.01)
        over.set()

    async with (
        wire.listening(serve) as port,
        listening("--forward-to", f"http://127.0.0.1:{port}/hook") as listener,
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.post(listener.url, data=BODY, headers=signed(BODY), skip_auto_headers=["Accept-Encoding"]) as found,
    ):
        body = await found.read()
        await over.wait()
        return found.status, list(found.headers.items()), body, bytes(asked)


async def test_the_services_response_comes_back_unchanged_and_whole() -> None:
    packed = gzip.compress(b"x" * 100)
    status, headers, body, asked = await forwarded(
        b"HTTP/1.1 418 Odd\r\nContent-Type: text/odd\r\nContent-Encoding: gzip\r\nX-Own: 1\r\nX-Own: 2\r\n"
        b"Connection: close, X-Hop\r\nX-Hop: 1\r\nContent-Length: %d\r\n\r\n%b" % (len(packed), packed)
    )
    assert (status, body) == (418, packed)
    assert {("Content-Type", "text/odd"), ("Content-Encoding", "gzip"), ("X-Own", "1"), ("X-Own", "2")} <= set(headers)
    assert "x-hop" not in {name.lower() for name, _ in headers}
    assert b"accept-encoding" not in asked.lower()  # Basiq did not ask for it either
    pieces = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n|3\r\nabc\r\n|3\r\ndef\r\n|0\r\n\r\n"
    status, _, body, _ = await forwarded(pieces)
    assert (status, body) == (200, b"abcdef")


async def test_a_response_that_is_too_large_keeps_its_status_and_loses_its_body() -> None:
    status, headers, body, _ = await forwarded(
        b"HTTP/1.1 202 Accepted\r\nContent-Type: text/odd\r\nX-Own: 1\r\nContent-Length: 2000000\r\n\r\n"
        + b"x" * 2_000_000
    )
    assert (status, body) == (202, b"")
    assert ("X-Own", "1") in headers
    assert ("Content-Type", "text/odd") not in headers
