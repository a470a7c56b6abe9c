"""The page of a replay over HTTP, on this machine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from aiohttp import web

from ..._tasks import see_through
from ..._ui._errors import ControlError
from ..._ui._guard import Guard
from ..._ui._respond import make_app, read_json, respond
from ...errors import BasiqError, ConfigurationError
from ..checkpoints._base import DeadLetter
from ._plot import draw
from ._watched import Watched

if TYPE_CHECKING:
    from .._replay import Replay

ROOT = "/replay"
Json = dict[str, Any]


@asynccontextmanager
async def serve_page(
    replay: Replay, host: str = "127.0.0.1", port: int = 0, *, allowed_hosts: Iterable[str] = ()
) -> AsyncGenerator[str]:
    """Serve a page that shows the runs of a replay. Yields its address, with the token that opens it.

    .. code-block:: python

        async with serve_page(replay) as url:
            print(url)
            await replay.run()

    It shows the progress, the rate over time, and the dead letters with their errors, which it can retry and drop
    between runs. Whoever opens it needs the token, on this machine too: it shows what a checkpoint keeps from other
    users. A browser that opened the address keeps it as a cookie; a program sends it as ``X-Fake-Token``. Needs the
    extra ``ui``. Raises ``ConfigurationError`` where that is missing.
    """
    try:
        from ..._ui._page import Page
    except ModuleNotFoundError as error:
        raise ConfigurationError("a page needs the extra ui: pip install 'basiq-async[ui]'") from error
    watched = Watched(replay)
    guard = Guard.make(host, allowed_hosts, None, root=ROOT, everybody=True)
    app = make_app(guard)
    app.add_routes(_routes(watched))

    async def show(query: Mapping[str, str]) -> Json:
        return await _show(watched)

    async def letter(id: str) -> Json:
        return {"letter": _show_letter(await watched.letter(id), whole=True)}

    Page(
        ROOT,
        guard.token,
        Path(__file__).parent / "templates",
        ("progress", "plot", "letters"),
        show,
        watched.watch,
        lambda: {"revision": [watched.revision, replay.running], "texts": {}},
        {"letter": letter},
        lambda context: {"letters": len(context["letters"])},
    ).add_to(app)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(lambda: see_through(runner.cleanup))
        stack.push_async_callback(lambda: see_through(watched.aclose))
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        stack.callback(replay._listen(watched.hear))
        address = runner.addresses[0]
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        yield f"http://{shown}:{address[1]}{ROOT}/?token={guard.token}"


def _routes(watched: Watched) -> list[web.RouteDef]:
    async def state(request: web.Request) -> web.Response:
        return respond(_show_state(watched))

    async def letters(request: web.Request) -> web.Response:
        return respond({"items": [_show_letter(each) for each in await watched.letters()]})

    async def letter(request: web.Request) -> web.Response:
        return respond(_show_letter(await watched.letter(request.query.get("id", "")), whole=True))

    async def retry(request: web.Request) -> web.Response:
        watched.retry(_read_ids(await read_json(request)))
        return respond({"started": True})

    async def drop(request: web.Request) -> web.Response:
        ids = _read_ids(await read_json(request))
        if ids is None:
            raise ControlError(400, "not-valid", "ids is missing: the dead letters to drop")
        try:
            return respond({"dropped": await watched.drop(ids)})
        except BasiqError as error:
            raise ControlError(409, "refused", str(error)) from error

    async def stop(request: web.Request) -> web.Response:
        watched.replay.stop()
        return respond({"stopping": watched.replay.running})

    return [
        web.get(f"{ROOT}/state", state),
        web.get(f"{ROOT}/dead-letters", letters),
        web.get(f"{ROOT}/dead-letter", letter),
        web.post(f"{ROOT}/dead-letters/retry", retry),
        web.post(f"{ROOT}/dead-letters/drop", drop),
        web.post(f"{ROOT}/stop", stop),
    ]


def _read_ids(body: Mapping[str, object]) -> list[str] | None:
    ids = body.get("ids")
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
        raise ControlError(400, "not-valid", "ids has to be an array of texts")
    return [str(each) for each in ids]


async def _show(watched: Watched) -> Json:
    try:
        letters = [_show_letter(each) for each in await watched.letters()]
    except ControlError:
        letters = []  # between two states: the next change shows them
    return {"state": _show_state(watched), "plot": draw(tuple(watched.rates)), "letters": letters}


def _show_state(watched: Watched) -> Json:
    job, progress = watched.replay.job, watched.progress
    return {
        "job": {"webhookId": job.webhook_id, "filter": job.filter, "source": job.source, "selection": job.selection},
        "running": watched.replay.running,
        "progress": None if progress is None else attrs.asdict(progress),
        "error": watched.wrong,
    }


def _show_letter(letter: DeadLetter, *, whole: bool = False) -> Json:
    payload = letter.message.get("payload")
    type_id = payload.get("eventTypeId") if isinstance(payload, Mapping) else letter.message.get("eventTypeId")
    shown: Json = {
        "number": letter.number,
        "id": letter.id,
        "error": letter.error,
        "failedAt": letter.failed_at.isoformat(),
        "eventTypeId": type_id if isinstance(type_id, str) else None,
    }
    return {**shown, "message": dict(letter.message)} if whole else shown
