"""The mock's page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from ..._ui._page import Page, show_clock
from ..control._openapi import ROOT
from ..control._operation import Control
from ._sections import Context, show_all, show_message, show_request


def add_page(app: web.Application, control: Control, token: str) -> None:
    """Serve the page, and what it is made of, below ``/_fake/``."""

    async def show(query: Mapping[str, str]) -> Context:
        return await show_all(control, query)

    async def message(id: str) -> Context:
        return await show_message(control, id)

    async def request(id: str) -> Context:
        return await show_request(control, id)

    def news() -> Mapping[str, object]:
        now = show_clock(control.fake.now().isoformat())
        return {"revision": control.fake.revision, "texts": {"now": now}}

    Page(
        ROOT,
        token,
        Path(__file__).parent / "templates",
        ("time", "webhooks", "faults", "messages", "requests", "violations"),
        show,
        control.fake.watch,
        news,
        {"message": message, "request": request},
        _counts,
    ).add_to(app)


def _counts(context: Context) -> Mapping[str, int]:
    state: Any = context["state"]
    return {name: state[name] for name in ("messages", "requests", "violations")}
