"""The shell lines that do the same as a row of the page shows."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import attrs

_LEFT_OUT = frozenset({"host", "content-length", "accept-encoding", "connection", "user-agent", "accept"})
_HIDDEN = "(hidden)"


@attrs.frozen
class Lines:
    """A line for curl, and one for this library's command where there is one."""

    curl: str
    command: str | None = None


def line_for_request(request: Mapping[str, Any]) -> Lines:
    """The line that sends a request again, without its credential."""
    parts = ["curl", "-X", request["method"], request["url"]]
    for name, value in request["headers"].items():
        if name.lower() == "authorization":
            scheme = "Basic $BASIQ_API_KEY" if request["path"] == "/token" else "Bearer $BASIQ_TOKEN"
            parts += ["-H", f"Authorization: {scheme}"]
        elif name.lower() not in _LEFT_OUT and value != _HIDDEN:
            parts += ["-H", f"{name}: {value}"]
    if request["body"]:
        parts += ["--data-raw", request["body"]]
    return Lines(_join(parts))


def line_for_message(message: Mapping[str, Any], root: str) -> Lines:
    """The lines that deliver a message once more."""
    return Lines(
        _join(["curl", "-X", "POST", f"{root}/messages/{message['id']}/redeliver"]),
        _join(["basiq-async", "mock", "redeliver", message["id"]]),
    )


def line_for_webhook(webhook: Mapping[str, Any], root: str) -> Lines:
    """The lines that show a webhook's secret."""
    return Lines(
        _join(["curl", "-X", "POST", f"{root}/webhooks/{webhook['id']}/secret"]),
        _join(["basiq-async", "mock", "secret", webhook["id"]]),
    )


def _join(parts: list[str]) -> str:
    # A variable is to be expanded by the shell: only there are double quotes right.
    return " ".join(f'"{part}"' if part.startswith("Authorization: ") else shlex.quote(part) for part in parts)
